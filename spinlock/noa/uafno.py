"""U-AFNO: a U-Net whose bottleneck mixes in Fourier space, conditioned on the operator.

Letters: B batch, C field channels, H W grid, P operator parameters, D bottleneck width,
h w bottleneck grid (H and W divided by 2**encoder_levels).

    u(t+1) = u(t) + 0.1 * scale * O((u(t) - mean) / scale, theta)

with the mean and scale of each channel fitted on the training set. A step of the seeds' default
(base 32, 3 levels) on 64x64 has a bottleneck of [B, 256, 8, 8].
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from spinlock.config import Config
from spinlock.noa import winograd
from spinlock.noa.afno import AFNOBlock

RESIDUAL_STEP = 0.1
"""The update is a tenth of the network's output, as in the prototype: near the identity at
initialization, so that a long rollout starts out stable."""

Film = tuple[Float[Tensor, "B _ 1 1"], Float[Tensor, "B _ 1 1"]] | None


class UAFNOConfig(Config):
    """Sizes of the network, under the names of the seeds' guide.

    `head_gain` scales the last layer's weights at initialization. At 0.1 an untrained rollout stays
    near its initial field, as persistence does, where at 1 it drifts: over 64 steps of the
    prototype's family to an error of 42 against persistence's 2.5, with gradients of norm 95
    against 6. Over 12 steps 1 learns faster: 0.27 against 0.36 after 6 epochs.
    """

    base_channels: int = Field(32, ge=4)
    encoder_levels: int = Field(3, ge=1, le=6)
    modes: int = Field(16, ge=1)
    afno_blocks: int = Field(4, ge=1)
    blocks_per_level: int = Field(2, ge=1)
    condition_on_parameters: bool = True
    head_gain: float = Field(1.0, gt=0)

    def widths(self) -> list[int]:
        """Channels of each encoder level: doubling from base_channels, at most 8 times it."""
        return [
            min(self.base_channels * 2 ** (level + 1), self.base_channels * 8)
            for level in range(self.encoder_levels)
        ]

    @property
    def bottleneck_channels(self) -> int:
        return self.widths()[-1]


@dataclass(frozen=True)
class Step:
    """One application: the next state, and the bottleneck seen on the way (the tap)."""

    state: Float[Tensor, "B C H W"]
    bottleneck: Float[Tensor, "B D h w"]


class UAFNO(nn.Module):
    """The operator network for fields of `channels` on a `grid` and `parameters` conditioning.

    Raises ValueError if the grid does not divide by 2**encoder_levels. With zero parameters, or
    `condition_on_parameters: false`, there is no conditioning path at all.
    """

    mean: Tensor
    scale: Tensor
    parameter_mean: Tensor
    parameter_scale: Tensor

    def __init__(
        self, config: UAFNOConfig, *, channels: int, grid: tuple[int, int], parameters: int
    ) -> None:
        super().__init__()
        factor = 2**config.encoder_levels
        if grid[0] % factor or grid[1] % factor:
            raise ValueError(f"grid {grid} does not divide by 2**encoder_levels = {factor}")
        self.config = config
        self.parameters_given = parameters if config.condition_on_parameters else 0
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("scale", torch.ones(channels, 1, 1))
        self.register_buffer("parameter_mean", torch.zeros(self.parameters_given))
        self.register_buffer("parameter_scale", torch.ones(self.parameters_given))

        widths, base, blocks = config.widths(), config.base_channels, config.blocks_per_level
        self.stem = ConvBlock(channels, base)
        self.encoder = nn.ModuleList(
            Level(before, width, blocks)
            for before, width in zip([base, *widths], widths, strict=False)
        )
        self.downs = nn.ModuleList(ConvBlock(width, width, stride=2) for width in widths)
        height, width = grid[0] // factor, grid[1] // factor
        self.bottleneck = nn.Sequential(
            *(AFNOBlock(widths[-1], height, width, config.modes) for _ in range(config.afno_blocks))
        )
        upward = list(reversed(widths))
        self.ups = nn.ModuleList(
            ConvBlock(before + width, width)
            for before, width in zip([upward[0], *upward], upward, strict=False)
        )
        self.decoder = nn.ModuleList(Level(width, width, blocks) for width in upward)
        self.head = nn.Conv2d(upward[-1], channels, 1)
        with torch.no_grad():
            for weight in self.head.parameters():
                weight.mul_(config.head_gain)

        filmed = [block.width for level in self._levels() for block in level.residuals()]
        self.film = Conditioning(self.parameters_given, filmed) if self.parameters_given else None

    def _levels(self) -> list["Level"]:
        return [m for m in [*self.encoder, *self.decoder] if isinstance(m, Level)]

    def fit_statistics(
        self, fields: Float[Tensor, "N C H W"], parameters: Float[Tensor, "M P"]
    ) -> None:
        """Set the standardization buffers from training fields and training operators.

        A constant channel or parameter keeps scale 1: it carries nothing to rescale.
        """
        self.mean.copy_(fields.double().mean((0, 2, 3)).reshape(-1, 1, 1))
        self.scale.copy_(_scale(fields.transpose(0, 1).flatten(1), dim=1).reshape(-1, 1, 1))
        if self.parameters_given:
            self.parameter_mean.copy_(parameters.double().mean(0))
            self.parameter_scale.copy_(_scale(parameters, dim=0))

    def condition(self, parameters: Float[Tensor, "B P"]) -> list[Film]:
        """The scale and shift of every residual block for these operators; once per rollout."""
        if self.film is None:
            return [None] * sum(len(level.residuals()) for level in self._levels())
        film: list[Film] = self.film((parameters - self.parameter_mean) / self.parameter_scale)
        return film

    def forward(
        self,
        state: Float[Tensor, "B C H W"],
        films: list[Film],
        convolutions: torch.dtype = torch.float32,
    ) -> Step:
        """One step. `convolutions` is what the 3x3 ones after the first multiply in."""
        remaining = iter(films)
        x = self.stem((state - self.mean) / self.scale)
        if x.device.type == "cpu":  # whose convolutions are faster in this layout
            x = x.contiguous(memory_format=torch.channels_last)
        skips = []
        for level, down in zip(self.encoder, self.downs, strict=True):
            x = level(x, remaining, convolutions)
            skips.append(x)
            x = down(x, None, convolutions)
        bottleneck = x = self.bottleneck(x)
        for up, level in zip(self.ups, self.decoder, strict=True):
            x = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = up(torch.cat([x, skips.pop()], dim=1), None, convolutions)
            x = level(x, remaining, convolutions)
        return Step(state + RESIDUAL_STEP * self.scale * self.head(x), bottleneck)


class ConvBlock(nn.Module):
    """3x3 convolution, group normalization, optional scale and shift, GELU.

    Group instead of the prototype's instance normalization: an instance-normalized field loses
    its mean and amplitude, which are part of the state. Both see one sample at a time.
    """

    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.GroupNorm(_groups(width), width)

    def forward(
        self, x: Tensor, film: Film = None, convolutions: torch.dtype = torch.float32
    ) -> Tensor:
        x = self.norm(self._convolved(x, convolutions))
        if film is not None:
            x = torch.addcmul(film[1], x, film[0])
        return nn.functional.gelu(x)

    def _convolved(self, x: Tensor, convolutions: torch.dtype) -> Tensor:
        layer = self.convolution
        if convolutions != torch.float32:
            # The weight is cast anew in every step: a cast that the steps of a window share, as
            # autocast's does, would add up their gradients in the reduced precision.
            x_reduced, weight = x.to(convolutions), layer.weight.to(convolutions)
            reduced = nn.functional.conv2d(x_reduced, weight, None, layer.stride, layer.padding)
            return reduced.to(x.dtype)
        if (
            layer.stride == (1, 1)
            and winograd.applies(x, layer.weight)
            and not torch.compiler.is_compiling()
        ):
            return winograd.convolve(x, layer.weight)
        convolved: Tensor = layer(x)
        return convolved


class ResidualBlock(nn.Module):
    """Two ConvBlocks around a shortcut; the operator's parameters enter after the first norm."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.first = ConvBlock(before, width)
        self.second = ConvBlock(width, width)
        self.shortcut = nn.Conv2d(before, width, 1) if before != width else nn.Identity()

    def forward(self, x: Tensor, film: Film, convolutions: torch.dtype = torch.float32) -> Tensor:
        update: Tensor = self.second(self.first(x, film, convolutions), None, convolutions)
        straight: Tensor = self.shortcut(x)
        return update + straight


class Level(nn.Module):
    """The residual blocks of one resolution."""

    def __init__(self, before: int, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResidualBlock(before if index == 0 else width, width) for index in range(blocks)
        )

    def residuals(self) -> list[ResidualBlock]:
        return [block for block in self.blocks if isinstance(block, ResidualBlock)]

    def forward(
        self, x: Tensor, films: Iterator[Film], convolutions: torch.dtype = torch.float32
    ) -> Tensor:
        for block in self.blocks:
            x = block(x, next(films), convolutions)
        return x


class Conditioning(nn.Module):
    """FiLM (Perez et al., arXiv 1709.07871): theta -> a scale and a shift per block and channel.

    Starts at scale 1 and shift 0 for every operator, so that conditioning is learnt, not
    imposed by initialization.
    """

    def __init__(self, parameters: int, widths: list[int]) -> None:
        super().__init__()
        self.widths = widths
        self.trunk = nn.Sequential(
            nn.Linear(parameters, 128), nn.GELU(), nn.Linear(128, 64), nn.GELU()
        )
        self.out = nn.Linear(64, 2 * sum(widths))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, parameters: Float[Tensor, "B P"]) -> list[Film]:
        scales, shifts = self.out(self.trunk(parameters))[:, :, None, None].chunk(2, dim=1)
        return list(
            zip((1 + scales).split(self.widths, 1), shifts.split(self.widths, 1), strict=True)
        )


def _groups(width: int) -> int:
    """At most eight groups that divide the width."""
    return next(groups for groups in range(min(8, width), 0, -1) if width % groups == 0)


def _scale(values: Tensor, dim: int) -> Tensor:
    """Standard deviation, or 1 where it is rounding: a mean of equal numbers is seldom exact."""
    values = values.double()
    scale = values.std(dim, correction=0)
    varies = scale > 1e-6 * values.abs().amax(dim)
    return torch.where(varies, scale, torch.ones_like(scale)).float()
