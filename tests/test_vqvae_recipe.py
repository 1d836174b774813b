"""The documents' keys: each is read, has its documented default, and changes what it names."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from spinlock import artifact
from spinlock.cli import commands
from spinlock.config import read, replace
from spinlock.data.generate import GenerateConfig, generate
from spinlock.features import FeatureConfig
from spinlock.training import recipe as recipe_module
from spinlock.training.prepare import train_and_export
from spinlock.training.recipe import VQVAERecipe
from spinlock.training.trainer import Trainer

DOCUMENTED = {
    "embedding_dim": 126,
    "compression_ratios": "0.5:1:1.5",
    "epochs": 410,
    "batch_size": 1024,
    "learning_rate": 0.0007,
    "commitment_cost": 0.5,
    "orthogonality_weight": 0.1,
    "informativeness_weight": 0.1,
    "topo_weight": 0.45,
    "topo_samples": 1024,
    "category_assignment": "auto",
    "num_categories_auto": None,
    "orthogonality_target": 0.25,
    "max_clusters": 50,
    "dead_code_reset_interval": 10000,
    "dead_code_threshold": 10.0,
    "ema_decay": 0.995,
    "checkpoint_use_composite": True,
    "checkpoint_loss_weight": 1.0,
    "checkpoint_topo_weight": 0.5,
    "checkpoint_quality_weight": 0.5,
    "early_stopping_patience": 250,
    "early_stopping_min_delta": 0.001,
    "val_every_n_epochs": 5,
    "use_torch_compile": True,
}
SMALL = {
    "epochs": 3,
    "batch_size": 16,
    "embedding_dim": 6,
    "hidden_dim": 8,
    "decoder_hidden_dim": 8,
    "partial_hidden_dim": 8,
    "samples_per_code": 2,
    "topo_samples": 12,
    "val_every_n_epochs": 1,
    "features": {"families": ["initial"]},
    "frames": 6,
    "use_torch_compile": False,
    "ema_decay": 0.9,
    "max_clusters": 6,
    "validation_fraction": 0.2,
}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> tuple[Path, Path]:
    """Two small files of different operators."""
    directory = tmp_path_factory.mktemp("data")
    paths = []
    for seed in (0, 1):
        domain = {
            "kind": "cno",
            "num_layers": {"kind": "integer", "low": 1, "high": 1},
            "base_channels": {"kind": "integer", "low": 2, "high": 3},
        }
        config = GenerateConfig.model_validate(
            {"operators": 40, "seed": seed, "grid": 8, "frames": 8, "domain": domain}
        )
        generate(config, directory / f"{seed}.h5")
        paths.append(directory / f"{seed}.h5")
    return paths[0], paths[1]


class Run:
    """A short training run, and everything about it that a key may change."""

    def __init__(self, directory: Path, data: Path, **changes) -> None:
        document = replace({**SMALL, "input": str(data), "output": str(directory / "run")}, changes)
        recipe = VQVAERecipe.model_validate(document)
        self.output = recipe.output
        trainer = Trainer(recipe.training())
        self.reports = []
        train_and_export(
            trainer, recipe.output, progress=lambda report, _: self.reports.append(report)
        )
        self.task = trainer.task
        self.state = trainer.state

    @property
    def shapes(self):
        return {name: tuple(p.shape) for name, p in self.task.vqvae.named_parameters()}

    @property
    def layout(self):
        return self.task.vqvae.layout

    @property
    def weights(self):
        values = [p.detach().flatten() for p in self.task.vqvae.parameters()]
        return torch.cat([*values, self.task.vqvae.bank.codebooks.flatten()]).tolist()

    @property
    def codebooks(self):
        return self.task.vqvae.bank.codebooks.tolist()

    @property
    def composite(self):
        return [report.metrics["quality/composite"] for report in self.reports]

    @property
    def groups(self):
        return self.task.categories.groups

    @property
    def columns(self):
        return self.task.standardizer.names


GROUPED = {"one": ("initial.spatial.log_variance.mean",)}

# Key -> the values that differ from SMALL's, and what must differ for it.
EFFECTS = {
    "embedding_dim": ({"embedding_dim": 5}, "shapes"),
    "hidden_dim": ({"hidden_dim": 9}, "shapes"),
    "decoder_hidden_dim": ({"decoder_hidden_dim": 9}, "shapes"),
    "partial_hidden_dim": ({"partial_hidden_dim": 9}, "shapes"),
    "dropout": ({"dropout": 0.5}, "weights"),
    "compression_ratios": ({"compression_ratios": "0.5:2"}, "layout"),
    "samples_per_code": ({"samples_per_code": 8}, "layout"),
    "commitment_cost": ({"commitment_cost": 2.0}, "weights"),
    "orthogonality_weight": ({"orthogonality_weight": 2.0}, "weights"),
    "informativeness_weight": ({"informativeness_weight": 2.0}, "weights"),
    "topo_weight": ({"topo_weight": 2.0}, "weights"),
    "topo_samples": ({"topo_samples": 4}, "weights"),
    "ema_decay": ({"ema_decay": 0.5}, "codebooks"),
    "num_categories_auto": ({"num_categories_auto": 2}, "groups"),
    "orthogonality_target": ({"orthogonality_target": 0.9}, "groups"),
    "max_clusters": ({"max_clusters": 2}, "groups"),
    "min_features_per_category": ({"min_features_per_category": 8}, "groups"),
    "seed": ({"seed": 1}, "weights"),
    "operators": ({"operators": 20}, "weights"),
    "validation_fraction": ({"validation_fraction": 0.4}, "weights"),
    "frames": ({"frames": 5, "features": {"families": ["summary"]}}, "weights"),
    "windows": ({"windows": 2}, "weights"),
    "features": ({"features": {"families": ["initial", "summary"]}}, "columns"),
    "cleaning": ({"cleaning": {"duplicate": 0.5}}, "columns"),
    "epochs": ({"epochs": 4}, "reports"),
    "batch_size": ({"batch_size": 8}, "weights"),
    "learning_rate": ({"learning_rate": 0.01}, "weights"),
    "lr_schedule": ({"lr_schedule": "cosine"}, "weights"),
    "weight_decay": ({"weight_decay": 0.5}, "weights"),
    "val_every_n_epochs": ({"val_every_n_epochs": 3}, "reports"),
    "checkpoint_loss_weight": ({"checkpoint_loss_weight": 2.0}, "composite"),
    "checkpoint_topo_weight": ({"checkpoint_topo_weight": 2.0}, "composite"),
    "checkpoint_quality_weight": ({"checkpoint_quality_weight": 2.0}, "composite"),
}
ELSEWHERE = {
    "input": "test_another_input_is_another_run",
    "output": "test_a_run_is_written_to_the_output_and_nowhere_else",
    "checkpoint_use_composite": "test_the_epoch_kept_is_the_best_by_the_composite_or_by_the_loss",
    "category_assignment": "test_categories_can_be_named_by_the_user",
    "features_cache": "test_cached_features_are_those_that_were_computed",
    "dead_code_reset_interval": "test_dead_codes_are_reset_by_interval_and_percentile",
    "dead_code_threshold": "test_dead_codes_are_reset_by_interval_and_percentile",
    "early_stopping_patience": "test_patience_ends_a_run_that_does_not_improve_enough",
    "early_stopping_min_delta": "test_patience_ends_a_run_that_does_not_improve_enough",
    "use_torch_compile": "test_a_compiled_step_is_compiled_and_is_the_same",
}


def seen(run: Run, what: str):
    if what == "reports":
        return [report.epoch for report in run.reports]
    return getattr(run, what)


@pytest.fixture(scope="module")
def base(datasets, tmp_path_factory) -> Run:
    return Run(tmp_path_factory.mktemp("base"), datasets[0])


def test_every_key_is_turned_by_a_test():
    assert {*EFFECTS, *ELSEWHERE} == set(VQVAERecipe.model_fields)
    assert all(name in globals() for name in ELSEWHERE.values())


def test_defaults_are_the_documents_and_so_is_the_shipped_production_recipe():
    defaults = {name: field.default for name, field in VQVAERecipe.model_fields.items()}
    assert {key: defaults[key] for key in DOCUMENTED} == DOCUMENTED
    shipped, _ = read(Path(recipe_module.__file__).parent / "recipes" / "production.json")
    assert {key: shipped[key] for key in DOCUMENTED} == DOCUMENTED


@pytest.mark.parametrize("key", EFFECTS)
def test_a_key_changes_what_it_names(key, base, datasets, tmp_path):
    changes, what = EFFECTS[key]
    reference = base
    if key == "frames":  # what the initial fields say does not depend on later frames
        families = {"features": {"families": ["summary"]}}
        reference = Run(tmp_path / "reference", datasets[0], **families)
    if key == "min_features_per_category":
        reference = Run(tmp_path / "reference", datasets[0], min_features_per_category=1)
    assert seen(Run(tmp_path, datasets[0], **changes), what) != seen(reference, what)


def test_the_same_recipe_gives_the_same_run(base, datasets, tmp_path):
    assert Run(tmp_path, datasets[0]).weights == base.weights


def test_another_input_is_another_run(base, datasets, tmp_path):
    assert Run(tmp_path, datasets[1]).weights != base.weights


def test_a_run_is_written_to_the_output_and_nowhere_else(datasets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = {**SMALL, "epochs": 1, "input": str(datasets[0]), "output": "here/and/there"}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    command = ["train-vqvae", "--config", "recipe.json"]
    assert CliRunner().invoke(commands(), command, catch_exceptions=False).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.json", "here"}
    assert (tmp_path / "here" / "and" / "there" / "best_model").is_dir()


def test_the_epoch_kept_is_the_best_by_the_composite_or_by_the_loss(datasets, tmp_path):
    """A composite of topography alone, which this run does not learn, is best at another epoch."""
    weights = {"loss_weight": 0.0, "topo_weight": 1.0, "quality_weight": 0.0}
    long = {"epochs": 8, "topo_weight": 0.0}
    long |= {f"checkpoint_{name}": value for name, value in weights.items()}
    kept = []
    for use_composite, score in ((True, "quality/composite"), (False, "val/loss")):
        directory = tmp_path / score
        run = Run(directory, datasets[0], **long, checkpoint_use_composite=use_composite)
        _, best = min((report.metrics[score], report.epoch) for report in run.reports)
        assert artifact.load(run.output, "vqvae").metrics["epoch"] == best
        kept.append(best)
    assert kept[0] != kept[1]


def test_categories_can_be_named_by_the_user(base, datasets, tmp_path):
    names = base.columns
    wanted = {"first": list(names[:5]), "rest": list(names[5:])}
    run = Run(tmp_path, datasets[0], category_assignment=wanted)
    assert run.groups == (tuple(range(5)), tuple(range(5, len(names))))
    assert run.task.categories.names == ("first", "rest")


def test_cached_features_are_those_that_were_computed(base, datasets, tmp_path):
    cache = tmp_path / "cache"
    first = Run(tmp_path / "first", datasets[0], features_cache=str(cache))
    files = list(cache.iterdir())
    second = Run(tmp_path / "second", datasets[0], features_cache=str(cache))
    assert len(files) == 1
    assert files == list(cache.iterdir())
    assert first.weights == second.weights == base.weights


def test_dead_codes_are_reset_by_interval_and_percentile(datasets, tmp_path):
    many = {"samples_per_code": 1, "ema_decay": 0.6, "batch_size": 4}
    off = Run(tmp_path / "off", datasets[0], **many)
    often = {**many, "dead_code_reset_interval": 5}
    low = Run(tmp_path / "low", datasets[0], **often, dead_code_threshold=1.0)
    high = Run(tmp_path / "high", datasets[0], **often, dead_code_threshold=90.0)
    assert off.codebooks != low.codebooks
    assert off.codebooks != high.codebooks
    assert low.codebooks != high.codebooks


def test_patience_ends_a_run_that_does_not_improve_enough(datasets, tmp_path):
    long = {"epochs": 30, "early_stopping_min_delta": 1e9}
    stopped = Run(tmp_path / "stopped", datasets[0], **long, early_stopping_patience=4)
    assert [report.epoch for report in stopped.reports][-1] == 5
    assert stopped.reports[-1].stop is not None
    assert "by more than 1e+09 for 4 epochs" in stopped.reports[-1].stop.sentence
    assert stopped.state.best_epoch == 5  # the best is kept all the same
    small = {**long, "early_stopping_min_delta": 1e-9, "epochs": 8}
    whole = Run(tmp_path / "whole", datasets[0], **small, early_stopping_patience=4)
    assert len(whole.reports) == 8


COMPILED = """
import functools, json, sys, torch
# Traced and differentiated as ever; generating and building C++ takes 80 s and is torch's own.
torch.nn.Module.compile = functools.partialmethod(torch.nn.Module.compile, backend="aot_eager")
from spinlock.training.recipe import VQVAERecipe
from spinlock.training.trainer import Trainer
found = []
for compiled in (True, False):
    recipe = VQVAERecipe.model_validate({**json.loads(sys.argv[1]), "use_torch_compile": compiled})
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    task = Trainer(recipe.training()).task
    task.modules.train()
    terms = task.terms(task.split.train)
    sum(terms.values()).backward()
    found.append({
        "graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"] - before,
        "terms": [float(term) for term in terms.values()],
        "gradients": [float(p.grad.norm()) for p in task.modules.parameters()],
    })
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_compiled_step_is_compiled_and_is_the_same(datasets, tmp_path):
    """In a process of its own: the shape checks of these tests are not to be compiled."""
    recipe = {**SMALL, "dropout": 0.0, "input": str(datasets[0]), "output": str(tmp_path)}
    command = [sys.executable, "-c", COMPILED, json.dumps(recipe)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    compiled, eager = json.loads(told.splitlines()[-1])
    assert compiled["graphs"] >= 4  # encoder, projector, decoder and partial decoder
    assert eager["graphs"] == 0
    assert compiled["terms"] == pytest.approx(eager["terms"], rel=1e-4)
    assert compiled["gradients"] == pytest.approx(eager["gradients"], rel=1e-3, abs=1e-6)


def test_a_compiled_layer_is_one_graph_with_dropout_too():
    script = """
import torch
from spinlock.vqvae.grouped import GroupedMLP
found = torch._dynamo.explain(GroupedMLP([3, 5], 8, [4, 4], 0.1).train())(torch.randn(8, 6))
print(found.graph_count, found.graph_break_count)
"""
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["1", "0"]


def test_stored_features_train_a_tokenizer_that_refuses_trajectories(datasets, tmp_path):
    config = GenerateConfig.model_validate(
        {"operators": 30, "grid": 8, "frames": 6, "features": True, "domain": {"kind": "cno"}}
    )
    generate(config, tmp_path / "stored.h5")
    stored = {"source": "stored", "families": ["initial", "summary"]}
    run = Run(tmp_path, tmp_path / "stored.h5", features=stored, frames=None)
    computed = FeatureConfig(families=("initial", "summary")).model_dump()
    same = Run(tmp_path / "b", tmp_path / "stored.h5", features=computed, frames=None)
    assert run.weights == same.weights
    tokenizer = run.task.tokenizer()
    with pytest.raises(Exception, match="features stored in a file"):
        tokenizer.expect(frames=6, channels=1, grid=(8, 8))


def test_reports_come_with_validation_and_seconds_cover_the_time_between(datasets, tmp_path):
    run = Run(tmp_path, datasets[0], epochs=7, val_every_n_epochs=3)
    assert [report.epoch for report in run.reports] == [3, 6, 7]
    assert all("quality/composite" in report.metrics for report in run.reports)
    seconds = [row["metrics"]["seconds"] for row in run.state.history]
    assert seconds[0] < seconds[1] < seconds[2]
    assert json.loads(json.dumps(run.state.history)) == run.state.history
