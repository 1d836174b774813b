"""Where the workers of a Ray Train group meet: a store on the first worker's own address.

Stock Ray Train has torch make that store, a TCPStore that listens on every interface whatever
address it is given. Whoever reaches it may read and write the group's keys, so here it is handed a
socket that is bound already: to loopback on a Ray of our own, to the node's address on others.

The process that conducts the group loads this module, its workers run the functions. Those alone
import torch.
"""

import logging
import socket
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.train.backend import Backend, BackendConfig
from typing_extensions import override

from spinlock.search.preemption import heed_termination

_PATIENCE = timedelta(minutes=30)  # of a worker with the others of its group, as in Ray Train
_PARTING_SECONDS = 30
_log = logging.getLogger(__name__)
_store: Any = None  # of the first worker, for as long as its process lasts


class Rendezvous(BackendConfig):
    """Ray Train's settings of a group that computes with torch, with the store above.

    `framework` stays untold: Ray Train would ask a worker for torch's version, which is of a class
    of torch's, so that whoever hears it loads torch.
    """

    @property
    @override
    def backend_cls(self) -> type["_Backend"]:
        return _Backend

    @property
    @override
    def train_func_context(self) -> Any:
        return _on_own_device


class _Backend(Backend):
    share_cuda_visible_devices = True  # so that NCCL's workers on a node see each other's

    @override
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        try:
            self._bring_together(worker_group)
        except RayTaskError:
            # Ray Train (2.60) does not end a group that has failed here: its CPUs stayed taken, and
            # the controller's next attempt waited for them.
            worker_group.get_worker_group_state().placement_group_handle.shutdown()
            raise

    def _bring_together(self, worker_group: Any) -> None:
        size = len(worker_group)
        gpus = worker_group.get_resources_per_worker().get("GPU", 0)
        worker_group.execute(_introduce)  # each imports torch, all at once
        worker_group.execute(heed_termination)
        address, port = worker_group.execute_single(0, _listen, size)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, _meet, "nccl" if gpus else "gloo", address, port, rank, size
                )
                for rank in range(size)
            ]
        )

    @override
    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        try:
            ray.get(worker_group.execute_async(_part), timeout=_PARTING_SECONDS)
        except (RayError, TimeoutError) as error:  # of workers that end in any case
            _log.warning("a group of workers was ended before it had parted: %s", error)


def _on_own_device() -> AbstractContextManager[None]:
    from ray.train.torch.config import TorchConfigContextManager

    return TorchConfigContextManager()  # type: ignore[no-any-return]


def _introduce() -> None:
    """Tell torch in its environment variables which worker this is."""
    from ray.train.torch.config import _set_torch_distributed_env_vars

    _set_torch_distributed_env_vars()


def _listen(size: int) -> tuple[str, int]:
    """Open the store in this process, the first worker's; where it is."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    global _store
    address = ray.util.get_node_ip_address()
    bound = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    bound.bind((address, 0))
    bound.listen()
    port = int(bound.getsockname()[1])
    _store = TCPStore(
        address, port, size, is_master=True, wait_for_workers=False, master_listen_fd=bound.detach()
    )
    return address, port


def _meet(backend: str, address: str, port: int, rank: int, size: int) -> None:
    from torch.distributed import TCPStore, init_process_group  # type: ignore[attr-defined]

    store = _store if rank == 0 else TCPStore(address, port, size, is_master=False)
    init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)


def _part() -> None:
    from torch.distributed import destroy_process_group, is_initialized

    if is_initialized():
        destroy_process_group()
