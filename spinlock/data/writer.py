"""Writes a dataset of our layout operator by operator, safe to kill at any instant.

Everything of the file but the fields is known before the first operator is made. So HDF5 writes
it once: parameters, seeds, metadata, and the place of every array, in `<name>.partial`, which
appears whole by a rename. From then on HDF5 has no part in it: fields go as raw bytes to the
addresses it fixed, are synced, and then the count of completed operators, eight bytes, is written
and synced too. No metadata is in motion that a kill could tear; what stands beyond the count is
written again. The disk's blocks are reserved at the start, so a full disk is known before the
first operator, not after the last. At the end the file takes its name, in one step.
"""

import fcntl
import glob
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy import ndarray

from spinlock.data import schema
from spinlock.data.plan import Plan, create, locate
from spinlock.errors import DatasetError, GroundTruthError
from spinlock.files import atomic_file


class DatasetWriter:
    """One writer at a time for `path`; continues the partial file of the same plan.

    Use as a context manager; a GroundTruthError in it takes the partial file along, whatever else
    ends it leaves that to go on with. Raises DatasetError when `path` exists, when another
    process is writing it, when a partial file of another plan is in the way, and when the disk
    refuses.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path, self.plan = path, plan
        self.partial = path.with_name(f"{path.name}.partial")
        self.completed = 0
        self._lock_path = path.with_name(f".{path.name}.lock")
        with self._disk_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._acquire()
        try:
            with self._disk_errors():
                self._descriptor = self._start()
        except BaseException:
            self._release()
            raise

    def append(self, rows: Mapping[str, ndarray]) -> None:
        """Add the next operators: for each of `plan.arrays()`, their rows. Durable on return."""
        (count,) = {len(values) for values in rows.values()}
        assert set(rows) == set(self.plan.arrays())
        with self._disk_errors():
            for name, values in rows.items():
                shape, dtype = self.plan.arrays()[name]
                assert values.shape[1:] == shape[1:]
                block = np.ascontiguousarray(values, dtype=dtype)
                stride = block.nbytes // count
                _write(self._descriptor, block, self._offsets[name] + self.completed * stride)
            os.fdatasync(self._descriptor)
            done = np.array(self.completed + count, dtype="<u8")
            _write(self._descriptor, done, self._offsets[schema.COMPLETED])
            os.fdatasync(self._descriptor)
        self.completed += count

    def finish(self) -> None:
        """Give the complete file its name."""
        assert self.completed == len(self.plan.seeds)
        with self._disk_errors():
            os.fsync(self._descriptor)
            self.partial.rename(self.path)
            directory = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def __enter__(self) -> "DatasetWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)
        if isinstance(error, GroundTruthError):
            # The same plan would meet the same operator again, and no other may go on with it.
            self.partial.unlink()
        self._release()

    def _acquire(self) -> int:
        """The lock, held until closed; a killed process loses it, its file may stay."""
        while True:
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise DatasetError(f"{self.path}: another process is writing it.") from None
            # The one who held it may have removed the file between our open and our lock.
            if os.fstat(descriptor).st_nlink > 0:
                return descriptor
            os.close(descriptor)

    def _release(self) -> None:
        self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)

    def _start(self) -> int:
        if self.path.exists():
            raise DatasetError(
                f"{self.path}: exists already and is not overwritten. Delete it, or choose "
                "another name."
            )
        # Begun by a process that was killed before its partial file stood; the lock is ours now.
        for stale in self.path.parent.glob(f".{glob.escape(self.partial.name)}.*.partial"):
            stale.unlink()
        fresh = not self.partial.exists()
        if fresh:
            with atomic_file(self.partial) as beside, self._disk_errors():
                create(beside, self.plan)
        self._offsets, self.completed = locate(self.partial, self.plan)
        descriptor = os.open(self.partial, os.O_RDWR)
        try:
            # HDF5 leaves a hole for the fields: without this a full disk would only show halfway.
            os.posix_fallocate(descriptor, 0, self.partial.stat().st_size)
        except OSError:
            os.close(descriptor)
            if fresh:
                self.partial.unlink()
            raise
        return descriptor

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            kept = "What is already made stays in the partial file; " if self.completed else ""
            then = "put this right and run the same command again."
            raise DatasetError(
                f"{self.path}: cannot be written: {reason}. It takes "
                f"{self.plan.size() / 1e6:.1f} MB. {kept}{then if kept else then.capitalize()}"
            ) from None


def _write(descriptor: int, values: ndarray, offset: int) -> None:
    view = values.reshape(-1).data.cast("B")
    while view:  # the kernel writes at most 2 GiB at once
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
