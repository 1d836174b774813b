"""The research prototype's U-AFNO and one step of its training, in our own words.

What `benchmarks/noa.py` measures `spinlock.noa` against, and what its outputs must equal. As the
prototype does, it stores dense complex weights for `modes` x `modes` wavenumbers as two real
tensors and joins them in every call, normalizes each channel of each sample alone, checkpoints
every step, and runs the encoder and the bottleneck again for the states that L_latent looks at.
Letters as in `spinlock.noa.uafno`. One input channel; no conditioning on the operator.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from spinlock.noa import UAFNO, UAFNOConfig
from spinlock.noa.uafno import RESIDUAL_STEP

Norm = Callable[[int], nn.Module]


def instance_norm(width: int) -> nn.Module:
    """The prototype's."""
    return nn.InstanceNorm2d(width, affine=True)


def group_norm(width: int) -> nn.Module:
    """Ours at widths that 8 divides: with it, equal weights give equal outputs."""
    return nn.GroupNorm(8, width)


class PlainUAFNO(nn.Module):
    """u + 0.1 O(u), with O the network of the prototype's default shape."""

    def __init__(self, config: UAFNOConfig, norm: Norm = instance_norm) -> None:
        super().__init__()
        base, blocks, widths = config.base_channels, config.blocks_per_level, config.widths()
        self.stem = block(1, base, norm)
        self.encoder = nn.ModuleList(
            level(before, width, blocks, norm)
            for before, width in zip([base, *widths], widths, strict=False)
        )
        self.downs = nn.ModuleList(block(width, width, norm, stride=2) for width in widths)
        self.bottleneck = nn.Sequential(
            *(PlainAFNO(widths[-1], config.modes) for _ in range(config.afno_blocks))
        )
        upward = list(reversed(widths))
        self.ups = nn.ModuleList(
            block(before + width, width, norm)
            for before, width in zip([upward[0], *upward], upward, strict=False)
        )
        self.decoder = nn.ModuleList(level(width, width, blocks, norm) for width in upward)
        self.head = nn.Conv2d(upward[-1], 1, 1)

    def encoded(self, state: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The bottleneck and the skips of a state."""
        x, skips = self.stem(state), []
        for step, down in zip(self.encoder, self.downs, strict=True):
            skips.append(step(x))
            x = down(skips[-1])
        return self.bottleneck(x), skips

    def forward(self, state: Tensor) -> Tensor:
        x, skips = self.encoded(state)
        for up, step in zip(self.ups, self.decoder, strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = step(up(torch.cat([x, skips.pop()], 1)))
        return state + RESIDUAL_STEP * self.head(x)

    @torch.no_grad()
    def take(self, ours: UAFNO) -> None:
        """Copy the weights of `ours`; those of wavenumbers that its grid lacks stay random.

        The prototype's shortcuts have no bias: that of `ours` becomes zero. Its conditioning must
        be neutral, as it is before training.
        """
        state = self.state_dict()
        for name, value in ours.state_dict().items():
            if name.startswith(("film.", "mean", "scale", "parameter_")):
                continue
            if name.endswith("mixing.weight"):
                mixing = ours.get_submodule(name.removesuffix(".weight"))
                height, columns = mixing.grid[0], mixing.columns
                kept = value.unflatten(1, (height, columns)).permute(0, 3, 4, 1, 2)
                for part, of in zip(("real", "imaginary"), kept, strict=True):
                    state[name.replace("weight", part)][:, :, :height, :columns] = of
            elif name.endswith("shortcut.bias"):
                value.zero_()
            else:
                for here, there in (("blocks.", ""), ("convolution.", "0."), ("norm.", "1.")):
                    name = name.replace(here, there)
                state[name].copy_(value)


class PlainAFNO(nn.Module):
    """x + per-pixel MLP of the mixed spectrum, then x + MLP."""

    def __init__(self, channels: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.norm_spectral = nn.GroupNorm(1, channels)
        self.mixing = nn.ParameterDict(
            {
                part: torch.randn(channels, channels, modes, modes) * (0.5 / channels)
                for part in ("real", "imaginary")
            }
        )
        self.pointwise = perceptron(channels)
        self.norm_mlp = nn.GroupNorm(1, channels)
        self.mlp = perceptron(channels)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(self.norm_spectral(x), norm="ortho")
        weight = torch.complex(self.mixing["real"], self.mixing["imaginary"])
        rows, columns = min(self.modes, spectrum.shape[-2]), min(self.modes, spectrum.shape[-1])
        mixed = torch.zeros_like(spectrum)
        mixed[:, :, :rows, :columns] = torch.einsum(
            "bihw,iohw->bohw", spectrum[:, :, :rows, :columns], weight[:, :, :rows, :columns]
        )
        x = x + self.pointwise(torch.fft.irfft2(mixed, s=x.shape[-2:], norm="ortho"))
        return x + self.mlp(self.norm_mlp(x))


class PlainResidual(nn.Module):
    """Two convolutions around a shortcut without bias."""

    def __init__(self, before: int, width: int, norm: Norm) -> None:
        super().__init__()
        self.first, self.second = block(before, width, norm), block(width, width, norm)
        self.shortcut = (
            nn.Conv2d(before, width, 1, bias=False) if before != width else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) + self.shortcut(x)


def block(before: int, width: int, norm: Norm, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, norm(width), nn.GELU())


def level(before: int, width: int, blocks: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(
        *(PlainResidual(before if i == 0 else width, width, norm) for i in range(blocks))
    )


def perceptron(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 2 * channels, 1), nn.GELU(), nn.Conv2d(2 * channels, channels, 1)
    )


def plain_rollout(
    model: PlainUAFNO, initial: Tensor, warm_up: int, window: int, checkpointed: bool = True
) -> list[Tensor]:
    """States after each of `window` steps that follow `warm_up` without gradient."""
    state = initial
    with torch.no_grad():
        for _ in range(warm_up):
            state = model(state)
    states = []
    for _ in range(window):
        state = checkpoint(model, state, use_reentrant=False) if checkpointed else model(state)
        states.append(state)
    return states


def plain_taps(model: PlainUAFNO, states: list[Tensor]) -> Tensor:
    """Bottlenecks averaged over space, computed again from the states: [B, S, D]."""
    return torch.stack([model.encoded(state)[0].mean((-2, -1)) for state in states], 1)
