"""From the U-AFNO's bottleneck to the tokenizer's latent space."""

from jaxtyping import Float
from torch import Tensor, nn

HIDDEN = 512


class LatentProjector(nn.Module):
    """Spatially averaged bottlenecks of S states -> their estimates of the tokenizer's L latents.

    The prototype normalized across the batch, kept dropout, and never gave these weights to its
    optimizer. Here each sample is normalized alone, so that micro-batches give the gradient of
    the whole batch, and the weights belong to the trained task.
    """

    def __init__(self, bottleneck_channels: int, latent_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(bottleneck_channels, HIDDEN),
            nn.LayerNorm(HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, latent_dim),
        )

    def forward(self, pooled: Float[Tensor, "B S D"]) -> Float[Tensor, "B S L"]:
        latents: Tensor = self.layers(pooled)
        return latents
