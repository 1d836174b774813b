"""The random convolutional networks that CNO operators are.

Untrained: weights follow PyTorch's default distributions, drawn from the operator's seed.
Instance, layer and group normalization are all group norms without an affine part, which at
initialization is the identity and here never moves.

Operators of one architecture may be computed together. What has weights or draws noise is then
computed for each with the very call that it makes alone, what has none for all at once; so the
bits of an operator do not depend on how many stand beside it, as those of a grouped convolution
do (benchmarks/results/cno.md).

G operators of one architecture, M realizations of each, N = G M states (the realizations of the
first operator, of the second ..), C channels, H x W grid.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from spinlock.domains.random_fields import correlation_matrix

Activation = Literal["gelu", "relu", "silu", "tanh"]
Boundary = Literal["zeros", "circular"]
NoiseSchedule = Literal["constant", "annealing", "periodic"]
NoiseType = Literal["additive", "multiplicative"]
Normalization = Literal["instance", "layer", "group", "none"]

WEIGHTS, NOISE = 0, 1  # the streams of an operator's seed

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}
GROUPS = 8  # of "group" normalization, or the largest divisor of the width below it
# Points from which channels last is no slower: oneDNN need not reorder, and below as many torch's
# group norm takes another, slower path for that layout (3 to 10 times on 16x16).
CHANNELS_LAST = 1024


def generator(seed: int, *stream: int) -> torch.Generator:
    """The random stream numbered `stream` of an operator's seed.

    `manual_seed` keeps 32 bits of a seed: of 1e5 operators, two would share their weights with
    a probability of 0.7. So the whole state of the Mersenne Twister, 624 words, is set from the
    whole key, as numpy's MT19937 sets its own from a SeedSequence. In the state that torch gives,
    the words stand as 64-bit numbers from byte 24 on; a fresh generator twists them before it
    gives its first number.
    """
    words = np.random.SeedSequence(seed, spawn_key=stream).generate_state(624)
    words[0] = 0x80000000  # never all zero
    made = torch.Generator().manual_seed(0)
    state = made.get_state()
    state.numpy()[24 : 24 + 624 * 8] = words.astype(np.uint64).view(np.uint8)
    return made.set_state(state)


@dataclass(frozen=True)
class Noise:
    """What a StochasticBlock adds: strength, kind, correlation length and course over steps."""

    scale: float
    kind: NoiseType
    correlation: float  # fraction of the domain; 0 is white
    schedule: NoiseSchedule
    horizon: int  # steps until annealed noise is gone
    period: int  # steps of one cycle of periodic noise

    def strength(self, step: int) -> float:
        """Standard deviation at `step`: scale, scale (1 - t/horizon)+ or scale (1 + sin(.)/2).

        It depends on the step, never on how many steps are asked for: a longer trajectory
        begins with the shorter one.
        """
        match self.schedule:
            case "constant":
                return self.scale
            case "annealing":
                return self.scale * max(0.0, 1.0 - step / self.horizon)
            case "periodic":
                return self.scale * (1.0 + 0.5 * math.sin(2.0 * math.pi * step / self.period))


class StochasticBlock(nn.Module):
    """x + sigma n or x (1 + sigma n), with n a unit-variance Gaussian field, always active.

    n is a function of (seed, realization, step). Its correlation is exp(-r^2 / (2 l^2)), made
    by one circulant matrix per axis whose rows have unit norm: every pixel of every sample has
    variance 1 by construction, and no statistics of the drawn numbers are needed.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, noise: Noise, seed: int, height: int, width: int) -> None:
        super().__init__()
        self.noise, self.seed = noise, seed
        rows, columns = (correlation_matrix(n, noise.correlation) for n in (height, width))
        self.register_buffer("rows", torch.from_numpy(rows))
        self.register_buffer("columns", torch.from_numpy(columns))

    def forward(self, x: Float[Tensor, "M C H W"], step: int) -> Float[Tensor, "M C H W"]:
        fields = self.fields(len(x), x.shape[1], step)
        strength = self.noise.strength(step)
        if self.noise.kind == "multiplicative":
            return x * (1.0 + strength * fields)
        return x + strength * fields

    def fields(self, realizations: int, channels: int, step: int) -> Float[Tensor, "M C H W"]:
        """The unit-variance noise of each realization at `step`."""
        shape = (channels, len(self.rows), len(self.columns))
        white = torch.stack(
            [
                torch.randn(shape, generator=generator(self.seed, NOISE, realization, step))
                for realization in range(realizations)
            ]
        )
        if self.noise.correlation == 0:
            return white
        return self.rows @ white @ self.columns


class PerOperator(nn.Module):
    """A layer of each of G operators, each applied to the states of its own."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Float[Tensor, "N Ci H W"], *step: int) -> Float[Tensor, "N Co H W"]:
        parts = x.chunk(len(self.layers))
        return torch.cat([layer(x, *step) for layer, x in zip(self.layers, parts, strict=True)])


def per_operator(layers: Sequence[nn.Module]) -> nn.Module:
    """The layers of G operators as one; that of a single operator as it is."""
    return layers[0] if len(layers) == 1 else PerOperator(layers)


class ConvBlock(nn.Module):
    """Convolution, normalization, activation; the convolution has a bias if none normalizes it.

    The last two are functions, not modules: on small grids calling modules takes longer than
    what they compute.
    """

    def __init__(
        self, inputs: int, outputs: int, design: "Design", rngs: Sequence[torch.Generator]
    ) -> None:
        super().__init__()
        self.groups = design.groups(outputs)
        self.convolution = convolution(
            inputs, outputs, design.kernel_size, design.boundary, rngs, self.groups is None
        )
        self.activation = ACTIVATIONS[design.activation]

    def forward(self, x: Float[Tensor, "N Ci H W"]) -> Float[Tensor, "N Co H W"]:
        y: Tensor = self.convolution(x)
        if self.groups is not None:
            y = torch.group_norm(y, self.groups)
        return self.activation(y)


class ResidualBlock(nn.Module):
    """Two ConvBlocks beside the identity, or a 1x1 convolution where the widths differ."""

    def __init__(
        self, inputs: int, outputs: int, design: "Design", rngs: Sequence[torch.Generator]
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            ConvBlock(inputs, outputs, design, rngs), ConvBlock(outputs, outputs, design, rngs)
        )
        self.shortcut = (
            nn.Identity()
            if inputs == outputs
            else convolution(inputs, outputs, 1, design.boundary, rngs, True)
        )

    def forward(self, x: Float[Tensor, "N Ci H W"]) -> Float[Tensor, "N Co H W"]:
        y: Tensor = self.blocks(x) + self.shortcut(x)
        return y


@dataclass(frozen=True)
class Design:
    """The architecture of one operator's network."""

    channels: int
    num_layers: int
    base_channels: int
    kernel_size: int
    activation: Activation
    normalization: Normalization
    boundary: Boundary

    def groups(self, width: int) -> int | None:
        """How many groups of channels normalize a layer of `width` channels; None without."""
        match self.normalization:
            case "instance":
                return width
            case "layer":
                return 1
            case "group":
                return math.gcd(GROUPS, width)
            case "none":
                return None


@dataclass(frozen=True)
class Member:
    """What one of several operators of a Design has of its own: its noise and its seed."""

    noise: Noise
    seed: int


class Network(nn.Module):
    """ConvBlock(C, b), `num_layers` blocks of widths b, 2b, 4b, 4b .., noise, 1x1 convolution.

    Beyond three layers the blocks are ResidualBlocks.
    """

    def __init__(self, design: Design, members: Sequence[Member], height: int, width: int) -> None:
        super().__init__()
        rngs = [generator(member.seed, WEIGHTS) for member in members]
        block = ResidualBlock if design.num_layers > 3 else ConvBlock
        widths = [design.base_channels * 2 ** min(i, 2) for i in range(design.num_layers)]
        layers: list[nn.Module] = [ConvBlock(design.channels, design.base_channels, design, rngs)]
        for inputs, outputs in zip([design.base_channels, *widths], widths, strict=False):
            layers.append(block(inputs, outputs, design, rngs))
        self.blocks = nn.Sequential(*layers)
        self.stochastic = per_operator(
            [StochasticBlock(member.noise, member.seed, height, width) for member in members]
        )
        self.output = convolution(widths[-1], design.channels, 1, design.boundary, rngs, True)
        if height * width >= CHANNELS_LAST:
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d):  # the activations take the weights' layout
                    layer.weight.data = layer.weight.data.to(memory_format=torch.channels_last)

    def forward(self, states: Float[Tensor, "N C H W"], step: int) -> Float[Tensor, "N C H W"]:
        y: Tensor = self.output(self.stochastic(self.blocks(states), step))
        return y


def convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    boundary: Boundary,
    rngs: Sequence[torch.Generator],
    bias: bool,
) -> nn.Module:
    """A same-size convolution drawn from each of `rngs`, with PyTorch's default initialization."""

    def drawn(rng: torch.Generator) -> nn.Conv2d:
        # On the meta device torch's own initialization draws nothing from the global generator.
        layer = nn.Conv2d(
            inputs,
            outputs,
            kernel,
            padding=kernel // 2,
            bias=bias,
            padding_mode=boundary,
            device="meta",
            dtype=torch.float32,
        ).to_empty(device="cpu")
        nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=rng)
        if layer.bias is not None:
            bound = 1 / math.sqrt(inputs * kernel * kernel)
            nn.init.uniform_(layer.bias, -bound, bound, generator=rng)
        return layer

    return per_operator([drawn(rng) for rng in rngs])
