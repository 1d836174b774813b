"""The research prototype's VQ-VAE, for use as it was trained: frozen, in eval mode.

Each category has an encoder to a common embedding and a projection per level, each codebook its
own; one decoder reads all quantized vectors together. Dropout is left out, being the identity here,
and so are the partial decoders, which only its training used. Source: the public project
dgabriele/spinlock at 4937a07. Letters: B items, D inputs, Q codebooks (category-major).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from pydantic import ValidationError
from torch import Tensor, nn

from spinlock import artifact
from spinlock.errors import ArtifactError
from spinlock.vqvae.foreign.config import InitialEncoderConfig, PrototypeConfig
from spinlock.vqvae.model import Quantized

KIND = "prototype-vqvae"


class PrototypeVQVAE(nn.Module):
    """The model that `config` and `weights` make up, which are copied.

    Takes no gradient and stays in eval mode, whatever its parent does. Raises ArtifactError, told
    about `where`, for weights of other shapes or that are not finite.
    """

    def __init__(self, config: PrototypeConfig, weights: Mapping[str, Tensor], where: str) -> None:
        super().__init__()
        self.config = config
        self.latent_dims = [level.latent_dim for level in config.codebooks]
        with torch.device("meta"):  # nothing is drawn or allocated: the weights come as they are
            self._build(config)
        weights = {name: value.detach().clone() for name, value in weights.items()}
        try:
            self.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise ArtifactError(f"{where}: its tensors do not fit its config: {error}") from None
        bad = [name for name, value in weights.items() if not value.isfinite().all()]
        if bad:
            raise ArtifactError(f"{where}: not finite: {', '.join(bad)}.")
        for index, category in enumerate(config.categories):
            self.register_buffer(f"inputs_{index}", torch.tensor(category.inputs), persistent=False)
        self.requires_grad_(False)
        self.train(False)

    def _build(self, config: PrototypeConfig) -> None:
        hidden, embedding = config.hidden_dim, config.embedding_dim
        self.embedders = nn.ModuleList(
            nn.Sequential(
                nn.Linear(len(category.inputs), hidden),
                nn.ReLU(),
                nn.Linear(hidden, embedding),
                nn.LayerNorm(embedding),
            )
            for category in config.categories
        )
        self.projectors = nn.ModuleList(
            nn.Sequential(nn.Linear(embedding, width), nn.LayerNorm(width))
            for width in self.latent_dims
        )
        self.codebooks = nn.ParameterList(
            torch.empty(level.num_tokens, level.latent_dim) for level in config.codebooks
        )
        self.decoder = nn.Sequential(
            nn.Linear(sum(self.latent_dims), config.decoder_hidden_dim),
            nn.ReLU(),
            nn.Linear(config.decoder_hidden_dim, config.inputs),
        )
        self.initial = None if config.initial is None else InitialEncoder(config.initial)

    def train(self, mode: bool = True) -> "PrototypeVQVAE":
        """Stay in eval mode: batch statistics would change what it was."""
        del mode
        return super().train(False)

    def encode(self, standardized: Float[Tensor, "B D"]) -> list[Tensor]:
        """One latent [B, E_q] per codebook, category-major, before quantization.

        Raises ArtifactError for another number of inputs.
        """
        if standardized.shape[1] != self.config.inputs:
            raise ArtifactError(
                f"This VQ-VAE reads {self.config.inputs} inputs, found {standardized.shape[1]}."
            )
        projectors = iter(self.projectors)
        latents = []
        for index, category in enumerate(self.config.categories):
            embedding = self.embedders[index](standardized[:, self.get_buffer(f"inputs_{index}")])
            latents += [next(projectors)(embedding) for _ in category.levels]
        return latents

    def quantize(self, latents: list[Tensor]) -> Quantized:
        """Each latent's nearest code, the first of equally near ones; no gradient."""
        codes = torch.stack(
            [
                _distances(latent.detach(), codebook).argmin(1)
                for latent, codebook in zip(latents, self.codebooks, strict=True)
            ],
            dim=1,
        )
        return Quantized(self.lookup(codes), codes)

    def lookup(self, codes: Int[Tensor, "B Q"]) -> list[Tensor]:
        """The vectors that codes stand for, one [B, E_q] per codebook."""
        return [book[chosen] for book, chosen in zip(self.codebooks, codes.unbind(1), strict=True)]

    def decode(self, vectors: list[Tensor]) -> Float[Tensor, "B D"]:
        """The model's inputs from one vector per codebook."""
        reconstruction: Tensor = self.decoder(torch.cat(vectors, dim=1))
        return reconstruction

    def decode_codes(self, codes: Int[Tensor, "B Q"]) -> Float[Tensor, "B D"]:
        """The model's inputs from tokens."""
        return self.decode(self.lookup(codes))

    def tokens(self, standardized: Float[Tensor, "B D"]) -> Int[Tensor, "B Q"]:
        """Codes, category-major."""
        return self.quantize(self.encode(standardized)).codes

    def initial_embedding(
        self, manual: Float[Tensor, "B M"], fields: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B I"]:
        """The inputs that describe an initial condition: `manual`, then the CNN's of `fields`.

        `fields` are raw. The prototype's files have three channels where its CNN has one: it took
        them for realizations and gave the CNN their mean. Raises ArtifactError when the checkpoint
        has no such encoder, or one of other widths.
        """
        initial = self.config.initial
        if self.initial is None or initial is None:
            raise ArtifactError("This VQ-VAE has no encoder of initial fields.")
        expected, found = (initial.manual, initial.channels), (manual.shape[1], fields.shape[1])
        if expected != found:
            raise ArtifactError(
                f"This VQ-VAE's encoder of initial fields reads {expected[0]} features and "
                f"{expected[1]} channels, found {found[0]} and {found[1]}."
            )
        return torch.cat([manual, self.initial(fields)], dim=1)

    def save(self, path: Path, metrics: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Write the artifact directory in one step, replacing one that stands there."""
        artifact.save(
            path,
            kind=KIND,
            config=self.config.model_dump(mode="json"),
            weights=self.state_dict(),
            metrics=metrics,
            provenance=provenance,
        )

    @classmethod
    def load(cls, path: Path) -> "PrototypeVQVAE":
        """The one saved in directory `path`, on the CPU. Raises ArtifactError if it is not one."""
        found = artifact.load(path, KIND)
        try:
            config = PrototypeConfig.model_validate(found.config)
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(str(part) for part in fault["loc"])
            raise ArtifactError(
                f"{path}: its config is damaged: {place}: {fault['msg']}."
            ) from None
        return cls(config, found.weights, str(path))


def _distances(latents: Float[Tensor, "B E"], book: Float[Tensor, "K E"]) -> Float[Tensor, "B K"]:
    """Squared distances, in the prototype's order of operations: ties would fall otherwise."""
    norms = latents.square().sum(1, keepdim=True) + book.square().sum(1)
    return norms - 2 * latents @ book.T


class InitialEncoder(nn.Module):
    """A residual CNN from fields to features, pooled over space: any grid will do."""

    def __init__(self, config: InitialEncoderConfig) -> None:
        super().__init__()
        first, second, third, fourth = config.widths
        self.stage1 = nn.Sequential(
            nn.Conv2d(config.channels, first, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.stage2 = ResidualStage(first, second)
        self.stage3 = ResidualStage(second, third)
        self.stage4 = ResidualStage(third, fourth)
        self.fc = nn.Linear(fourth, config.outputs)
        self.bn_final = nn.BatchNorm1d(config.outputs)

    def forward(self, fields: Float[Tensor, "B C H W"]) -> Float[Tensor, "B O"]:
        x = self.stage4(self.stage3(self.stage2(self.stage1(fields))))
        embedding: Tensor = self.bn_final(self.fc(x.mean((2, 3))))
        return embedding


class ResidualStage(nn.Module):
    """Two convolutions and a projected shortcut, at half the resolution. He et al. (2016)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.skip = nn.Sequential(
            nn.Conv2d(before, after, 1, stride=2, bias=False), nn.BatchNorm2d(after)
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E h w"]:
        inner = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        out: Tensor = (inner + self.skip(x)).relu()
        return out
