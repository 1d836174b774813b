"""CNO: untrained random convolutional networks, iterated (prototype's operator family).

A parameter vector and a seed give a network O. From an initial field X it makes M noisy
trajectories by one of three updates: autoregressive X <- O(X), residual X <- X + dt O(X),
convex X <- alpha X + (1 - alpha) O(X).

**Replay is exact.** Each operator is computed alone, on one thread, by calls whose shapes it
determines itself; its M realizations are the only batch it knows. Operators run side by side
on as many threads as torch has been given. So the same bits come out whatever the batch, its
order, the number of threads or the process, with one CPU and one build of torch; 1x1
convolutions and SiLU, for example, round differently on 1 and 2 threads.

**Operators of one architecture are not computed together** (benchmarks/results/cno.md). One
grouped convolution makes 8 operators 1.3 to 1.5 times faster on grids up to 16x16, but in most
shapes its bits depend on how many operators it is given. A convolution per operator with the
rest batched is exact: 8 operators take 0.84 (8x8), 0.89 (16x16), 1.05 (32x32) and 1.15 (64x64)
times as long as alone, a single one 1.06 to 1.13 times. And single is what they are: the default
family has 588 architectures, an operator in a batch of 512 shares its own with 0.45 others on
average, in a batch of 8 with next to none.

B operators, P parameters, M realizations, T frames, C channels, H x W grid.
"""

from collections.abc import Mapping
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
        operators = self.space.physical(unit)
        trajectories = torch.empty(
            (len(operators), self.realizations, frames, *initial.shape[1:]), dtype=torch.float32
        )

        def run(index: int) -> None:
            height, width = initial.shape[-2:]
            axes = dict(zip(self.space.names, unit[index].tolist(), strict=True))
            network = self._network(axes, int(seeds[index]), height, width)
            policy = self.config.update_policy.value(axes["update_policy"])
            fault = self._iterate(network, policy, initial[index], trajectories[index])
            if fault is not None:
                values = ", ".join(f"{name} {value}" for name, value in operators[index].items())
                raise GroundTruthError(
                    f"cno: operator {first + index} (seed {seeds[index]}) {fault}. Its parameters: "
                    f"{values}. Narrow the ranges that lead there, or raise `limit`."
                )

        threads = torch.get_num_threads()
        try:
            # The number of threads belongs to the thread that sets it, and to those born later.
            with ThreadPoolExecutor(
                threads, initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                for _ in pool.map(run, range(len(operators))):
                    pass  # in order: of several refused operators, the first is named
        finally:
            torch.set_num_threads(threads)
        return trajectories

    def _network(self, axes: Mapping[str, float], seed: int, height: int, width: int) -> Network:
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
        noise = Noise(
            scale=config.noise_scale.value(axes["noise_scale"]),
            kind=config.noise_type.value(axes["noise_type"]),
            correlation=config.spatial_correlation.value(axes["spatial_correlation"]),
            schedule=config.noise_schedule.value(axes["noise_schedule"]),
            horizon=config.noise_horizon,
            period=config.noise_period,
        )
        return Network(design, noise, seed, height, width)

    @torch.no_grad()
    def _iterate(
        self,
        network: Network,
        policy: UpdatePolicy,
        initial: Float[Tensor, "C H W"],
        trajectory: Float[Tensor, "M T C H W"],
    ) -> str | None:
        """Fill `trajectory`; what is wrong with it, if something is."""
        realizations, frames = trajectory.shape[:2]
        state = initial.repeat(realizations, 1, 1, 1)
        for frame in range(frames):
            if frame > 0:
                state = self._update(policy, state, network(state, frame - 1))
            trajectory[:, frame] = state
            peaks = state.abs().amax((1, 2, 3))  # NaN where a state holds one
            for realization, peak in enumerate(peaks.tolist()):
                if not peak <= self.config.limit:
                    return (
                        f"has |u| = {peak:.4g} at frame {frame} of realization {realization}, "
                        f"beyond the limit {self.config.limit:g}"
                    )
        return None

    def _update(
        self,
        policy: UpdatePolicy,
        state: Float[Tensor, "M C H W"],
        image: Float[Tensor, "M C H W"],
    ) -> Float[Tensor, "M C H W"]:
        match policy:
            case "autoregressive":
                return image
            case "residual":
                return state + self.config.dt * image
            case "convex":
                return self.config.alpha * state + (1 - self.config.alpha) * image
