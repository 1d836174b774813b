"""Whole searches on a real Ray and a real Optuna, with a small model that is really trained."""

import gc
import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import requests
from ray.tune.experiment import Trial as TuneTrial
from rich.console import Console
from searching import Regression, RegressionConfig, RegressionTrainer, told, without_ray
from test_searcher_optuna import agree, load

from spinlock import artifact
from spinlock.errors import ArtifactError, SearchError
from spinlock.search import cluster
from spinlock.search.events import State
from spinlock.search.fetch import export_whole
from spinlock.search.ledger import Ledger, read_ledger
from spinlock.search.noa import NOA
from spinlock.search.replay import replay
from spinlock.search.results import best, export
from spinlock.search.space import Study
from spinlock.search.study import StudyResult, run
from spinlock.training.config import training_config

pytestmark = pytest.mark.slow


def study(**changes: object) -> Study:
    return Study.model_validate(
        {
            "name": "rules",
            "trials": 12,
            "seed": 1,
            "resources": {"execution": "in_process", "concurrent": 2},
            "scheduler": {"kind": "asha", "grace_epochs": 2, "reduction_factor": 3},
            "guards": [{"kind": "commit_climb"}],
            "training": {"epochs": 6, "nan_above": 0.2, "climb_above": 1.0},
            "space": {
                "optimizer.lr": {"log_uniform": [1e-4, 0.4]},
                "loss.lambda_commit": {"log_uniform": [0.1, 3]},
                "batch_size": {"choice": [4, 8, 16]},
            },
            "start": [
                {"optimizer.lr": 0.05, "loss.lambda_commit": 0.5, "batch_size": 4},
                {"optimizer.lr": 0.3, "loss.lambda_commit": 0.5, "batch_size": 8},
                {"optimizer.lr": 0.04, "loss.lambda_commit": 2.0, "batch_size": 8},
                {"optimizer.lr": 0.16, "loss.lambda_commit": 0.5, "batch_size": 4},
                {"optimizer.lr": 1e-4, "loss.lambda_commit": 0.5, "batch_size": 8},
            ],
            **changes,
        }
    )


class Counting(Console):
    """Counts Tune's trials of a search when the last one starts."""

    def __init__(self, experiment: Path, counts: list[int]) -> None:
        super().__init__(stderr=True)
        self._experiment, self._counts = str(experiment), counts

    def print(self, *objects: Any, **options: Any) -> None:
        if str(objects[0]).startswith("trial 11: started"):
            gc.collect()
            held = [each for each in gc.get_objects() if type(each) is TuneTrial]
            mine = [each for each in held if self._experiment in str(each.config)]
            self._counts.append(len(mine))
        super().print(*objects, **options)


@pytest.fixture(scope="module")
def held() -> list[int]:
    return []


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, held: list[int]) -> StudyResult:
    """Twelve trials, among them ones that go NaN, climb, are killed, and raise."""
    directory = tmp_path_factory.mktemp("searched")
    training = {
        **{"epochs": 6, "nan_above": 0.2, "climb_above": 1.0},
        **{"raise_below": 1.2e-4, "die_above": 0.15, "die_once": str(directory / "died")},
    }
    experiment = directory / "x"
    return run(
        study(training=training),
        Regression(),
        experiment,
        dashboard=False,
        console=Counting(experiment, held),
    )


def curve(ledger: Ledger, number: int) -> dict[int, dict[str, str]]:
    """What training this trial's configuration straight through reports."""
    values = ledger.study.configuration(ledger.trials[number].parameters)
    trainer = RegressionTrainer(RegressionConfig.model_validate(values))
    if trainer.config.optimizer.lr < trainer.config.raise_below:
        return {}
    return {
        report.epoch: {k: repr(v) for k, v in report.metrics.items() if k != "seconds"}
        for report in trainer.epochs()
    }


def test_tune_holds_only_trials_that_run_or_have_just_ended(
    searched: StudyResult, held: list[int]
) -> None:
    assert 1 <= held[0] <= 5 < len(searched.ledger.trials)


def test_every_trial_of_a_search_is_accounted_for_once(searched: StudyResult) -> None:
    ledger = searched.ledger
    assert searched.finished
    assert list(ledger.trials) == list(range(12))
    assert not ledger.unfinished
    states = [trial.state() for trial in ledger.trials.values()]
    every = {State.COMPLETED, State.PRUNED, State.GUARDED, State.INFEASIBLE, State.FAILED}
    assert set(states) == every
    assert told(read_ledger(searched.experiment)) == told(ledger)


def test_every_verdict_is_a_sentence_with_numbers(searched: StudyResult) -> None:
    trials = searched.ledger.trials
    sentences = [trial.verdict.sentence for trial in trials.values() if trial.verdict]
    assert len(sentences) == 12
    assert all(any(c.isdigit() for c in s) for s in sentences if s != "the loss is NaN")
    assert trials[1].verdict is not None
    assert trials[1].verdict.rule == "nonfinite"
    assert trials[2].verdict is not None
    assert "above 2 times its minimum" in trials[2].verdict.sentence


def test_a_searched_trial_has_the_numbers_of_training_alone(searched: StudyResult) -> None:
    measured = told(searched.ledger)
    for number, trial in searched.ledger.trials.items():
        alone = curve(searched.ledger, number)
        assert measured[number][1] == {e: alone[e] for e in range(1, trial.epochs + 1)}


def test_a_killed_trial_process_is_retried_from_its_checkpoint(searched: StudyResult) -> None:
    killed = searched.ledger.trials[3]
    assert (searched.experiment.parent / "died").exists()
    assert killed.attempts == 2
    assert len(killed.crashes) == 1
    assert killed.state() in (State.COMPLETED, State.PRUNED)
    assert killed.epochs >= 3


def test_a_trial_that_raises_is_given_up_after_its_retries_with_the_reason(
    searched: StudyResult,
) -> None:
    raised = searched.ledger.trials[4]
    assert raised.attempts == 2
    assert raised.verdict is not None
    assert raised.verdict.sentence == "ValueError: a rate of 0.0001 cannot be"


def test_every_decision_of_two_workers_is_derived_again_from_the_log(
    searched: StudyResult,
) -> None:
    found = replay(searched.experiment, {"regression": Regression()})
    assert found.differences == []
    assert found.suggestions == 12
    assert found.reports == sum(len(trial.history) for trial in searched.ledger.trials.values())


def test_a_nan_trial_stands_in_no_rung(searched: StudyResult) -> None:
    nan = searched.ledger.trials[1]
    assert nan.epochs == 2, "stopped at the first report that showed it"
    assert math.isnan(nan.history[2]["val/traj"])
    assert all(1 not in rung for rung in searched.ledger.rungs.values())


def test_optuna_agrees_on_every_trial_and_none_is_left_running(searched: StudyResult) -> None:
    agree(read_ledger(searched.experiment), load(searched.experiment))


def test_the_tables_are_beside_the_log(searched: StudyResult) -> None:
    assert pq.read_table(searched.experiment / "trials.parquet").num_rows == 12
    epochs = pq.read_table(searched.experiment / "epochs.parquet").num_rows
    assert epochs == sum(trial.epochs for trial in searched.ledger.trials.values())


def test_the_best_is_the_epoch_that_scored_it_and_its_export_is_judged_again(
    searched: StudyResult, tmp_path: Path
) -> None:
    found = best(searched.experiment)
    completed = [t for t in searched.ledger.trials.values() if t.state() == State.COMPLETED]
    lowest = min(m["val/traj"] for t in completed for m in t.history.values())
    assert found.scores == (lowest,)
    exported = export(searched.experiment, tmp_path / "out", {"regression": Regression()})
    assert exported.difference == 0.0
    assert set(exported.recorded) == {"val/traj", "val/commit", "val/latent"}
    kept = artifact.load(tmp_path / "out", "regression")
    assert kept.metrics["epoch"] == found.epoch
    assert kept.provenance["trial"] == found.trial
    assert kept.provenance["study"]["name"] == "rules"
    assert kept.provenance["problem"] == "seed 0"


def test_an_export_that_does_not_reproduce_its_metrics_is_refused(
    searched: StudyResult, tmp_path: Path
) -> None:
    found = best(searched.experiment)
    other = next(p for p in found.checkpoint.parent.iterdir() if p != found.checkpoint)
    hidden = found.checkpoint.with_name("hidden")
    found.checkpoint.rename(hidden)
    other.rename(found.checkpoint)  # the weights of another epoch in its place
    try:
        with pytest.raises(ArtifactError, match="does not reproduce its metrics: val/"):
            export(searched.experiment, tmp_path / "out", {"regression": Regression()})
    finally:
        found.checkpoint.rename(other)
        hidden.rename(found.checkpoint)


class Worse(Regression):
    """Its exported models are not what they were."""

    def evaluate(self, _: Path) -> dict[str, float]:
        return {"val/traj": 1e9}


def test_what_is_exported_to_be_fetched_is_there_only_if_it_gives_its_metrics_again(
    searched: StudyResult, tmp_path: Path
) -> None:
    place, number = tmp_path / "exported", best(searched.experiment).trial
    with pytest.raises(ArtifactError, match="does not reproduce"):
        export_whole(searched.experiment, place, {"regression": Worse()}, number)
    assert not [*tmp_path.iterdir()]
    export_whole(searched.experiment, place, {"regression": Regression()}, number)
    assert [*tmp_path.iterdir()] == [place]


def test_a_finished_search_is_extended_by_asking_for_more(searched: StudyResult) -> None:
    """Resumed with the same number of trials it has nothing to do, and starts no Ray."""
    before = told(searched.ledger)
    again = run(searched.ledger.study, Regression(), searched.experiment, resume=True)
    assert again.finished
    assert told(again.ledger) == before
    with pytest.raises(SearchError, match="a search of 12 trials stands here"):
        run(searched.ledger.study, Regression(), searched.experiment)


class Looking(Regression):
    """Tells what a worker sees of its group: what has loaded torch, and Ray Train's own page."""

    def __init__(self, seen: Path) -> None:
        self.seen = seen

    def build(self, config: RegressionConfig) -> RegressionTrainer:
        raylet = psutil.Process().parent()
        assert raylet is not None
        loaded = []
        for process in raylet.children():
            with suppress(psutil.Error):  # it has just ended
                if any("libtorch_cpu" in mapped.path for mapped in process.memory_maps()):
                    loaded.append(" ".join(process.cmdline()))
        page = f"{os.environ['RAY_API_SERVER_ADDRESS']}/api/train/v2/runs/v1"
        token = (Path.home() / ".ray" / "auth_token").read_text()
        answer = requests.get(page, headers={"Authorization": f"Bearer {token}"}, timeout=30)
        with self.seen.open("a") as stream:
            stream.write(json.dumps([loaded, answer.json()["train_runs"]]) + "\n")
        return super().build(config)


def test_a_ray_train_group_trains_trial_after_trial_with_the_numbers_of_one_process(
    tmp_path: Path,
) -> None:
    """Completed, stopped by ASHA and by itself; the fourth kills the group, and is retried."""
    start = [
        {"optimizer.lr": 0.05, "loss.lambda_commit": 0.5, "batch_size": 4},
        {"optimizer.lr": 0.001, "loss.lambda_commit": 0.5, "batch_size": 8},
        {"optimizer.lr": 0.3, "loss.lambda_commit": 0.5, "batch_size": 8},
        {"optimizer.lr": 0.16, "loss.lambda_commit": 0.5, "batch_size": 4},
    ]
    kills = {"die_above": 0.15, "die_once": str(tmp_path / "died")}
    wanted = study(
        trials=4,
        resources={"execution": "ray_train", "concurrent": 1, "workers": 2},
        searcher={"kind": "random"},
        training={"epochs": 6, "nan_above": 0.2, **kills},
        start=start,
    )
    seen = tmp_path / "seen"
    trials = run(wanted, Looking(seen), tmp_path / "ray").ledger.trials
    states = [trial.state() for trial in trials.values()]
    assert states[:3] == [State.COMPLETED, State.PRUNED, State.INFEASIBLE]
    assert [len(trial.crashes) for trial in trials.values()] == [0, 0, 0, 1]
    assert ": ActorDiedError: The actor died unexpectedly" in trials[3].crashes[0]  # of either
    groups = list((tmp_path / "ray" / "ray" / "train").iterdir())
    assert len(groups) == 2, "one group for the first three trials and until it dies, one after"
    undisturbed = without_ray(wanted, tmp_path / "plain")
    assert told(read_ledger(tmp_path / "ray")) == told(undisturbed)
    looks = [json.loads(line) for line in seen.read_text().splitlines()]
    loaded = {title[:19] for titles, _ in looks for title in titles}
    assert loaded == {"ray::RayTrainWorker"}, "what conducts a group needs no torch"
    (first,) = looks[0][1]
    assert first["name"].startswith("ray-trial-00000-attempt-1")


def test_a_group_whose_workers_cannot_meet_leaves_its_room_and_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = cluster._worker_environment_here()
    monkeypatch.setattr(
        cluster, "_worker_environment_here", lambda: here | {"GLOO_SOCKET_IFNAME": "absent0"}
    )
    wanted = study(
        trials=2, retries=0, resources={"execution": "ray_train", "concurrent": 1}, start=[]
    )
    trials = run(wanted, Regression(), tmp_path / "x").ledger.trials.values()
    told = [trial.verdict.sentence for trial in trials if trial.verdict is not None]
    assert len(told) == 2
    assert all("absent0" in sentence for sentence in told), "not that there is no room for a group"


def test_two_ray_train_workers_train_a_noa_to_the_metrics_of_one(
    tmp_path: Path, tiny_data: Path, tiny_tokenizer: Path
) -> None:
    """At the same effective batch, of which each worker has a half."""
    wanted = Study.model_validate(
        {
            "name": "halves",
            "trials": 1,
            "resources": {"workers": 2, "concurrent": 1},
            "searcher": {"kind": "random"},
            "training": {
                "data": {"path": str(tiny_data)},
                "tokenizer": str(tiny_tokenizer),
                "epochs": 2,
                "rollout": {"timesteps": 8},
                "model": {"base_channels": 4, "encoder_levels": 1, "modes": 4, "afno_blocks": 1},
            },
            "space": {"batch_size": {"choice": [4]}},
        }
    )
    result = run(wanted, NOA(), tmp_path / "x")
    (trial,) = result.ledger.trials.values()
    assert trial.state() == State.COMPLETED, trial.verdict
    straight = NOA().build(training_config(wanted.configuration(trial.parameters), where="x"))
    for epoch in straight.epochs():
        for name, value in epoch.metrics.items():
            if name.startswith(("train/", "val/")):
                assert trial.history[epoch.epoch][name] == pytest.approx(value, rel=1e-3), name
