"""Whether every node of a joined Ray sees what the driver's node sees, asked before a search.

A trial takes its data, its tokenizer and its last checkpoint from paths, on whichever node it
runs. Where those are a node's own disk, a trial that moves would begin anew, or never begin.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from spinlock.config import Config
from spinlock.errors import SearchError, SpinlockError
from spinlock.search.trainable import Trainable

_PATIENCE = 120  # seconds for a node to start a process and read the data once


def require_shared(
    experiment: Path, trainable: Trainable, config: Config, facts: Mapping[str, Any]
) -> None:
    """Raise SearchError unless each node of the connected Ray reads a file written to `experiment`
    just now, may write there, and finds `facts` about the files of `config`.

    Nodes that join later are not asked: there a trial fails that finds no experiment.
    """
    here = ray.get_runtime_context().get_node_id()
    others = {name: node for name, node in _alive().items() if name != here}
    mark, word = experiment / f".seen-{uuid4().hex}", uuid4().hex
    mark.write_text(word)
    try:
        asked = {name: _ask(name, mark, word, trainable, config, dict(facts)) for name in others}
        if asked:
            ray.wait([*asked.values()], num_returns=len(asked), timeout=_PATIENCE)
        found = {name: _answer(answer) for name, answer in asked.items()}
    finally:
        mark.unlink()
    left = _alive()  # one that was lost meanwhile is no obstacle
    faults = [
        f"node {others[name]}: {fault}"
        for name, fault in found.items()
        if fault is not None and name in left
    ]
    if faults:
        raise SearchError(
            f"{experiment}: not every node of this Ray sees what this one sees. "
            f"{'; '.join(faults)}. Experiment, data and tokenizer must be on storage that all "
            "nodes have under the same paths."
        )


def _alive() -> dict[str, str]:
    """Ray's names of the nodes, with what a person calls them."""
    return {
        node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        for node in ray.nodes()
        if node["Alive"]
    }


def _ask(node: str, *question: Any) -> Any:
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(_look).options(num_cpus=0, scheduling_strategy=there).remote(*question)


def _answer(asked: Any) -> str | None:
    try:
        fault: str | None = ray.get(asked, timeout=0)
    except RayError as error:
        return f"it cannot look: {str(error).strip().splitlines()[-1]}"
    return fault


def _look(
    mark: Path, word: str, trainable: Trainable, config: Config, facts: Mapping[str, Any]
) -> str | None:
    """What this node does not see; None if it sees all."""
    try:
        if mark.read_text() != word:
            return f"{mark.parent} is another directory there"
    except OSError as error:
        return f"what was written to {mark.parent} is not there ({error.strerror})"
    if not os.access(mark.parent, os.W_OK):
        return f"{mark.parent} cannot be written there"
    try:
        found = trainable.facts(config)
    except SpinlockError as error:
        return str(error).rstrip(".")
    other = [name for name, value in facts.items() if found.get(name) != value]
    return f"the {' and the '.join(other)} is not the same there" if other else None
