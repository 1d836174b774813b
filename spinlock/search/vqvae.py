"""The VQ-VAE as a trainable."""

from typing import Any

from typing_extensions import override

from spinlock.config import Config
from spinlock.data import open_dataset
from spinlock.search.trained import Trained
from spinlock.training.config import VQVAETraining
from spinlock.training.counting import vqvae_footprint
from spinlock.training.footprint import Footprint

_TERMS = ("reconstruction", "commitment", "orthogonality", "informativeness", "topography")
_QUALITY = ("reconstruction_quality", "topography", "utilization")


class VQVAE(Trained):
    """The tokenizer, on features of ground-truth trajectories."""

    name = "vqvae"
    model = VQVAETraining
    metrics = (
        *("train/total", *(f"train/{term}" for term in _TERMS)),
        *(f"val/{term}" for term in _TERMS),
        *("val/loss", "val/relative_commitment"),
        *(f"quality/{name}" for name in _QUALITY),
        *("quality/perplexity", "quality/code_cosine", "quality/category_orthogonality"),
        "quality/composite",
    )
    columns = ("quality/composite", *(f"quality/{name}" for name in _QUALITY))
    weighed = {  # noqa: RUF012
        "train/total": (
            *("model.commitment_cost", "model.orthogonality_weight"),
            *("model.informativeness_weight", "model.topo_weight"),
        ),
        "quality/composite": (
            *("checkpoint.loss_weight", "checkpoint.topo_weight", "checkpoint.quality_weight"),
        ),
    }

    @override
    def facts(self, config: Config) -> dict[str, Any]:
        """The fingerprint of the dataset."""
        return {"data": open_dataset(self.own(config).data.path).info.fingerprint}

    @override
    def footprint(self, config: Config) -> Footprint:
        run = self.own(config)
        assert isinstance(run, VQVAETraining)
        return vqvae_footprint(run)
