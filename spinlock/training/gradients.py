"""Norms of gradients, and who is to blame when one is not finite."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import Parameter
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


def clip(parameters: Iterable[Parameter], limit: float) -> float:
    """Scale all gradients so that their total 2-norm is at most `limit`; the norm before.

    A non-finite norm is returned and nothing is scaled: the caller must not update. It is one
    also where every gradient is finite and only their squares overflow.
    """
    with_gradient = [p for p in parameters if p.grad is not None]
    total = get_total_norm([p.grad for p in with_gradient if p.grad is not None])
    if torch.isfinite(total):
        clip_grads_with_norm_(with_gradient, limit, total)
    return float(total)


def nonfinite_parameters(module: nn.Module) -> list[str]:
    """Names of the parameters whose gradient holds a NaN or an infinity."""
    return [
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
    ]
