"""A desk where a trial's process and its workers leave messages for each other, in order.

It is a process of its own in every group, so it imports nothing but this: messages are sealed, and
what is in them is imported by those who open them.
"""

import asyncio
from typing import Any

import ray

Sealed = list[Any]


def sealed(message: Any) -> Sealed:
    """A reference that Ray leaves as it is, since it stands in a list."""
    return [ray.put(message)]


def opened(message: Sealed) -> Any:
    return ray.get(message[0])


class Desk:
    """Orders for each of at most so many workers, reports from the first of them."""

    def __init__(self, workers: int, node: str) -> None:
        self._nodes, self._size = [node], workers
        self._warning: str | None = None
        self._reports: asyncio.Queue[Sealed] = asyncio.Queue()
        self._orders = [asyncio.Queue[Sealed]() for _ in range(workers)]  # nobody may read the last

    async def send(self, order: Sealed) -> None:
        for orders in self._orders:
            orders.put_nowait(order)

    async def receive(self, rank: int) -> Sealed:
        return await self._orders[rank].get()

    async def arrive(self, node: str, size: int) -> None:
        """A worker of `size`, on this node, is there."""
        self._nodes.append(node)
        self._size = size

    async def warn(self, reason: str) -> None:
        """One of the group's processes is about to go."""
        self._warning = self._warning or reason

    async def outlook(self) -> tuple[list[str], str | None]:
        """The nodes of the group, and the first warning."""
        return self._nodes, self._warning

    async def size(self) -> int:
        return self._size

    async def tell(self, report: Sealed) -> None:
        self._reports.put_nowait(report)

    async def hear(self) -> Sealed:
        return await self._reports.get()
