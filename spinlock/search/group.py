"""A group of Ray Train workers that trains one trial after another.

To start a group takes four processes and 7 s on two idle cores; to hand it the next trial takes
milliseconds. So a trial's process keeps its group, and Tune keeps the process for the next trial.

Both sides speak through a desk, a small actor. For every trial it carries

    the trial's configuration  ->
                               <-  its plan, or a report
    whether to go on           ->
                               ...
                               <-  None: the trial has ended
    None: the group ends       ->

and so the workers wait for the verdict on an epoch before they train the next.
"""

import asyncio
import threading
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import closing, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import train
from ray.exceptions import RayActorError, RayError
from ray.train import Result, TrainingFailedError, WorkerGroupError
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from typing_extensions import override

from spinlock.errors import SearchError
from spinlock.search.causes import causes
from spinlock.search.checkpoints import Report
from spinlock.search.desk import Desk, opened, sealed
from spinlock.search.events import Sizing
from spinlock.search.packed import Packed, unpacked
from spinlock.search.preemption import Notice, Preempted, drained, own_node, passed_on
from spinlock.search.rendezvous import Rendezvous
from spinlock.search.space import Resources

Reports = Generator[Sizing | Report, None, None]
Order = dict[str, Any] | bool | None
_NEVER = 1e9  # seconds: a group is made larger between trials, by another one, not within one
_COORDINATOR = "AutoscalingCoordinator"  # of Ray Train's elastic groups, one for the cluster
_COUNT_SECONDS = 5.0  # as long as Ray Train itself waits for it
_LOOK_SECONDS = 1.0  # how often a trial that waits for a report looks whether its group lives


class _Trainer(DataParallelTrainer):
    """Ray Train with two processes fewer.

    No actor shares out a Ray dataset, of which there is none. And the controller runs in the
    process that asks for the group, which waits for it anyway.
    """

    @override
    def _initialize_and_run_controller(self, **given: Any) -> Result:
        controller = TrainController(**given)
        asyncio.run(controller.run())
        return controller.get_result()

    @override
    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [each for each in callbacks if not isinstance(each, DatasetsCallback)]


class Group:
    """Workers that each make `attempt(configuration, look, leads=rank == 0)` of a trial, in step.

    `look()` says when a node of the group goes, or one of its processes, of which this is one. The
    attempt is packed, and the trainer not Ray's TorchTrainer, so that this process loads no torch.
    """

    def __init__(self, attempt: Packed, resources: Resources, storage: Path, name: str) -> None:
        self._resources = resources
        # Beside this process: on any other machine the group would go with that one, too.
        here = own_node()
        beside = NodeAffinitySchedulingStrategy(here, soft=False)
        desk = ray.remote(num_cpus=0, scheduling_strategy=beside)(Desk)
        self._desk = desk.remote(resources.workers, here)
        self._end: Future[None] = Future()
        if resources.min_workers is not None:
            _count_nodes()
        per_worker: dict[str, float] = {"CPU": resources.cpus_per_worker}
        if resources.gpus_per_worker:
            per_worker["GPU"] = resources.gpus_per_worker
        trainer = _Trainer(
            partial(_serve, attempt, self._desk),
            scaling_config=train.ScalingConfig(
                num_workers=resources.workers
                if resources.min_workers is None
                else (resources.min_workers, resources.workers),
                elastic_resize_monitor_interval_s=_NEVER,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker=per_worker,
            ),
            backend_config=Rendezvous(),
            run_config=train.RunConfig(
                name=name,
                storage_path=str(storage),
                # Retries are the search's: one policy, each attempt in the log. The default
                # limits of -1 would retry a group that cannot start for ever, and start one anew
                # after a preemption, which would wait for a trial that nobody gives it.
                failure_config=train.FailureConfig(
                    max_failures=0, max_preemption_failures=0, controller_failure_limit=3
                ),
            ),
        )
        # A daemon, since `fit` lasts as long as the group, and the process must be able to end.
        threading.Thread(target=self._fit, args=(trainer,), daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether the group can be handed a trial."""
        return not self._end.done()

    @property
    def outgrown(self) -> bool:
        """Whether the group has fewer workers than asked for, and Ray has room for the others."""
        missing = self._resources.workers - ray.get(self._desk.size.remote())
        free = ray.available_resources()
        return missing > 0 and all(
            free.get(kind, 0.0) >= missing * each
            for kind, each in (
                ("CPU", self._resources.cpus_per_worker),
                ("GPU", self._resources.gpus_per_worker),
            )
        )

    def dismiss(self) -> None:
        """End the group between two trials, and wait until its workers are gone."""
        self._send(None)
        self._end.result()

    def reports(self, configuration: dict[str, Any]) -> Reports:
        """Train a trial; closed early, the workers end it and are free for the next.

        Raises what ended the group, if it ends: WorkerGroupError when a worker raised or died,
        Preempted when it left a machine that is about to be taken away, or went with one.
        """
        with passed_on(partial(_warn, self._desk)) as notice:
            self._send(configuration)
            while (report := self._hear(notice)) is not None:
                try:
                    yield report
                except GeneratorExit:
                    # The trial has its verdict: if the group ends now, that is no failure of the
                    # trial, and the next one finds the group dead.
                    with suppress(TrainingFailedError, SearchError):
                        self._send(False)
                        self._hear(notice)
                    raise
                self._send(True)

    def _fit(self, trainer: _Trainer) -> None:
        try:
            trainer.fit()
            self._end.set_result(None)
        except BaseException as error:  # noqa: BLE001 - raised where the trial waits
            self._end.set_exception(error)

    def _send(self, message: Order) -> None:
        ray.get(self._desk.send.remote(sealed(message)))

    def _hear(self, notice: Notice) -> Sizing | Report | None:
        answer = self._desk.hear.remote()
        while not ray.wait([answer], timeout=_LOOK_SECONDS)[0]:
            if notice.reason is not None and len(ray.get(self._desk.outlook.remote())[0]) == 1:
                raise Preempted(notice.reason)  # no worker has come yet that could save the trial
            if not self.alive:
                try:
                    self._end.result()
                except WorkerGroupError as error:
                    for _, cause in causes(error):
                        if isinstance(cause, RayActorError) and cause.preempted:
                            raise Preempted(str(cause)) from None
                    raise
                raise SearchError("the group of Ray Train workers has ended without a reason.")
        report: Sizing | Report | None = opened(ray.get(answer))
        return report


def _count_nodes() -> None:
    """Have Ray Train look now which nodes there are, as it does by itself every 20 s.

    By its last look it says how many workers an elastic group may have, so that a group would wait
    for a node that is gone, and do without one that has come.
    """
    # It may not be there yet, or have gone with its node: then the next one looks as it begins.
    with suppress(ValueError, RayError):
        coordinator = ray.get_actor(_COORDINATOR, namespace=_COORDINATOR)
        look = coordinator.get_reserved_resources.remote("spinlock", recompute=True)
        ray.get(look, timeout=_COUNT_SECONDS)


def _warn(desk: Any, reason: str) -> None:
    ray.get(desk.warn.remote(reason))


def _serve(packed: Packed, desk: Any) -> None:
    attempt = unpacked(packed)
    context = train.get_context()
    rank = context.get_world_rank()
    ray.get(desk.arrive.remote(own_node(), context.get_world_size()))

    def look() -> str | None:
        nodes, warning = ray.get(desk.outlook.remote())
        return warning or drained(nodes)

    def ordered() -> Any:
        return opened(ray.get(desk.receive.remote(rank)))

    def tell(report: Sizing | Report | None) -> None:
        if rank == 0:
            ray.get(desk.tell.remote(sealed(report)))

    while True:
        configuration = ordered()
        if configuration is None:
            return
        with (
            passed_on(partial(_warn, desk)) if rank else nullcontext(),
            closing(attempt(configuration, look, leads=rank == 0)) as reports,
        ):
            for report in reports:
                if isinstance(report, Report):
                    # Ray Train's own account of the run; the search goes by what the desk carries.
                    train.report({"epoch": report.epoch, **report.metrics})
                tell(report)
                if not ordered():
                    break
        tell(None)
