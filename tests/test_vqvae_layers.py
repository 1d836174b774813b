"""Layers over groups of different widths equal each group's own layer, gradients included."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from spinlock.vqvae.grouped import GroupedLayerNorm, GroupedLinear, GroupedMLP
from spinlock.vqvae.kernels import STEPS
from spinlock.vqvae.spans import MOST_SPANS, Spans, partition, width_mask

WIDTHS = st.lists(st.integers(1, 20), min_size=1, max_size=7)
INPUTS, OUTPUTS = (7, 3, 3, 1), (2, 5, 1, 4)


def padding(widths, counts):
    ends = list(itertools.accumulate(counts))
    return sum(n * max(widths[end - n : end]) for n, end in zip(counts, ends, strict=True))


@settings(max_examples=60, deadline=None)
@given(widths=WIDTHS)
def test_no_other_cut_into_as_many_spans_pads_less(widths):
    counts = partition(widths)
    assert sum(counts) == len(widths)
    assert len(counts) <= MOST_SPANS
    others = (
        [b - a for a, b in itertools.pairwise((0, *cuts, len(widths)))]
        for n in range(MOST_SPANS)
        for cuts in itertools.combinations(range(1, len(widths)), n)
    )
    assert padding(widths, counts) == min(padding(widths, other) for other in others)


@settings(max_examples=40, deadline=None)
@given(widths=WIDTHS, bias=st.booleans())
def test_padding_and_taking_it_away_gives_the_rows_back(widths, bias):
    rows = torch.randn(sum(widths), 3)
    parts = []
    for span in Spans(widths, partition(widths), bias=bias):
        padded = span.pad(rows)
        parts.append(span.unpad(padded))
        if bias:
            assert (padded[:, -1] == 1).all()
            padded = padded[:, :-1]
        own = width_mask(widths[span.groups], padded.shape[1])
        assert (padded[~own] == 0).all()
    assert torch.equal(torch.cat(parts), rows)


def plain(affine, widths):
    """Each group's `nn.Linear`, with its weights."""
    layers = []
    for g, (inputs, outputs) in enumerate(widths):
        layer = nn.Linear(inputs, outputs).to(affine.weight.dtype)
        layer.weight.data = affine.weight[g, :outputs, :inputs].detach().clone()
        layer.bias.data = affine.bias[g, :outputs].detach().clone()
        layers.append(layer)
    return layers


def compare(layer, networks, rows, own):
    """Values and gradients of `layer`, and of each group's own network on its rows."""
    rows, alone = (rows.clone().requires_grad_() for _ in range(2))
    out = layer(rows)
    upstream = torch.randn_like(out)
    out.backward(upstream)
    parts = zip(networks, alone.split(own), strict=True)
    expected = torch.cat([network(part.T).T for network, part in parts])
    expected.backward(upstream)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(rows.grad, alone.grad)


def compare_gradients(affine, layers):
    for g, layer in enumerate(layers):
        outputs, inputs = layer.weight.shape
        weight, bias = affine.weight.grad[g], affine.bias.grad[g]
        torch.testing.assert_close(weight[:outputs, :inputs], layer.weight.grad)
        torch.testing.assert_close(bias[:outputs], layer.bias.grad)
        assert (weight[outputs:] == 0).all()
        assert (weight[:, inputs:] == 0).all()
        assert (bias[outputs:] == 0).all()


@settings(max_examples=25, deadline=None)
@given(widths=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6))
def test_a_grouped_linear_layer_equals_each_groups_own(widths):
    inputs, outputs = zip(*widths, strict=True)
    layer = GroupedLinear(inputs, outputs).double()
    layers = plain(layer.affine, widths)
    compare(layer, layers, torch.randn(sum(inputs), 5, dtype=torch.float64), inputs)
    compare_gradients(layer.affine, layers)


@settings(max_examples=25, deadline=None)
@given(widths=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6))
def test_a_grouped_network_equals_each_groups_own(widths):
    inputs, outputs = zip(*widths, strict=True)
    layer = GroupedMLP(inputs, 6, outputs).double()
    first = plain(layer.first, [(i, 6) for i in inputs])
    second = plain(layer.second, [(6, o) for o in outputs])
    networks = [nn.Sequential(a, nn.ReLU(), b) for a, b in zip(first, second, strict=True)]
    compare(layer, networks, torch.randn(sum(inputs), 5, dtype=torch.float64), inputs)
    compare_gradients(layer.first, first)
    compare_gradients(layer.second, second)


@settings(max_examples=25, deadline=None)
@given(widths=WIDTHS)
def test_a_grouped_layer_norm_equals_each_groups_own(widths):
    layer = GroupedLayerNorm(widths).double()
    layers = []
    for part in torch.randn(2, sum(widths), dtype=torch.float64).split(widths, 1):
        weight, bias = part
        norm = nn.LayerNorm(len(weight)).double()
        norm.weight.data, norm.bias.data = weight.clone(), bias.clone()
        layers.append(norm)
    layer.weight.data = torch.cat([norm.weight.data for norm in layers])
    layer.bias.data = torch.cat([norm.bias.data for norm in layers])
    rows = torch.randn(sum(widths), 5, dtype=torch.float64)
    compare(layer, layers, rows, widths)
    torch.testing.assert_close(layer.weight.grad, torch.cat([n.weight.grad for n in layers]))
    torch.testing.assert_close(layer.bias.grad, torch.cat([n.bias.grad for n in layers]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: GroupedLinear(INPUTS, OUTPUTS),
        lambda: GroupedMLP(INPUTS, 5, OUTPUTS),
        lambda: GroupedLayerNorm(INPUTS),
        lambda: GroupedLayerNorm([7, 7]),
    ],
    ids=["linear", "network", "norm", "norm of equal widths"],
)
def test_the_gradients_written_out_are_those_of_the_values(make):
    torch.manual_seed(0)
    layer = make().double()
    rows = torch.randn(14, 4, dtype=torch.float64, requires_grad=True)
    names, start = zip(*layer.named_parameters(), strict=True)

    def values(rows, *parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, given, (rows,))

    assert torch.autograd.gradcheck(values, (rows, *(p.detach().requires_grad_() for p in start)))


def test_a_frozen_layer_still_passes_its_gradient_on():
    rows = torch.randn(14, 4)
    for layer in (GroupedLinear(INPUTS, OUTPUTS), GroupedMLP(INPUTS, 5, OUTPUTS)):
        free, frozen = (rows.clone().requires_grad_() for _ in range(2))
        layer(free).square().sum().backward()
        layer.requires_grad_(False)
        layer(frozen).square().sum().backward()
        assert torch.equal(free.grad, frozen.grad)


def test_dropout_keeps_the_mean_and_drops_as_often_as_asked():
    torch.manual_seed(0)
    layer = GroupedMLP([1], 2**14, [1], dropout=0.3).train()
    with torch.no_grad():  # every hidden entry is 1, and the output their mean
        for parameter in layer.parameters():
            parameter.zero_()
        layer.first.bias.fill_(1.0)
        layer.second.weight.fill_(1 / 2**14)
    out = layer(torch.zeros(1, 50))
    kept = out * (1 - layer.dropped / STEPS)  # each item's share of kept entries
    deviation = (0.3 * 0.7 / 2**14) ** 0.5
    assert abs(kept.mean() - 0.7) < 5 * deviation / 50**0.5
    assert 0.5 * deviation < kept.std() < 2 * deviation
    assert out.mean().item() == pytest.approx(1.0, abs=0.01)
    torch.testing.assert_close(layer.eval()(torch.zeros(1, 50)), torch.ones(1, 50))


def test_what_was_dropped_has_no_gradient():
    torch.manual_seed(0)
    layer = GroupedMLP([2], 64, [1], dropout=0.5).train()
    with torch.no_grad():
        layer.first.bias.fill_(100.0)  # far from the ReLU's own zeros
        layer.second.weight.fill_(1.0)
    out = layer(torch.randn(2, 1))
    out.sum().backward()
    dropped = layer.second.weight.grad[0, 0] == 0  # the hidden entry itself
    assert 10 < dropped.sum() < 54
    assert ((layer.first.bias.grad[0] == 0) == dropped).all()


def test_dropout_depends_on_the_seed_alone():
    layer = GroupedMLP([3, 5], 16, [2, 2], dropout=0.5).train()
    rows = torch.randn(8, 6)

    def run(seed):
        torch.manual_seed(seed)
        return layer(rows)

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_weights_of_different_counts_are_refused():
    with pytest.raises(ValueError, match="2 input widths, but 1 output widths"):
        GroupedLinear([1, 2], [3])


def test_relu_passes_no_gradient_at_zero():
    layer = GroupedMLP([1], 1, [1])
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(1.0)
        layer.first.bias.fill_(-1.0)
    rows = torch.tensor([[0.5, 1.0, 1.5]], requires_grad=True)
    layer(rows).sum().backward()
    (expected,) = torch.autograd.grad(F.relu(rows - 1).sum(), rows)
    assert torch.equal(rows.grad, expected)
