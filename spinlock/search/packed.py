"""A function as bytes: whoever carries it need not load what it needs.

What conducts a group of workers, Tune's process of a trial and Ray Train's controller, so does
without torch and the trainable, which take a second and 100 MiB to load in each. The bytes are a
pickle that the search's driver makes and a process of the same Ray opens, as all that Ray sends is.
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
