"""Two searches side by side: what is refused before they start, and one pair to its end."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from noa_runs import mind_interrupts

from spinlock import artifact
from spinlock.errors import ConfigError, SearchError
from spinlock.search import both
from spinlock.search.ledger import read_ledger

ROOT = Path(__file__).parents[1]
NOAS = """\
name: states
trials: 1
resources: {execution: in_process}
searcher: {kind: random}
scheduler: {kind: none}
training:
  epochs: 3
  rollout: {timesteps: 8}
  loss: {lambda_commit: 0, lambda_latent: 0, lambda_ic: 0.3}
  model: {base_channels: 4, encoder_levels: 1, modes: 4, afno_blocks: 1, blocks_per_level: 1}
space:
  batch_size: {choice: [2, 4]}
"""
TOKENIZERS = """\
name: tokenizers
trials: 1
resources: {execution: in_process}
searcher: {kind: random}
scheduler: {kind: none}
objective: {metric: quality/composite}
training:
  epochs: 4
  model: {hidden_dim: 16, embedding_dim: 16}
space:
  batch_size: {choice: [2, 4]}
"""


@pytest.fixture
def spaces(tmp_path: Path) -> dict[str, Path]:
    found = {"noa": tmp_path / "noa.yaml", "vqvae": tmp_path / "vqvae.yaml"}
    found["noa"].write_text(NOAS)
    found["vqvae"].write_text(TOKENIZERS)
    return found


def test_overrides_go_to_the_search_that_they_name(
    spaces: dict[str, Path], tiny_data: Path
) -> None:
    changes = ["noa.trials=5", "vqvae.training.epochs=9"]
    studies = both.plan(spaces, changes, tiny_data)
    assert (studies["noa"].trials, studies["vqvae"].trials) == (5, 1)
    assert studies["vqvae"].training["epochs"] == 9
    assert studies["noa"].training["tokenizer"] is None
    with pytest.raises(ConfigError, match=r"trials=5: say whose it is: noa\.KEY=VALUE or vqvae"):
        both.plan(spaces, ["trials=5"], tiny_data)


def test_the_shipped_spaces_are_a_pair(tiny_data: Path) -> None:
    spaces = both.Pair.read(ROOT / "search_spaces" / "both.yaml")
    studies = both.plan(spaces, ["noa.training.rollout.timesteps=8"], tiny_data)
    assert [study.name for study in studies.values()] == ["state", "vqvae"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("noa: noa.yaml\n", r"both.yaml: vqvae: .*required"),
        ("noa: noa.yaml\nvqae: vqvae.yaml\n", r"both.yaml:2: vqae: there is no such key. .*vqvae"),
        ("noa: noa.yaml\nvqvae: vqva.yaml\n", r"vqva.yaml: there is no such file. .*vqvae.yaml"),
    ],
)
def test_a_pair_that_names_no_two_studies_is_told_what_it_lacks(
    spaces: dict[str, Path], tiny_data: Path, text: str, told: str
) -> None:
    path = spaces["noa"].parent / "both.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        both.plan(both.Pair.read(path), [], tiny_data)


def test_searches_that_depend_on_each_other_or_have_no_best_are_refused(
    spaces: dict[str, Path], tiny_data: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="the searches are side by side"):
        both.plan(spaces, [f"noa.training.tokenizer={tiny_tokenizer}"], tiny_data)
    several = "[{metric: quality/utilization, mode: max}, {metric: val/loss}]"
    changes = ["vqvae.objective=null", f"vqvae.objectives={several}"]
    with pytest.raises(ConfigError, match="no single best trial to validate"):
        both.plan(spaces, changes, tiny_data)
    other = tmp_path / "other.h5"
    other.write_bytes(tiny_data.read_bytes())
    changes = [f"noa.training.data.path={other}", f"vqvae.training.data.path={tiny_data}"]
    with pytest.raises(ConfigError, match="of different data"):
        both.plan(spaces, changes, None)


def test_a_pair_that_has_begun_is_not_begun_again(tmp_path: Path) -> None:
    both.refuse_begun(tmp_path, ["noa", "vqvae"])
    (tmp_path / "vqvae").mkdir()
    (tmp_path / "vqvae" / "events.jsonl").write_text("")
    with pytest.raises(SearchError, match="the search of the vqvae stands here"):
        both.refuse_begun(tmp_path, ["noa", "vqvae"])


def launch(place: Path, spaces: dict[str, Path], *arguments: object) -> "subprocess.Popen[str]":
    pair = place / "both.yaml"
    pair.write_text(f"noa: {spaces['noa']}\nvqvae: {spaces['vqvae']}\n")
    words = [
        *(sys.executable, ROOT / "launch" / "tune_both.py", "--experiment", place / "x"),
        *("--space", pair, "--artifacts", place / "a", *arguments),
    ]
    return subprocess.Popen(
        [*map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=mind_interrupts,
    )


@pytest.mark.slow
def test_a_pair_that_was_interrupted_goes_on_and_its_best_are_validated(
    spaces: dict[str, Path], tiny_data: Path, tmp_path: Path
) -> None:
    # So many that the quicker search is not through when the other's first epoch is.
    epochs = ("--set", "noa.training.epochs=3", "--set", "vqvae.training.epochs=60")
    arguments = ("--data", tiny_data, *epochs)
    begun = launch(tmp_path, spaces, *arguments)
    assert begun.stdout is not None
    said = ""
    for line in begun.stdout:
        said += line
        if line.startswith("noa  trial 0: epoch 1/3"):
            # As Ray stops a job: each of its processes at once.
            children = psutil.Process(begun.pid).children()
            sides = [each for each in children if "spawn_main" in " ".join(each.cmdline())]
            for each in (*sides, begun):
                each.send_signal(signal.SIGTERM)
            assert len(sides) == 2
    assert begun.wait(60) == 130, said
    for name in ("noa", "vqvae"):
        assert read_ledger(tmp_path / "x" / name).sessions[-1].closed == "interrupted"
    assert "Interrupted. Go on with:" in said
    assert "--resume" in said
    assert "vqvae  trial 0: started" in said

    ended, _ = (again := launch(tmp_path, spaces, *arguments, "--resume")).communicate(timeout=300)
    assert again.returncode == 0, ended
    ledgers = {name: read_ledger(tmp_path / "x" / name) for name in ("noa", "vqvae")}
    assert all(ledger.sessions[-1].closed == "finished" for ledger in ledgers.values())
    assert "loss.lambda_ic" not in ledgers["noa"].study.space
    for name in ledgers:
        artifact.load(tmp_path / "x" / f"best-{name}", name)
    report = json.loads((tmp_path / "x" / "validation" / "report.json").read_text())
    assert report["measured"]["reconstruction"]["ratio"] > 0
    assert all(each["sentence"] in ended for each in report["findings"])
    page = (tmp_path / "x" / "validation" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 3
