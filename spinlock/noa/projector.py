"""From the U-AFNO's bottleneck, or from features, to the tokenizer's latent space."""

from jaxtyping import Float
from torch import Tensor, nn

HIDDEN = 512


class LatentProjector(nn.Module):
    """A small MLP to the tokenizer's L latents, from D averaged bottlenecks or features.

    The prototype normalized across the batch, kept dropout, and never gave these weights to its
    optimizer. Here each sample is normalized alone, so that micro-batches give the gradient of
    the whole batch, and the weights belong to the trained task.
    """

    def __init__(self, inputs: int, latent_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, HIDDEN),
            nn.LayerNorm(HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, latent_dim),
        )

    def forward(self, inputs: Float[Tensor, "*items D"]) -> Float[Tensor, "*items L"]:
        latents: Tensor = self.layers(inputs)
        return latents
