"""A function as bytes: whoever carries it need not load what it needs.

Tune's process of a trial, which conducts a group of workers, so does without torch and the
trainable, which take a second and 100 MiB to load. The bytes are a pickle that the search's driver
makes and a process of the same Ray opens, as all that Ray sends is.
"""

from collections.abc import Callable
from typing import Any, NewType

from ray import cloudpickle

Packed = NewType("Packed", bytes)


def packed(function: Callable[..., Any]) -> Packed:
    return Packed(cloudpickle.dumps(function))


def unpacked(function: Packed) -> Callable[..., Any]:
    """The function, with all that it needs imported."""
    opened: Callable[..., Any] = cloudpickle.loads(function)
    return opened
