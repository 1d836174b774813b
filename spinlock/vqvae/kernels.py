"""Forward and backward of the tokenizer's layers, written out.

Autograd would give the same numbers. What it cannot do is to give each gradient the memory layout
that the next product wants, to work in place where nothing else looks, and to put weights'
gradients straight into their padded places. Rows and spans: see `spans.py`; I, H and O are
padded widths of inputs, hidden entries and outputs.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from spinlock.vqvae.spans import Span, Spans

# A dropout probability is kept to one in so many.
STEPS = 2**16

Gradients = tuple[Tensor | None, ...]


class GroupedAffine(torch.autograd.Function):
    """weight[g] x[g] + bias[g] for every group."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Float[Tensor, "V B"],
        weight: Float[Tensor, "G O I"],
        bias: Float[Tensor, "G O"],
        inside: Spans,
        outside: Spans,
    ) -> Float[Tensor, "W B"]:
        ctx.save_for_backward(rows, weight)
        ctx.spans = inside, outside
        return torch.cat(
            [
                b.unpad(torch.baddbmm(_bias(bias, b), _weight(weight, a, b), a.pad(rows)))
                for a, b in zip(inside, outside, strict=True)
            ]
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        rows, weight = ctx.saved_tensors
        inputs, weights, biases = [], None, None
        if ctx.needs_input_grad[1]:
            weights, biases = torch.zeros_like(weight), weight.new_zeros(weight.shape[:2])
        for a, b in zip(*ctx.spans, strict=True):
            padded = b.pad(gradient)
            if ctx.needs_input_grad[0]:
                inputs.append(a.unpad(torch.bmm(_weight(weight, a, b).mT, padded)))
            if weights is not None and biases is not None:
                _weight(weights, a, b).copy_(torch.bmm(padded, a.pad(rows).mT))
                _bias(biases, b)[..., 0] = padded.sum(-1)
        return torch.cat(inputs) if inputs else None, weights, biases, None, None


class GroupedHidden(torch.autograd.Function):
    """second[g] dropout(max(0, first[g] x[g] + first_bias[g])) + second_bias[g].

    A dropped hidden entry is zero, as a negative one is: the ReLU's gradient serves both, and no
    mask is kept. What scales the kept entries is applied to the second weights, which are fewer.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Float[Tensor, "V B"],
        first: Float[Tensor, "G H I"],
        first_bias: Float[Tensor, "G H"],
        second: Float[Tensor, "G O H"],
        second_bias: Float[Tensor, "G O"],
        inside: Spans,
        outside: Spans,
        dropped: int,
    ) -> Float[Tensor, "W B"]:
        ctx.scale = STEPS / (STEPS - dropped)
        second = second * ctx.scale if dropped else second
        results, saved = [], []
        for a, b in zip(inside, outside, strict=True):
            x = a.pad(rows)
            hidden = torch.bmm(_with_bias(first, first_bias, a), x).clamp_min_(0)
            if dropped:
                hidden.mul_(_kept(hidden, dropped))
            outer = second[b.groups, : b.width]
            results.append(b.unpad(torch.baddbmm(_bias(second_bias, b), outer, hidden)))
            saved += [x, hidden]
        ctx.save_for_backward(first, first_bias, second, *saved)
        ctx.spans = inside, outside
        return torch.cat(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        first, first_bias, second, *saved = ctx.saved_tensors
        frozen, inputs = not ctx.needs_input_grad[1], []
        if not frozen:
            made = (torch.zeros_like(x) for x in (first, first_bias, second, second[..., 0]))
            firsts, first_biases, seconds, second_biases = made
        for a, b, x, hidden in zip(*ctx.spans, saved[::2], saved[1::2], strict=True):
            padded = b.pad(gradient)
            inner = torch.bmm(second[b.groups, : b.width].mT, padded)
            torch.ops.aten.threshold_backward.grad_input(inner, hidden, 0, grad_input=inner)
            if ctx.needs_input_grad[0]:
                inputs.append(a.unpad(torch.bmm(_with_bias(first, first_bias, a).mT, inner)))
            if not frozen:
                both = torch.bmm(inner, x.mT)
                firsts[a.groups, :, : a.width] = both[..., : a.width]
                first_biases[a.groups] = both[..., -1]
                seconds[b.groups, : b.width] = torch.bmm(padded, hidden.mT)
                _bias(second_biases, b)[..., 0] = padded.sum(-1)
        rows = torch.cat(inputs) if inputs else None
        if frozen:
            return rows, *[None] * 7
        return rows, firsts, first_biases, seconds.mul_(ctx.scale), second_biases, *[None] * 3


class GroupedNorm(torch.autograd.Function):
    """weight (x - mean) / sqrt(variance + eps) + bias, over each group's rows.

    `averages` takes the mean over groups: [1, G, V] over all rows, or [G, 1, W] over each of
    groups that are all equally wide, which is less work.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Float[Tensor, "V B"],
        weight: Float[Tensor, " V"],
        bias: Float[Tensor, " V"],
        averages: Float[Tensor, "n m W"],
        group: Tensor,
        eps: float,
    ) -> Float[Tensor, "V B"]:
        normed = rows - _average(averages, rows).index_select(0, group)
        scale = _average(averages, normed.square()).add_(eps).rsqrt_()
        normed.mul_(scale.index_select(0, group))
        ctx.save_for_backward(normed, scale, weight, averages, group)
        return torch.addcmul(bias[:, None], normed, weight[:, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        normed, scale, weight, averages, group = ctx.saved_tensors
        product = gradient * normed
        weighted = averages * weight.view(len(averages), 1, -1)
        inputs = _average(weighted, product).index_select(0, group)
        inputs.mul_(normed).add_(_average(weighted, gradient).index_select(0, group))
        torch.sub(gradient * weight[:, None], inputs, out=inputs)
        inputs.mul_(scale.index_select(0, group))
        return inputs, product.sum(1), gradient.sum(1), None, None, None


class StraightThrough(torch.autograd.Function):
    """The second argument's value, with the identity as the first one's gradient."""

    @staticmethod
    def forward(ctx: Any, latents: Tensor, vectors: Tensor) -> Tensor:
        del ctx, latents
        return vectors.view_as(vectors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        del ctx
        return gradient, None


def _weight(weight: Tensor, a: Span, b: Span) -> Tensor:
    return weight[a.groups, : b.width, : a.width]


def _bias(bias: Tensor, b: Span) -> Tensor:
    return bias[b.groups, : b.width, None]


def _with_bias(weight: Tensor, bias: Tensor, a: Span) -> Tensor:
    """The span's weights, and its bias for the padded input's last entry."""
    both = weight.new_zeros(a.count, weight.shape[1], a.padded)
    both[..., : a.width] = weight[a.groups, :, : a.width]
    both[..., -1] = bias[a.groups]
    return both


def _kept(x: Tensor, dropped: int) -> Tensor:
    """1 for the entries to keep, 0 for each with probability `dropped` in `STEPS`.

    A random number costs more here than the arithmetic: four entries share one of 64 bits.
    """
    # Not `random_`, which torch.compile cannot trace.
    bits = torch.randint(-(2**63), 2**63 - 1, (-(-x.numel() // 4),), device=x.device)
    uniform = bits.view(torch.int16)[: x.numel()].view_as(x)
    return torch.ge(uniform, dropped - STEPS // 2, out=torch.empty_like(x))


def _average(averages: Tensor, rows: Tensor) -> Tensor:
    parts = rows.view(len(averages), -1, rows.shape[1])
    return torch.bmm(averages, parts).flatten(0, 1)
