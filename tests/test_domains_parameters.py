"""From the unit cube to physical values and theta."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from spinlock.domains.parameters import (
    Boolean,
    Choice,
    Continuous,
    Integer,
    Log,
    Parameter,
    ParameterSpace,
)
from spinlock.errors import GroundTruthError

VARYING: list[Parameter] = [
    Continuous(low=-1.0, high=2.0),
    Log(low=1e-5, high=1.0),
    Integer(low=2, high=5),
    Integer(low=8, high=16, step=4),
    Choice[str](values=("a", "b", "c")),
    Choice[int](values=(3, 5), weights=(3.0, 1.0)),
    Boolean(),
]
CONSTANT: list[Parameter] = [
    Continuous(low=0.1, high=0.1),
    Log(low=0.1, high=0.1),
    Integer(low=3, high=3),
    Choice[str](values=("only",)),
]
axis = st.floats(0, 1)


@pytest.mark.parametrize("parameter", VARYING + CONSTANT, ids=repr)
@settings(deadline=None)
@given(u=axis)
def test_a_value_is_in_range_and_its_theta_in_the_unit_cube(parameter, u):
    value = parameter.value(u)
    if isinstance(parameter, Continuous | Log | Integer):
        assert parameter.low <= value <= parameter.high
    if isinstance(parameter, Integer):
        assert (value - parameter.low) % parameter.step == 0
    if isinstance(parameter, Choice):
        assert value in parameter.values
    entries = parameter.condition(u)
    assert len(entries) == len(parameter.labels("p"))
    assert all(0 <= entry <= 1 for entry in entries)


@pytest.mark.parametrize("parameter", VARYING, ids=repr)
@settings(deadline=None)
@given(u=axis, v=axis)
def test_equal_theta_means_equal_value(parameter, u, v):
    if parameter.condition(u) == parameter.condition(v):
        assert parameter.value(u) == parameter.value(v)
    if parameter.value(u) != parameter.value(v):
        assert parameter.condition(u) != parameter.condition(v)


@pytest.mark.parametrize("parameter", CONSTANT, ids=repr)
def test_a_constant_parameter_is_left_out_of_theta(parameter):
    assert parameter.labels("p") == ()
    assert parameter.condition(0.3) == []


def test_the_ends_of_a_range_are_reached_exactly():
    for parameter in (Log(low=1e-5, high=0.3), Continuous(low=0.1, high=0.3)):
        assert (parameter.value(0.0), parameter.value(1.0)) == (parameter.low, parameter.high)
    assert Log(low=1e-4, high=1.0).value(0.5) == pytest.approx(1e-2)


def test_every_integer_of_a_range_is_equally_likely_the_ends_too():
    parameter = Integer(low=2, high=5)
    counts = Counter(parameter.value((i + 0.5) / 4000) for i in range(4000))
    assert counts == {2: 1000, 3: 1000, 4: 1000, 5: 1000}


def test_a_choice_is_taken_in_proportion_to_its_weight():
    parameter = Choice[str](values=("residual", "convex"), weights=(3.0, 1.0))
    counts = Counter(parameter.value((i + 0.5) / 4000) for i in range(4000))
    assert counts == {"residual": 3000, "convex": 1000}


def test_the_theta_of_a_choice_is_one_hot():
    parameter = Choice[str](values=("a", "b", "c"))
    assert parameter.labels("p") == ("p=a", "p=b", "p=c")
    assert parameter.condition(0.5) == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Continuous(low=1.0, high=0.0), "low 1.0 is above high 0.0"),
        (lambda: Log(low=0.0, high=1.0), "greater than 0"),
        (lambda: Integer(low=1, high=4, step=2), "high 4 is not low 1 plus steps of 2"),
        (lambda: Choice[str](values=()), "at least 1 item"),
        (lambda: Choice[str](values=("a", "a")), "not all different"),
        (lambda: Choice[str](values=("a", "b"), weights=(1.0,)), "2 values with 1 weights"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(build, words):
    with pytest.raises(ValidationError, match=words):
        build()


SPACE = ParameterSpace(
    {
        "layers": Integer(low=2, high=5),
        "scale": Log(low=1e-2, high=1.0),
        "fixed": Choice[str](values=("gelu",)),
        "policy": Choice[str](values=("residual", "convex")),
    }
)


def test_a_space_maps_rows_to_named_values_and_to_theta():
    unit = np.array([[0.99, 0.5, 0.7, 0.1], [0.0, 0.0, 0.0, 1.0]])
    first, second = SPACE.physical(unit)
    assert first == {"layers": 5, "scale": first["scale"], "fixed": "gelu", "policy": "residual"}
    assert math.isclose(float(first["scale"]), 0.1)
    assert second == {"layers": 2, "scale": 0.01, "fixed": "gelu", "policy": "convex"}
    assert SPACE.conditioning_names == ("layers", "scale", "policy=residual", "policy=convex")
    np.testing.assert_allclose(SPACE.conditioning(unit), [[1, 0.5, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("value", [-0.1, 1.5, np.nan])
def test_a_vector_outside_the_unit_cube_is_refused_by_name(value):
    unit = np.full((3, 4), 0.5)
    unit[2, 1] = value
    with pytest.raises(GroundTruthError, match="Operator 2: scale is at"):
        SPACE.physical(unit)


def test_a_vector_of_another_family_is_refused():
    with pytest.raises(GroundTruthError, match="this family has 4 axes \\(layers, scale"):
        SPACE.conditioning(np.full((3, 5), 0.5))
