"""How a rollout is computed while training: precision, memory and compilation.

None of it changes what is learnt from or what is stored: validation and a trained NOA compute in
single precision, and the weights have the same names whatever was chosen. What each option costs
and brings is measured by benchmarks/noa.py.
"""

from typing import Literal

import torch

from spinlock.config import Config


class ComputeConfig(Config):
    """All off by default: single precision, everything kept for the backward, nothing compiled.

    `bf16` convolves in bfloat16 in the "warm_up", whose steps take no gradient, or "throughout".
    States, residual sums, norms, spectral mixing and the first and last layer stay in single
    precision, and gradients are summed over steps in it.

    `checkpoint_steps` keeps only the state of each step of the window and computes the step again
    in the backward. `use_torch_compile` compiles a step, in place.
    """

    bf16: Literal["never", "warm_up", "throughout"] = "never"
    checkpoint_steps: bool = False
    use_torch_compile: bool = False

    def convolutions(self, *, warm_up: bool) -> torch.dtype:
        """What a training step convolves in, in the warm-up and in the window."""
        reduced = self.bf16 == "throughout" or (warm_up and self.bf16 == "warm_up")
        return torch.bfloat16 if reduced else torch.float32


EXACT = ComputeConfig()
