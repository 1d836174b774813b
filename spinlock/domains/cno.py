"""CNO: untrained random convolutional networks, iterated (prototype's operator family).

A parameter vector and a seed give a network O. From an initial field X it makes M noisy
trajectories by one of three updates: autoregressive X <- O(X), residual X <- X + dt O(X),
convex X <- alpha X + (1 - alpha) O(X).

**Replay is exact.** Operators run on one thread each, side by side on as many as torch has been
given, by calls whose shapes an operator determines itself. So the same bits come out whatever
the batch, its order, the number of threads or the process, with one CPU and one build of torch;
1x1 convolutions and SiLU, for example, round differently on 1 and 2 threads.

**Operators of one architecture are computed together** while the activations of one are few
(TOGETHER_ACTIVATIONS: 32x32 up to width 20, 16x16 up to 80), since there calls cost as much as what
they compute: groups of 8 take 0.9 of the time alone. Larger ones outgrow the cache in a group and
take longer, so each is alone (benchmarks/results/cno.md). A group also needs a grid that is a
multiple of 8: then every state begins at a multiple of 64 bytes and ends with a full vector, as it
does alone.

B operators, P parameters, G operators of one architecture, M realizations, T frames,
C channels, H x W grid.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt64
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from spinlock.domains.base import Domain, DomainConfig
from spinlock.domains.cno_network import (
    Activation,
    Boundary,
    Design,
    Member,
    Network,
    Noise,
    NoiseSchedule,
    NoiseType,
    Normalization,
)
from spinlock.domains.initial_conditions import (
    AnyInitial,
    GaussianRandomField,
    Localized,
    Multiscale,
    Structured,
    draw,
)
from spinlock.domains.parameters import Choice, Continuous, Integer, Log, ParameterSpace
from spinlock.errors import GroundTruthError

KernelSize = Literal[3, 5, 7]
UpdatePolicy = Literal["autoregressive", "residual", "convex"]

TOGETHER = 8  # operators at most
TOGETHER_ACTIVATIONS = 20_480  # of one operator's layer at most: realizations x width x cells
VECTOR = 64  # cells of which a grid must be a multiple


class CNOConfig(DomainConfig):
    """The family: its fixed numbers, the ranges of its parameters, its initial fields.

    Left out of the prototype's space: dropout (inactive, its networks run in eval mode), batch
    normalization (the identity there) and grid size (the data set's own).
    """

    kind: Literal["cno"] = "cno"
    channels: PositiveInt = 1
    realizations: PositiveInt = 1
    dt: float = 0.01
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    boundary: Boundary = "zeros"
    limit: PositiveFloat = 1e3  # of |u|; float16 files hold up to 65 504
    noise_horizon: PositiveInt = 64
    noise_period: PositiveInt = 16

    num_layers: Integer = Integer(low=2, high=5)
    base_channels: Integer = Integer(low=16, high=64)
    kernel_size: Choice[KernelSize] = Choice(values=(3, 5, 7))
    activation: Choice[Activation] = Choice(values=("gelu",))
    noise_type: Choice[NoiseType] = Choice(values=("additive",))
    noise_scale: Log = Log(low=1e-5, high=1.0)
    noise_schedule: Choice[NoiseSchedule] = Choice(values=("constant",))
    spatial_correlation: Continuous = Continuous(low=0.0, high=0.3)
    normalization: Choice[Normalization] = Choice(values=("instance",))
    update_policy: Choice[UpdatePolicy] = Choice(
        values=("residual", "convex"), weights=(0.75, 0.25)
    )

    initial: Annotated[tuple[AnyInitial, ...], Field(min_length=1)] = (
        GaussianRandomField(length_scale=0.03, weight=0.125),
        GaussianRandomField(length_scale=0.1, weight=0.125),
        Multiscale(length_scales=(0.02, 0.05, 0.1), weight=0.125),
        Multiscale(length_scales=(0.05, 0.1, 0.3), weight=0.125),
        Structured(weight=0.25),
        Localized(weight=0.25),
    )

    @model_validator(mode="after")
    def _a_network_exists(self) -> "CNOConfig":
        for name, values in (
            ("num_layers", self.num_layers),
            ("base_channels", self.base_channels),
        ):
            if values.low < 1:
                raise ValueError(f"{name} must be at least 1, and its range begins at {values.low}")
        return self

    def build(self) -> "CNO":
        return CNO(self)


class CNO(Domain):
    """The ground truth of a CNOConfig, on the CPU."""

    name = "cno"

    def __init__(self, config: CNOConfig) -> None:
        self.config = config
        self.realizations = config.realizations
        self.channel_names = (
            ("u",) if config.channels == 1 else tuple(f"u{i}" for i in range(config.channels))
        )
        self.space = ParameterSpace(
            {
                "num_layers": config.num_layers,
                "base_channels": config.base_channels,
                "kernel_size": config.kernel_size,
                "activation": config.activation,
                "noise_type": config.noise_type,
                "noise_scale": config.noise_scale,
                "noise_schedule": config.noise_schedule,
                "spatial_correlation": config.spatial_correlation,
                "normalization": config.normalization,
                "update_policy": config.update_policy,
            }
        )

    def initial(self, seeds: UInt64[np.ndarray, "B"], grid: int) -> Float[Tensor, "B C H W"]:
        fields = np.empty((len(seeds), self.config.channels, grid, grid), np.float32)
        for index, seed in enumerate(seeds):
            fields[index] = draw(self.config.initial, int(seed), self.config.channels, grid)
        return torch.from_numpy(fields)

    def rollout(
        self,
        unit: Float64[np.ndarray, "B P"],
        seeds: UInt64[np.ndarray, "B"],
        initial: Float[Tensor, "B C H W"],
        frames: int,
        *,
        first: int = 0,
    ) -> Float[Tensor, "B M T C H W"]:
        if frames < 1:
            raise ValueError(f"frames must be at least 1, not {frames}")
        height, width = initial.shape[-2:]
        axes = [dict(zip(self.space.names, row, strict=True)) for row in unit.tolist()]
        trajectories = torch.empty(
            (len(axes), self.realizations, frames, *initial.shape[1:]), dtype=torch.float32
        )

        def run(together: Sequence[int]) -> dict[int, str]:
            design, policy = self._architecture(axes[together[0]])
            members = [Member(self._noise(axes[i]), int(seeds[i])) for i in together]
            network = Network(design, members, height, width)
            made, faults = self._iterate(network, policy, initial[together], frames)
            trajectories[together] = made
            return {together[place]: fault for place, fault in faults.items()}

        threads = torch.get_num_threads()
        faults: dict[int, str] = {}
        try:
            # The number of threads belongs to the thread that sets it, and to those born later.
            with ThreadPoolExecutor(
                threads, initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                for found in pool.map(run, self._groups(axes, height, width, threads)):
                    faults |= found
        finally:
            torch.set_num_threads(threads)
        for index in sorted(faults)[:1]:
            values = self.space.physical(unit)[index].items()
            raise GroundTruthError(
                f"cno: operator {first + index} (seed {seeds[index]}) {faults[index]}. Its "
                f"parameters: {', '.join(f'{name} {value}' for name, value in values)}. "
                "Narrow the ranges that lead there, or raise `limit`."
            )
        return trajectories

    def _groups(
        self, axes: Sequence[Mapping[str, float]], height: int, width: int, threads: int
    ) -> list[list[int]]:
        """The operators that are computed together, spread over `threads`."""
        alike: dict[tuple[Design, UpdatePolicy], list[int]] = defaultdict(list)
        for index, each in enumerate(axes):
            alike[self._architecture(each)].append(index)
        groups = []
        for (design, _), members in alike.items():
            size = 1
            if together(self.realizations, design.base_channels, height * width):
                size = min(TOGETHER, -(-len(members) // threads))
            groups += [members[i : i + size] for i in range(0, len(members), size)]
        return groups

    def _architecture(self, axes: Mapping[str, float]) -> tuple[Design, UpdatePolicy]:
        config = self.config
        design = Design(
            channels=config.channels,
            num_layers=config.num_layers.value(axes["num_layers"]),
            base_channels=config.base_channels.value(axes["base_channels"]),
            kernel_size=config.kernel_size.value(axes["kernel_size"]),
            activation=config.activation.value(axes["activation"]),
            normalization=config.normalization.value(axes["normalization"]),
            boundary=config.boundary,
        )
        return design, config.update_policy.value(axes["update_policy"])

    def _noise(self, axes: Mapping[str, float]) -> Noise:
        config = self.config
        return Noise(
            scale=config.noise_scale.value(axes["noise_scale"]),
            kind=config.noise_type.value(axes["noise_type"]),
            correlation=config.spatial_correlation.value(axes["spatial_correlation"]),
            schedule=config.noise_schedule.value(axes["noise_schedule"]),
            horizon=config.noise_horizon,
            period=config.noise_period,
        )

    @torch.no_grad()
    def _iterate(
        self,
        network: Network,
        policy: UpdatePolicy,
        initial: Float[Tensor, "G C H W"],
        frames: int,
    ) -> tuple[Float[Tensor, "G M T C H W"], dict[int, str]]:
        """The trajectories of a group, and what is wrong with those of its members that stray.

        It ends when none is left that does not.
        """
        count = len(initial)
        states = initial.repeat_interleave(self.realizations, 0)
        trajectories = states.new_empty((count, self.realizations, frames, *initial.shape[1:]))
        faults: dict[int, str] = {}
        for frame in range(frames):
            if frame > 0:
                states = self._update(policy, states, network(states, frame - 1))
            trajectories[:, :, frame] = states.unflatten(0, (count, -1))
            peaks = states.abs().amax((1, 2, 3))  # NaN where a state holds one
            for place, peak in enumerate(peaks.tolist()):
                if not peak <= self.config.limit:
                    operator, realization = divmod(place, self.realizations)
                    faults.setdefault(
                        operator,
                        f"has |u| = {peak:.4g} at frame {frame} of realization {realization}, "
                        f"beyond the limit {self.config.limit:g}",
                    )
            if len(faults) == count:
                break
        return trajectories, faults

    def _update(
        self,
        policy: UpdatePolicy,
        state: Float[Tensor, "N C H W"],
        image: Float[Tensor, "N C H W"],
    ) -> Float[Tensor, "N C H W"]:
        match policy:
            case "autoregressive":
                return image
            case "residual":
                return state + self.config.dt * image
            case "convex":
                return self.config.alpha * state + (1 - self.config.alpha) * image


def together(realizations: int, width: int, cells: int) -> bool:
    """Whether a group of such operators is faster, and to the bit what each is alone."""
    return realizations * width * cells <= TOGETHER_ACTIVATIONS and cells % VECTOR == 0
