"""Any VQ-VAE in the tokenizer's place: what alignment asks of one, and an answer to all of it.

Alignment needs latents with a gradient to the features; quantized vectors only for the commitment.
So a stand-in must have `.encode()`, and may have `.quantize()` and `.decode()`. How wide its
latents are is asked from it, by encoding zeros. Letters: B items, D features, V all latents'
entries.
"""

import copy
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spinlock.errors import ArtifactError
from spinlock.vqvae.model import Quantized

PROBE_BATCH = 3


@runtime_checkable
class Encodes(Protocol):
    """From standardized features [B, D] to latents: one [B, E_q] per codebook."""

    def encode(self, standardized: Tensor, /) -> list[Tensor]: ...


@runtime_checkable
class Quantizes(Protocol):
    """From latents to their codes: vectors of the same shapes, and one code each."""

    def quantize(self, latents: list[Tensor], /) -> Quantized: ...


@runtime_checkable
class Decodes(Protocol):
    """From one vector per codebook to standardized features [B, D]."""

    def decode(self, vectors: list[Tensor], /) -> Tensor: ...


class StandIn(nn.Module):
    """A frozen copy of `vqvae`, reading `features` standardized features.

    It stays in eval mode. `latent_dims` are the widths of its latents, `quantizes` is whether it
    has codes, `decodes` whether it makes features of their vectors. Raises ArtifactError, with
    what is wrong, for a module that alignment cannot use: without `.encode()`; whose latents are
    not a list of finite [B, E] tensors, of equally many entries at every call; or that passes no
    gradient to the features.
    """

    def __init__(self, vqvae: nn.Module, features: int) -> None:
        super().__init__()
        self.name = type(vqvae).__name__
        if not isinstance(vqvae, Encodes):
            raise self._refused(
                "has no method encode(standardized), from features [B, D] to a list of latents"
            )
        self.features = features
        self.quantizes, self.decodes = isinstance(vqvae, Quantizes), isinstance(vqvae, Decodes)
        self.latent_dims: tuple[int, ...] = ()
        self.vqvae = copy.deepcopy(vqvae)
        self.requires_grad_(False)
        self.train(False)
        self._ask()

    @property
    def latent_dim(self) -> int:
        """Entries of all latents together, V."""
        return sum(self.latent_dims)

    def train(self, mode: bool = True) -> "StandIn":
        """Stay in eval mode: dropout, or codebooks that move, would change what it was."""
        del mode
        return super().train(False)

    def forward(self, standardized: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
        """All latents side by side, with a gradient to the features.

        Raises ArtifactError when they are others than those that it was asked for.
        """
        return torch.cat(self._encode(standardized), dim=1)

    def quantize(self, latents: Float[Tensor, "B V"]) -> Quantized:
        """Each latent's code and its vector, without gradient.

        Raises ArtifactError when the module has no `quantize`, or one with other answers.
        """
        if not isinstance(self.vqvae, Quantizes):
            raise self._refused("has no method quantize(latents): it has no codes")
        split = list(torch.split(latents.detach(), [*self.latent_dims], dim=1))
        found = self.vqvae.quantize(split)
        if not isinstance(found, Quantized):
            raise self._refused(
                f"gives a {type(found).__name__} from quantize(); expected a Quantized"
            )
        expected = [latent.shape for latent in split]
        if [vector.shape for vector in found.vectors] != expected:
            raise self._refused("gives vectors from quantize() of other shapes than the latents")
        if found.codes.shape != (len(latents), len(split)):
            raise self._refused(
                f"gives codes of shape {tuple(found.codes.shape)} from quantize(); expected one "
                f"per item and latent, {(len(latents), len(split))}"
            )
        return Quantized([vector.detach() for vector in found.vectors], found.codes)

    @torch.enable_grad()
    def _ask(self) -> None:
        """Learn the latents' widths, and try everything that alignment will rely on."""
        like = next(self.vqvae.parameters(), torch.empty(0))
        zeros = torch.zeros(PROBE_BATCH, self.features, device=like.device, dtype=torch.float32)
        self.latent_dims = tuple(latent.shape[1] for latent in self._encode(zeros))
        # Zeros may be where a ReLU has no slope, and one item where a batch is taken for features.
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(zeros.shape, generator=generator).to(like.device).requires_grad_()
        self._encode(features[:1])
        latents = self._encode(features)
        if not all(latent.isfinite().all() for latent in (*self._encode(zeros), *latents)):
            raise self._refused("gives latents that are not finite")
        self._ask_gradient(features, latents, generator)
        if self.quantizes:
            vectors = self.quantize(torch.cat(latents, dim=1)).vectors
            if not all(vector.isfinite().all() for vector in vectors):
                raise self._refused("gives vectors from quantize() that are not finite")

    def _ask_gradient(
        self, features: Tensor, latents: list[Tensor], generator: torch.Generator
    ) -> None:
        total = torch.zeros_like(features)
        for index, latent in enumerate(latents):
            found = None
            if latent.requires_grad:
                # In a random direction: a normalized latent's entries have a constant sum.
                along = torch.randn(latent.shape, generator=generator).to(latent)
                found = torch.autograd.grad(
                    (latent * along).sum(), features, retain_graph=True, allow_unused=True
                )[0]
            if found is None:
                raise self._refused(f"passes no gradient from latent {index} to the features")
            total = total + found
        if not total.isfinite().all():
            raise self._refused("passes a gradient to the features that is not finite")
        if not total.any():
            raise self._refused("passes a gradient to the features that is zero everywhere")

    def _encode(self, standardized: Tensor) -> list[Tensor]:
        if standardized.shape[1:] != (self.features,):
            raise self._refused(f"reads {self.features} features, found {standardized.shape[1]}")
        try:
            latents = self.vqvae.encode(standardized)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise self._refused(
                f"fails on {len(standardized)} items of {self.features} features: {error}"
            ) from error
        if not isinstance(latents, list) or not latents:
            found = "an empty list" if isinstance(latents, list) else f"a {type(latents).__name__}"
            raise self._refused(f"gives {found} from encode(); expected a list of latents")
        for index, latent in enumerate(latents):
            if not isinstance(latent, Tensor) or latent.ndim != 2:
                shape = tuple(latent.shape) if isinstance(latent, Tensor) else type(latent).__name__
                raise self._refused(f"gives as latent {index} {shape}; expected a tensor [B, E]")
            if len(latent) != len(standardized):
                raise self._refused(
                    f"gives latent {index} for {len(latent)} items when it is given "
                    f"{len(standardized)}"
                )
        widths = tuple(latent.shape[1] for latent in latents)
        if self.latent_dims and widths != self.latent_dims:
            raise self._refused(
                f"gives latents of {widths} entries, and before of {self.latent_dims}"
            )
        return latents

    def _refused(self, what: str) -> ArtifactError:
        return ArtifactError(f"{self.name} cannot stand in for the tokenizer's VQ-VAE: it {what}.")
