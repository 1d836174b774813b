"""The NOA as a trainable."""

from typing import Any

from typing_extensions import override

from spinlock.config import Config
from spinlock.search.trained import Trained
from spinlock.training.config import NOATraining
from spinlock.training.counting import noa_footprint
from spinlock.training.footprint import Footprint
from spinlock.training.inputs import open_inputs
from spinlock.training.losses import TERMS

ALWAYS = ("traj", "commit", "latent")


class NOA(Trained):
    """The NOA against a frozen tokenizer, with whichever loss terms have a weight."""

    name = "noa"
    model = NOATraining
    metrics = ("train/total", *(f"{part}/{term}" for part in ("train", "val") for term in TERMS))
    columns = tuple(f"val/{term}" for term in ALWAYS)
    weighed = {"train/total": tuple(f"loss.lambda_{term}" for term in TERMS)}  # noqa: RUF012
    optional = {  # noqa: RUF012
        f"{part}/{term}": f"loss.lambda_{term}"
        for part in ("train", "val")
        for term in TERMS
        if term not in ALWAYS
    }

    @override
    def facts(self, config: Config) -> dict[str, Any]:
        """Fingerprints of the dataset and of the tokenizer's weights."""
        run = self.own(config)
        assert isinstance(run, NOATraining)
        return dict(open_inputs(run).facts)

    @override
    def footprint(self, config: Config) -> Footprint:
        run = self.own(config)
        assert isinstance(run, NOATraining)
        return noa_footprint(run)
