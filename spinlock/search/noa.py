"""The NOA as a trainable."""

from typing import Any

from typing_extensions import override

from spinlock.config import Config
from spinlock.search.trained import Trained
from spinlock.training.config import NOATraining
from spinlock.training.guards import Guard
from spinlock.training.inputs import open_inputs


class NOA(Trained):
    """The three-loss NOA against a frozen tokenizer."""

    name = "noa"
    model = NOATraining
    metrics = (
        *("train/total", "train/traj", "train/commit", "train/latent"),
        *("val/traj", "val/commit", "val/latent"),
    )
    columns = ("val/traj", "val/commit", "val/latent")
    weighed = {"train/total": ("loss.lambda_traj", "loss.lambda_commit", "loss.lambda_latent")}  # noqa: RUF012

    @override
    def facts(self, config: Config) -> dict[str, Any]:
        """Fingerprints of the dataset and of the tokenizer's weights."""
        run = self.own(config)
        assert isinstance(run, NOATraining)
        return dict(open_inputs(run).facts)

    @override
    def unsound(self, guard: Guard) -> str | None:
        return None
