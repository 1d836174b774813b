"""Where the workers of a Ray Train group meet: a store on the first worker's own address.

Stock Ray Train has torch make that store, a TCPStore that listens on every interface whatever
address it is given. Whoever reaches it may read and write the group's keys, so here it is handed a
socket that is bound already: to loopback on a Ray of our own, to the node's address on others.
"""

import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from typing_extensions import override

from spinlock.search.preemption import heed_termination

_store: TCPStore | None = None  # of the first worker, for as long as its process lasts


@dataclass
class Rendezvous(TorchConfig):
    """Ray Train's settings of a group, with the store above."""

    @property
    @override
    def backend_cls(self) -> type["_Backend"]:
        return _Backend


class _Backend(_TorchBackend):
    @override
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        size = len(worker_group)
        gpus = worker_group.get_resources_per_worker().get("GPU", 0)
        backend = backend_config.backend or ("nccl" if gpus else "gloo")
        address, port = worker_group.execute_single(0, _listen, size)
        worker_group.execute(_set_torch_distributed_env_vars)
        worker_group.execute(heed_termination)
        patience = timedelta(seconds=backend_config.timeout_s)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, _meet, backend, address, port, rank, size, patience
                )
                for rank in range(size)
            ]
        )


def _listen(size: int) -> tuple[str, int]:
    """Open the store in this process, the first worker's; where it is."""
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


def _meet(backend: str, address: str, port: int, rank: int, size: int, patience: timedelta) -> None:
    store = _store if rank == 0 else TCPStore(address, port, size, is_master=False)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)
