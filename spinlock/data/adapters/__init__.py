"""One adapter for each file layout; which one reads a file is decided by its structure."""

from pathlib import Path

import h5py

from spinlock.data.adapters.base import Adapter
from spinlock.data.adapters.native import SpinlockAdapter
from spinlock.data.adapters.pdebench import PdebenchAdapter
from spinlock.data.adapters.prototype import PrototypeAdapter, RolloutAdapter
from spinlock.data.adapters.the_well import TheWellAdapter
from spinlock.errors import DatasetError

ADAPTERS: dict[str, type[Adapter]] = {
    "spinlock": SpinlockAdapter,
    "the_well": TheWellAdapter,
    "prototype": PrototypeAdapter,
    "prototype rollouts": RolloutAdapter,
    "pdebench": PdebenchAdapter,
}


def adapt(file: h5py.File, path: Path) -> Adapter:
    """The adapter whose layout `file` has. Raises DatasetError when none has it."""
    for adapter in ADAPTERS.values():
        if adapter.recognises(file):
            return adapter(file, path)
    if len(file) == 0:
        raise DatasetError(f"{path}: an HDF5 file with nothing in it.")
    known = "; ".join(f"{name} ({adapter.signature})" for name, adapter in ADAPTERS.items())
    raise DatasetError(
        f"{path}: of no layout known here. It holds {', '.join(sorted(file))}. Known: {known}."
    )
