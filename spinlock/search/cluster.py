"""Ray, started on this machine for one search, or joined where it runs already.

A Ray of our own listens on loopback only. Traps of Ray 2.60 that are handled here:
- a node whose address is not loopback binds GCS, raylet and workers to every interface (for the
  workers of Ray Train see `rendezvous`);
- it writes the token that it asks for as a file that everyone on the machine may read;
- the memory monitor kills innocent trials, also when it is others who fill the node: it is off,
  and the kernel's own killer takes one process, which is an ordinary, retried failure (a joined
  Ray has its own settings, and `memory_kill` what follows from it);
- when the process of a Ray Train group's trial is killed, the group's CPUs are freed by a detached
  cleaner that asks the state API, so `ray_train` always starts the dashboard, which answers it;
  it looks for that on the machine, and gives up where it finds two, so the address is given to it;
- it warns of many processes where a few groups of Ray Train start, which is told to be meant;
- `ray.init` puts its own handler of SIGTERM, which exits at once, in place of the process's;
- Tune ends the whole search when one report lacks a metric: that check is off, a missing
  objective is a verdict on that trial alone.
"""

import fcntl
import logging
import math
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants

from spinlock.errors import SearchError
from spinlock.search.growth import Machines, amount, machines, workers_on
from spinlock.search.secret import protect_token
from spinlock.search.space import Resources

DRIVER = "trial_driver"  # a custom resource, so that a Train trial's own process takes no CPU
_PLENTY = 1000  # of those
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # its banner is printed at every verbosity
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Tune's own snapshots are never read back: the log is the state of the search.
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
_API = ray_constants.RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # makes 127.0.0.1 the node's address
_MONITOR = "RAY_memory_monitor_refresh_ms"
_MANY = "RAY_worker_maximum_startup_concurrency"  # Ray warns from four times as many processes on
_MACHINE_SECONDS = 1800  # that a group waits for room on a Ray that is not our own, at each attempt
_PER_WORKER = 6  # a trial with a group of one has five, and there is a spare


@dataclass(frozen=True)
class Cluster:
    """A connected Ray: how many trials may fit at once, of which some wait for machines to come.

    Then its dashboard, and GPUs that no trial asks for.
    """

    concurrent: int
    waiting: int
    dashboard: str | None
    idle_gpus: int


@contextmanager
def connect(
    resources: Resources, *, address: str | None = None, dashboard: bool = True, share: int = 1
) -> Iterator[Cluster]:
    """Ray for the duration of a search, one of `share` searches that divide it.

    Raises SearchError when no trial could ever run there.
    """
    _prepare()
    environment = {"env_vars": worker_environment(resources, local=address is None)}
    if address is not None:
        context = _join(address, environment)
    else:
        cpus = resources.workers * resources.cpus_per_worker
        concurrent = resources.at_once_here
        dashboard = dashboard or resources.execution == "ray_train"
        context = _start(concurrent * cpus, concurrent, dashboard, environment)
    try:
        url, there = context.dashboard_url, machines()
        concurrent = _room(there, resources, share)
        fits = int(there.now(lambda machine: workers_on(machine, resources)))
        yield Cluster(
            concurrent,
            max(0, concurrent - fits // resources.fewest // share),
            f"http://{url}" if url else None,
            0 if resources.gpus_per_worker else int(there.now(amount("GPU"))),
        )
    finally:
        ray.shutdown()


@contextmanager
def shared(searches: Sequence[Resources], *, address: str | None = None) -> Iterator[str]:
    """The address of a Ray for several searches at once, each from a process of its own.

    It is one of our own, or the one at `address`. Raises SearchError where a trial of each does
    not fit at the same time.
    """
    _prepare()
    if address is not None:
        _join(address, {})
    else:
        os.environ |= _worker_environment_here()  # a search that joins does not know this machine
        least = sum(s.workers * s.cpus_per_worker * (s.concurrent or 1) for s in searches)
        dashboard = any(search.execution == "ray_train" for search in searches)
        cpus = max(least, os.cpu_count() or 1)
        address = _start(cpus, _PLENTY, dashboard, {}).address_info["gcs_address"]
    try:
        there = machines()
        for name, kind, asked in (
            ("CPUs", "CPU", [s.workers * s.cpus_per_worker for s in searches]),
            ("GPUs", "GPU", [s.workers * s.gpus_per_worker for s in searches]),
        ):
            total = there.ever(amount(kind))
            if sum(asked) > total:
                raise SearchError(
                    f"the searches do not fit side by side: a trial of each takes "
                    f"{' and '.join(f'{n:g}' for n in asked)} {name}, and this Ray comes to "
                    f"{total:g}. Ask for less under resources."
                )
        yield address
    finally:
        ray.shutdown()


def _prepare() -> None:
    if ray.is_initialized():
        raise SearchError("Ray is running in this process already: call ray.shutdown() first.")
    os.environ |= _QUIET
    # Tune would warn of result files that we do not want, and advise Tuner.restore.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def _start(cpus: int, drivers: int, dashboard: bool, environment: dict[str, Any]) -> Any:
    os.environ |= _LOOPBACK
    os.environ.setdefault(_MONITOR, "0")  # whoever sets it wants it
    protect_token()
    ray_constants.ENABLE_RAY_CLUSTER = False  # was read when ray was imported
    many = os.environ.get(_MANY) or str(_PER_WORKER * cpus)
    with _in_turn() if dashboard else nullcontext():
        port = _free_port() if dashboard else None
        with _told({_API: None if port is None else f"http://127.0.0.1:{port}", _MANY: many}):
            return _init(
                address="local",  # without it Ray joins another search's Ray on this machine
                num_cpus=cpus,
                resources={DRIVER: drivers},
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                dashboard_port=port,
                runtime_env=environment,
            )


def _init(**how: Any) -> Any:
    """Ray connected, with SIGTERM left to whoever had it; one that comes meanwhile interrupts."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        return ray.init(log_to_driver=False, logging_level=logging.ERROR, **how)
    except SystemExit:  # Ray's own answer to SIGTERM
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _in_turn() -> Iterator[None]:
    """Of searches that are begun at the same moment, one after the other chooses its port.

    Each waits until the one before it listens there.
    """
    place = Path(tempfile.gettempdir()) / f"spinlock-{os.getuid()}.lock"
    try:
        lock = os.fdopen(os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise SearchError(
            f"{place}: cannot be locked while Ray starts: {error.strerror}. Remove it, or set "
            "TMPDIR to a directory of your own."
        ) from None
    with lock:
        yield


def _free_port() -> int:
    """Where the dashboard listens: 8265, or the next port that is free."""
    for port in range(ray_constants.DEFAULT_DASHBOARD_PORT, 2**16):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise SearchError("no port of 127.0.0.1 is free for Ray's dashboard.")


@contextmanager
def _told(words: dict[str, str | None]) -> Iterator[None]:
    """Ray's processes that are started inside find these in their environment; None: nothing."""
    before = {name: os.environ.get(name) for name in words}
    _put(words)
    try:
        yield
    finally:
        _put(before)


def _put(words: dict[str, str | None]) -> None:
    for name, word in words.items():
        if word is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = word


def _join(address: str, environment: dict[str, Any]) -> Any:
    protect_token(make=False)
    try:
        return _init(address=address, runtime_env=environment)
    except RuntimeError as error:
        ray.shutdown()  # it is connected by now
        if not str(error).startswith("Version mismatch"):
            raise
        told = "; ".join(filter(None, map(str.strip, str(error).splitlines()[1:])))
        raise SearchError(
            f"{address}: another version than here: {told}. Install the same on both sides: "
            "constraints.txt has the versions."
        ) from None
    except ConnectionError as error:
        raise SearchError(
            f"{address}: {str(error).splitlines()[0]}. Is a Ray of version {ray.__version__} "
            "running there? If it asks for a token, set RAY_AUTH_MODE=token."
        ) from None


def worker_environment(resources: Resources, *, local: bool) -> dict[str, str]:
    """What every worker process finds in its environment before it imports torch."""
    environment = {
        "OMP_NUM_THREADS": str(resources.cpus_per_worker),
        # Threads that spin while they wait take the core from the trial beside them.
        "OMP_WAIT_POLICY": "PASSIVE",
        # A stopped trial that takes longer to end makes the next one in its process an error.
        "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(resources.train_poll_seconds),
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_TRAIN_METRICS_ENABLED": "0",
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # the dashboard lists the runs
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    }
    if not resources.gpus_per_worker:
        # Else a trial that asked for no GPU takes one all the same, unseen by Ray's account.
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if local:
        return environment | _worker_environment_here()
    if resources.min_workers is None:  # an elastic group begins with fewer, after Ray's own minute
        environment["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(_MACHINE_SECONDS)
    return environment


def _worker_environment_here() -> dict[str, str]:
    """The part that holds on this machine alone."""
    return {
        # Gloo binds to what the host's name resolves to, which may be no address of the group.
        "GLOO_SOCKET_IFNAME": "lo",
        # A worker can import what its driver can.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }


def _room(machines: Machines, resources: Resources, share: int) -> int:
    """How many trials of one of `share` searches the connected cluster may hold at once."""
    drivers = machines.now(amount(DRIVER))
    conducts = drivers if resources.execution == "ray_train" else math.inf
    workers = machines.ever(lambda machine: workers_on(machine, resources))
    fits = workers // resources.workers or min(1, workers // resources.fewest)
    if fits < 1:
        asked = f"{resources.cpus_per_worker} CPUs and {resources.gpus_per_worker:g} GPUs"
        if resources.fewest > 1:
            asked = f"{resources.fewest} times {asked}"
        most = [machines.ever(amount(kind)) for kind in ("CPU", "GPU")]
        raise SearchError(
            f"no trial fits: one takes {asked}, each worker's on one machine, and this Ray comes "
            f"to {most[0]:g} CPUs and {most[1]:g} GPUs. Ask for less under resources."
        )
    if conducts < 1:
        raise SearchError(
            f"no trial can begin: Ray has no {DRIVER}, of which one conducts each. Start the head "
            f"with --resources='{{\"{DRIVER}\":1000}}', or set resources.execution=in_process."
        )
    fits = int(min(fits, conducts))
    if resources.concurrent is not None:
        return min(fits, resources.concurrent)
    return max(1, fits // share)
