"""Pictures of a run: complete, the same bytes every time, and honest about what is not there."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spinlock.cli import commands
from spinlock.cli import run as run_command
from spinlock.data.generate import GenerateConfig, generate
from spinlock.errors import ArtifactError, DatasetError, SpinlockError
from spinlock.evaluation.pictures.codes import draw_codes, embed, responses
from spinlock.evaluation.pictures.curves import draw_curves
from spinlock.evaluation.pictures.draw import draw_run
from spinlock.evaluation.pictures.features import correlation, draw_features, ordered
from spinlock.evaluation.pictures.page import verdict
from spinlock.evaluation.pictures.usage import draw_usage
from spinlock.evaluation.run import load_data, load_run
from spinlock.training import outputs
from spinlock.training.prepare import train_and_export
from spinlock.training.recipe import VQVAERecipe
from spinlock.training.trainer import Trainer
from spinlock.training.vqvae_task import VQVAETask
from spinlock.vqvae import VQVAE, Layout, VQVAEConfig

PICTURES = ("curves.png", "usage.png", "codes.png", "features.png")


@pytest.fixture(scope="module")
def run_dir(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `spinlock train-vqvae` writes for three short epochs."""
    out = tmp_path_factory.mktemp("runs") / "tokenizer"
    small = {"hidden_dim": 16, "embedding_dim": 16, "samples_per_code": 3, "batch_size": 8}
    recipe = VQVAERecipe.model_validate(
        {"input": tiny_data, "output": out, "epochs": 3, "val_every_n_epochs": 2, **small}
        | {"use_torch_compile": False, "frames": 9}
    )
    trainer = Trainer(recipe.training())
    best = train_and_export(trainer, out / outputs.BEST)
    outputs.write_recipe(out, recipe)
    outputs.write_history(out, trainer.state)
    assert isinstance(trainer.task, VQVAETask)
    outputs.write_results(out, trainer.task, best)
    return out


@pytest.fixture(scope="module")
def drawn(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pictures")
    assert draw_run(load_run(run_dir), out) == []
    return out


class Reading(HTMLParser):
    """Every link and every word of a page, and whether its tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


# A whole run


def test_every_picture_is_there_and_has_something_on_it(drawn: Path) -> None:
    assert {path.name for path in drawn.iterdir()} == {*PICTURES, "index.html"}
    for name in PICTURES:
        pixels = np.asarray(Image.open(drawn / name).convert("L"))
        assert min(pixels.shape) > 200, name
        assert 0.005 < (pixels < 250).mean() < 0.9, name


def test_drawing_again_gives_the_same_bytes(run_dir: Path, drawn: Path, tmp_path: Path) -> None:
    draw_run(load_run(run_dir), tmp_path)
    for name in (*PICTURES, "index.html"):
        assert (tmp_path / name).read_bytes() == (drawn / name).read_bytes(), name
    for name in PICTURES:
        assert not Image.open(drawn / name).text, name


def test_the_page_needs_nothing_but_itself(drawn: Path, run_dir: Path) -> None:
    text = (drawn / "index.html").read_text(encoding="utf-8")
    page = Reading(text)
    assert page.open == []
    assert len(page.links) == len(PICTURES)
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "http" not in text
    said = " ".join(page.words)
    categories = json.loads((run_dir / "categories.json").read_text())["categories"]
    for members in categories.values():
        assert all(name in said for name in members)


def test_the_table_of_targets_is_that_of_the_run(drawn: Path, run_dir: Path) -> None:
    targets = json.loads((run_dir / "metrics.json").read_text())["targets"]
    text = (drawn / "index.html").read_text(encoding="utf-8")
    rows = re.findall(
        r'<tr><td>([\w ]+)</td><td class="number">([\d.]+)</td><td>.*?</td><td class="(\w+)">', text
    )
    assert {name.replace(" ", "_"): said for name, _, said in rows} == {
        name: "met" if row["met"] else "missed" for name, row in targets.items()
    }
    for name, reached, _ in rows:
        expected = targets[name.replace(" ", "_")]["reached"]
        assert float(reached) == pytest.approx(expected, abs=5e-5)


def test_a_run_whose_data_is_gone_is_drawn_without_it_and_says_so(
    run_dir: Path, drawn: Path, tiny_data: Path, tmp_path: Path
) -> None:
    run = load_run(run_dir)
    elsewhere = run.config.data.model_copy(update={"path": tmp_path / "gone.h5"})
    moved = replace(run, config=run.config.model_copy(update={"data": elsewhere}))
    (said,) = draw_run(moved, tmp_path / "out")
    assert "gone.h5: there is no such file" in said
    assert "give --dataset" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *PICTURES,
        "index.html",
    } - {"features.png"}
    assert "gone.h5" in (tmp_path / "out" / "index.html").read_text()
    assert draw_run(moved, tmp_path / "found", dataset=tiny_data) == []
    found, first = (place / "features.png" for place in (tmp_path / "found", drawn))
    assert found.read_bytes() == first.read_bytes()


def test_other_data_than_the_runs_is_refused(run_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    document = {"operators": 2, "grid": 16, "frames": 9, "domain": {"kind": "cno"}}
    generate(GenerateConfig.model_validate(document), other)
    with pytest.raises(DatasetError, match=r"not what .* was trained on"):
        draw_run(load_run(run_dir), tmp_path / "out", dataset=other)


def test_a_run_that_has_not_ended_is_drawn_without_its_results(
    run_dir: Path, tmp_path: Path
) -> None:
    running = Path(shutil.copytree(run_dir, tmp_path / "running"))
    (running / "metrics.json").unlink()
    (said,) = draw_run(load_run(running), tmp_path / "out")
    assert "has no metrics.json: it is written when the run ends" in said
    assert not (tmp_path / "out" / "usage.png").exists()


def test_what_is_no_run_is_named(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no best_model in it"):
        load_run(run_dir.parent)
    torn = Path(shutil.copytree(run_dir, tmp_path / "torn"))
    (torn / "training_history.json").write_text('{"history": [{"epoch": 1')
    with pytest.raises(ArtifactError, match=r"training_history.json: cannot be read"):
        load_run(torn)
    (torn / "training_history.json").write_text('{"history": [{"epoch": 1}]}')
    with pytest.raises(ArtifactError, match="its records are damaged: 'metrics' is missing"):
        load_run(torn)
    (torn / "training_history.json").unlink()
    with pytest.raises(ArtifactError, match=r"training_history.json: missing"):
        load_run(torn)


@pytest.mark.parametrize(("removed", "said"), [("training", "'training'"), ("facts", "'facts'")])
def test_a_model_without_its_origin_is_one_message(
    run_dir: Path, tmp_path: Path, removed: str, said: str
) -> None:
    torn = Path(shutil.copytree(run_dir, tmp_path / "torn"))
    description = torn / "best_model" / "artifact.json"
    content = json.loads(description.read_text())
    del content["provenance"][removed]
    description.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=f"its records are damaged: {said} is missing"):
        load_run(torn)


def test_a_run_is_also_named_by_its_best_model(run_dir: Path) -> None:
    assert load_run(run_dir / "best_model").path == run_dir


def test_a_mistake_is_one_message_without_an_idle_bar(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plot-vqvae", str(run_dir), "--dataset", str(tmp_path / "nowhere.h5")]
    with pytest.raises(SystemExit):
        run_command(lambda: commands()(words, standalone_mode=False))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: ")


def test_the_features_are_split_as_the_run_split_them(run_dir: Path) -> None:
    run = load_run(run_dir)
    data = load_data(run)
    assert len(data.training) + len(data.validation) == len(data.features) == 12
    # Standardized by the training samples: there alone are mean and spread 0 and 1.
    training = data.features[data.training]
    assert training.mean(0).abs().max() < 1e-4
    assert (training.std(0, correction=0) - 1).abs().max() < 1e-3


def test_the_command_draws_into_the_run(run_dir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    command = [sys.executable, "-m", "spinlock.cli", "plot-vqvae", str(copy / "best_model")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert (copy / "pictures" / "index.html").is_file()
    assert done.stdout.strip() == str(copy / "pictures" / "index.html")


# Single pictures


def model(groups: tuple[tuple[int, ...], ...], codes: int, levels: int) -> VQVAE:
    """An untrained VQ-VAE of this layout, with codebooks of `codes` codes."""
    torch.manual_seed(0)
    size = {"num_tokens": codes, "latent_dim": 4}
    layout = Layout.model_validate(
        {
            "features": sum(map(len, groups)),
            "groups": groups,
            "levels": [[size] * levels for _ in groups],
        }
    )
    config = VQVAEConfig(embedding_dim=8, hidden_dim=8, compression_ratios=":".join(["1"] * levels))
    return VQVAE(config, layout).eval()


def test_a_codes_response_is_what_the_decoder_makes_of_it() -> None:
    made = model(((0, 1, 2), (3, 4)), codes=3, levels=2)
    bank = made.bank
    with torch.no_grad():
        bank.codebooks[1, 2] = bank.codebooks[1, :2].mean(0)  # then it is also the mean of all
        found = responses(made)
        means = bank.codebooks.mean(1)
        assert found.shape == (12, 5)
        changed = means.clone()
        changed[3] = bank.codebooks[3, 1]
        both = made.reconstruct(made.flatten(torch.stack([changed, means])))
    torch.testing.assert_close(found[3 * 3 + 1], both[0] - both[1])
    torch.testing.assert_close(found[3 + 2], torch.zeros(5), atol=1e-6, rtol=0)


@pytest.mark.parametrize("points", [1, 2, 3, 4, 5, 40])
@pytest.mark.parametrize("width", [1, 2, 6])
def test_any_number_of_codes_has_a_place_and_always_the_same(points: int, width: int) -> None:
    given = np.random.default_rng(0).normal(size=(points, width))
    place = embed(given, "tsne")
    assert place.shape == (points, 2)
    assert np.isfinite(place).all()
    assert (embed(given, "tsne") == place).all()


def test_codes_that_say_the_same_are_drawn_together() -> None:
    kinds = np.random.default_rng(0).normal(size=(3, 6)) * 5
    noise = np.random.default_rng(1).normal(size=(60, 6)) * 0.05
    which = np.arange(60) % 3
    place = embed(kinds[which] + noise, "tsne")
    distance = np.linalg.norm(place[:, None] - place, axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (which[distance.argmin(1)] == which).all()


@pytest.mark.skipif(find_spec("umap") is not None, reason="UMAP is installed")
def test_umap_is_asked_for_by_name_where_it_is_not_installed(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(SpinlockError, match=r"pip install 'spinlock\[umap\]'"):
        draw_run(load_run(run_dir), tmp_path / "out", embedding="umap")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(find_spec("umap") is None, reason="UMAP is not installed")
def test_umap_draws_the_same_map_twice(run_dir: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_run(load_run(run_dir), tmp_path / name, embedding="umap")
    first, second = (tmp_path / name / "codes.png" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(("categories", "levels", "codes"), [(1, 1, 2), (2, 4, 3), (45, 3, 4)])
def test_few_and_many_categories_fit_their_pictures(
    categories: int, levels: int, codes: int, tmp_path: Path
) -> None:
    groups = tuple((2 * i, 2 * i + 1) for i in range(categories))
    titles = [f"{i} temporal.spectral" for i in range(categories)]
    made = model(groups, codes, levels)
    books = categories * levels
    unused = [torch.tensor([5] + [0] * (codes - 1))] * books
    draw_codes(made, titles, unused, "tsne", tmp_path / "codes.png")
    draw_usage(titles, made.layout, [0.5] * books, [1.5] * books, tmp_path / "usage.png")
    features = np.random.default_rng(0).normal(size=(30, 2 * categories))
    names = [f"temporal.spectral.f{i}" for i in range(2 * categories)]
    draw_features(features, names, groups, titles, tmp_path / "features.png")
    for path in tmp_path.iterdir():
        pixels = np.asarray(Image.open(path).convert("L"))
        assert (pixels[[0, -1]] > 250).all(), f"{path.name}: something is cut off"
        assert (pixels[:, [0, -1]] > 250).all(), f"{path.name}: something is cut off"


def test_epochs_without_validation_or_with_undefined_values_are_left_out(tmp_path: Path) -> None:
    history = [
        (1, {"train/reconstruction": 1.0}),
        (2, {"train/reconstruction": None, "val/reconstruction": 0.5}),
        (3, {"train/reconstruction": float("nan"), "val/reconstruction": 0.01}),
    ]
    draw_curves(history, 3, tmp_path / "curves.png")
    draw_curves([(1, {})], 1, tmp_path / "nothing.png")
    assert (tmp_path / "curves.png").stat().st_size > (tmp_path / "nothing.png").stat().st_size


def test_the_matrix_orders_each_category_and_mixes_none() -> None:
    generator = np.random.default_rng(0)
    common = generator.normal(size=(500, 1))
    strengths = np.array([0.2, 1.0, 0.6])
    features = common * strengths + 0.5 * generator.normal(size=(500, 3))
    features = np.concatenate([generator.normal(size=(500, 2)), features], axis=1)
    found = ordered(correlation(features), [(2, 3, 4), (0, 1)])
    assert found[0].tolist() == [3, 4, 2]
    assert sorted(found[1].tolist()) == [0, 1]
    assert correlation(features[:, :1]).tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("name", "reached", "said"),
    [
        ("reconstruction_quality", 0.91, "met"),
        ("reconstruction_quality", 0.90, "missed"),
        ("category_orthogonality", 0.24, "met"),
        ("category_orthogonality", 0.26, "missed"),
        ("topography", None, "not measured"),
        ("utilization", float("nan"), "not measured"),
    ],
)
def test_a_target_is_met_missed_or_not_measured(
    name: str, reached: float | None, said: str
) -> None:
    assert verdict(name, reached) == said
