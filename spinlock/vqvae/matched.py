"""A VQ-VAE trained on other features, aligned with by ours: padded with zeros, or truncated.

The way of seeds/noa-vqvae-alignment.md for checkpoints of the research prototype, whose features
are not computed here. Its statistics came from each batch; here ours are standardized once, over
the ground truth. The columns do not mean what the VQ-VAE was trained on: L_commit and L_latent
then say how steady a rollout is in its eyes, not what it means. Letters as in `standin.py`.
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from spinlock.features import FeatureConfig, Standardizer, extract
from spinlock.vqvae.standin import Decodes, StandIn
from spinlock.vqvae.tokenizer import Tokenized


class MatchedTokenizer(nn.Module):
    """A frozen stand-in behind our features, in the tokenizer's place."""

    def __init__(
        self, stand_in: StandIn, feature_config: FeatureConfig, standardizer: Standardizer
    ) -> None:
        super().__init__()
        self.stand_in = stand_in
        self.feature_config = feature_config
        self.standardizer = copy.deepcopy(standardizer)

    @property
    def latent_dim(self) -> int:
        """Entries of all latents together, V."""
        return self.stand_in.latent_dim

    @property
    def inputs(self) -> int:
        """Features that the VQ-VAE reads, D."""
        return self.stand_in.features

    def forward(self, trajectory: Float[Tensor, "B T C H W"]) -> Tokenized:
        """Without codes the latents are their own quantization."""
        standardized = self.standardizer(extract(trajectory, self.feature_config))
        # A negative padding truncates.
        features = F.pad(standardized, (0, self.inputs - standardized.shape[1]))
        latents = self.stand_in(features)
        if not self.stand_in.quantizes:
            none = torch.empty((len(latents), 0), dtype=torch.long, device=latents.device)
            return Tokenized(features, latents, latents.detach(), none)
        found = self.stand_in.quantize(latents)
        return Tokenized(features, latents, torch.cat(found.vectors, 1), found.codes)

    def reconstruct(self, flat: Float[Tensor, "B V"]) -> Float[Tensor, "B D"]:
        """The VQ-VAE's inputs from all vectors side by side."""
        vqvae = self.stand_in.vqvae
        if not isinstance(vqvae, Decodes):
            raise TypeError(f"{self.stand_in.name} does not decode")
        return vqvae.decode(list(flat.split([*self.stand_in.latent_dims], dim=1)))
