"""The documentation holds: its examples run, its tables equal the code, its links lead somewhere.

An example is a fenced block: ```python is executed, ```bash and ```sh are parsed by the command
that they call, ```yaml is loaded as what its second word names: recipe, training or study.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Annotated, Any

import h5py
import pyarrow.parquet as pq
import pytest
import typer
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML

from spinlock import cli
from spinlock.config import known_paths, replace
from spinlock.data.generate import GenerateConfig
from spinlock.domains.cno import CNOConfig
from spinlock.domains.initial_conditions import FAMILIES
from spinlock.search.check import load_study
from spinlock.search.events import (
    EventLog,
    Reported,
    SessionClosed,
    SessionOpened,
    State,
    StudyOpened,
    Suggested,
    Verdict,
)
from spinlock.search.ledger import EVENTS, read_ledger
from spinlock.search.noa import NOA
from spinlock.search.parameter import Parameter
from spinlock.search.space import Study
from spinlock.search.tables import write_tables
from spinlock.training.config import NOATraining, training_config
from spinlock.training.prepare import train_and_export
from spinlock.training.state import EpochReport
from spinlock.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
FENCE = re.compile(r"^```(\w+) ?(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")
SMALL = "{base_channels: 4, encoder_levels: 1, modes: 4, afno_blocks: 1}"


def blocks(page: Path, *languages: str) -> Iterator[tuple[str, str]]:
    """(second word, text) of the page's fenced blocks in these languages."""
    for language, label, text in FENCE.findall(page.read_text()):
        if language in languages:
            yield label, text


def examples(*languages: str, label: str | None = None) -> list[Any]:
    """Every such block of every page as a test parameter named after its place."""
    return [
        pytest.param(text, id=f"{page.stem}-{index}")
        for page in PAGES
        for index, (found, text) in enumerate(blocks(page, *languages))
        if label is None or found == label
    ]


def tables(marker: str) -> list[Any]:
    """(what the comment says, its table's rows) for every comment `<!-- marker: ... -->`."""
    found = []
    for page in DOCS:
        for match in re.finditer(rf"<!-- {marker}:? ?(.*?) -->\n((?:\|.*\n)+)", page.read_text()):
            lines = match[2].splitlines()[2:]
            rows = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
            found.append(pytest.param(match[1], rows, id=match[1] or marker))
    return found


def code(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def plain_yaml(text: str) -> Any:
    return YAML(typ="safe").load(text)


# Tables


def leaves(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Dotted path -> field; sections are entered, models that a `kind` tells apart are not."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        inner = field.annotation
        section = isinstance(inner, type) and issubclass(inner, BaseModel)
        if section and "kind" not in inner.model_fields:
            assert field.is_required() or field.default == inner()
            found |= leaves(inner, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = field
    return found


def model(path: str) -> type[BaseModel]:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize(("models", "rows"), tables("keys"))
def test_a_table_of_keys_has_every_key_with_its_default(models: str, rows: list[list[str]]) -> None:
    whole, _, less = models.partition(" less ")
    base = leaves(model(less)) if less else {}
    expected = {
        key: field
        for key, field in leaves(model(whole)).items()
        if key not in base or base[key].default != field.default
    }
    assert [code(key) for key, *_ in rows] == [[key] for key in expected]
    for (_, shown, *_), (key, field) in zip(rows, expected.items(), strict=True):
        if shown == "required":
            assert field.is_required(), key
        elif shown != "below":  # the default mixture of initial fields, tested next
            (text,) = code(shown)
            kind = TypeAdapter(Annotated[field.annotation, field])
            assert kind.validate_python(plain_yaml(text)) == field.get_default(
                call_default_factory=True
            ), key


def test_the_default_mixture_of_initial_fields_is_written_out_in_full() -> None:
    recipes = [plain_yaml(text) for _, text in blocks(ROOT / "docs" / "data.md", "yaml")]
    (written,) = [r for r in recipes if "initial" in r["domain"]]
    assert GenerateConfig.model_validate(written).domain.initial == CNOConfig().initial


def test_the_families_of_initial_fields_have_the_documented_keys() -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    for kind, family in FAMILIES.items():
        (cell,) = re.findall(rf"^\| `{kind}` \| (.*?) \| ", page, re.MULTILINE)
        shown = family.model_validate(plain_yaml("{" + ", ".join(code(cell)) + "}"))
        assert shown == family()
        assert {*shown.model_fields_set} == {*family.model_fields} - {"kind", "weight"}


@pytest.mark.parametrize(("_", "rows"), tables("layout"))
def test_the_documented_layout_is_that_of_a_generated_file(
    _: str, rows: list[list[str]], tiny_data: Path
) -> None:
    with h5py.File(tiny_data) as file:
        found: set[str] = set()
        file.visit(found.add)
        documented = {name: (shape, kind) for (cell, shape, kind, _) in rows for name in code(cell)}
        groups = {"parameters", "inputs", "outputs"}
        assert found - groups == {*documented} - {"/", "features/<family>"}
        for name in found & documented.keys():
            shape, kind = documented[name]
            if shape.startswith("["):
                assert file[name].ndim == len(shape.split(",")), name
            if kind[:1] in "fu" and kind:
                assert file[name].dtype.str[1:] == kind[:2], name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text()):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{path} in {page.name}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}
            assert anchor[1:] in slugs, f"{anchor} in {page.name}"


# Examples


@pytest.mark.parametrize("text", examples("yaml", label="recipe"))
def test_a_recipe_loads(text: str) -> None:
    GenerateConfig.model_validate(plain_yaml(text))


@pytest.mark.parametrize("text", examples("yaml", label="training"))
def test_a_training_run_loads(text: str) -> None:
    training_config(plain_yaml(text), where="docs")


@pytest.mark.parametrize("text", examples("yaml", label="study"))
def test_a_study_loads(text: str, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(text)
    load_study(tmp_path / "study.yaml", NOA(), defaults={"data.path": "d", "tokenizer": "t"})


@pytest.mark.parametrize("text", examples("yaml", label=""))
def test_a_piece_of_a_study_has_known_keys(text: str) -> None:
    piece = plain_yaml(text)
    study = Study.model_validate({"name": "piece", "trials": 1, **piece})
    assert {*study.space} <= {*known_paths(NOATraining)}
    assert all(isinstance(parameter, Parameter) for parameter in study.space.values())


@pytest.mark.parametrize("text", examples("bash", "sh"))
def test_a_command_line_has_only_options_that_exist(text: str) -> None:
    for line in text.replace("\\\n", " ").splitlines():
        words = [w for w in shlex.split(line, comments=True) if w != "..."]
        while words and re.fullmatch(r"[A-Za-z_]+=.*", words[0]):
            del words[0]
        if not words:
            continue
        program, *rest = words
        if Path(program).name == "make":
            assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        elif Path(program).name == "spinlock":
            commands = typer.main.get_group(cli.commands()).commands
            commands[rest[0]].make_context(rest[0], rest[1:])
        elif Path(program).name == "python" and rest[0].startswith("launch/"):
            spec = spec_from_file_location("launched", ROOT / rest[0])
            assert spec is not None
            assert spec.loader is not None
            script = module_from_spec(spec)
            spec.loader.exec_module(script)
            app = typer.Typer()
            app.command()(script.main)
            given = typer.main.get_command(app).make_context(rest[0], rest[1:]).params
            space = given.get("space")
            assert space is None or (ROOT / space).is_file(), line


@pytest.fixture(scope="session")
def report() -> list[EpochReport]:
    """Filled by `place`: the epochs of the NOA that it trains."""
    return []


@pytest.fixture(scope="session")
def place(
    tiny_data: Path,
    tiny_tokenizer: Path,
    report: list[EpochReport],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A directory as the pages' readers have it: data.h5, runs/ and experiments/latent."""
    place = tmp_path_factory.mktemp("reader")
    (place / "data.h5").symlink_to(tiny_data)
    (place / "runs" / "vqvae").mkdir(parents=True)
    (place / "runs" / "vqvae" / "best").symlink_to(tiny_tokenizer)
    (place / "runs" / "tokenizer").mkdir()
    (place / "runs" / "tokenizer" / "best_model").symlink_to(tiny_tokenizer)
    (written,) = [
        document
        for _, text in blocks(ROOT / "docs" / "training.md", "yaml")
        if "tokenizer" in (document := plain_yaml(text))
    ]
    small = {
        "data.path": str(tiny_data),
        "tokenizer": str(tiny_tokenizer),
        "model": plain_yaml(SMALL),
        "rollout.timesteps": 8,
        "epochs": 1,
    }
    trainer = Trainer(training_config(replace(written, small), where="docs"))
    train_and_export(
        trainer, place / "runs" / "noa" / "best", progress=lambda r, _: report.append(r)
    )
    _experiment(place / "experiments" / "latent", report[0].metrics)
    return place


def _experiment(path: Path, metrics: dict[str, float]) -> None:
    """A short search on record: one trial that completed, one that a guard ended."""
    path.mkdir(parents=True)
    study = plain_yaml(next(t for s, t in blocks(ROOT / "docs" / "search.md", "yaml")))
    point = study["start"][0]
    log = EventLog(path / EVENTS)
    log.append(StudyOpened(time=0, trainable="noa", study=study, facts={}))
    log.append(SessionOpened(time=0, host="here", pid=1, trials=2))
    for trial, (state, rule) in enumerate(
        [(State.COMPLETED, "completed"), (State.GUARDED, "commit_climb")]
    ):
        verdict = Verdict(state=state, rule=rule, sentence="for the test")
        log.append(Suggested(time=1, trial=trial, parameters=point))
        log.append(Reported(time=2, trial=trial, epoch=1, metrics=metrics, verdict=verdict))
    log.append(SessionClosed(time=3, reason="finished"))
    log.close()
    write_tables(read_ledger(path), path)


@pytest.mark.parametrize("text", examples("python"))
def test_a_python_example_runs(text: str, place: Path) -> None:
    run([sys.executable, "-W", "ignore", "-c", text], place)


def test_every_reported_metric_is_documented(place: Path, report: list[EpochReport]) -> None:
    page = (ROOT / "docs" / "training.md").read_text()
    section = page.split("## Metrics of an epoch")[1].split("## ")[0]
    patterns = [name.replace("<term>", r"\w+") for name in code(section)]
    for name in report[0].metrics:
        assert any(re.fullmatch(pattern, name) for pattern in patterns), name


@pytest.mark.parametrize(("_", "rows"), tables("columns"))
def test_every_column_of_the_ledger_is_documented(
    _: str, rows: list[list[str]], place: Path
) -> None:
    patterns = [re.sub("<.*?>", ".+", name) for cell, *_ in rows for name in code(cell)]
    names = pq.read_table(place / "experiments" / "latent" / "trials.parquet").column_names
    assert all(any(re.fullmatch(p, name) for p in patterns) for name in names)
    assert all(any(re.fullmatch(p, name) for name in names) for p in patterns)


@pytest.mark.slow
def test_the_study_on_the_page_is_searched_and_its_best_exported(
    place: Path, tmp_path: Path
) -> None:
    _, study = next(blocks(ROOT / "docs" / "search.md", "yaml"))
    (tmp_path / "study.yaml").write_text(study)
    changes = {
        "resources.execution": "in_process",
        "resources.concurrent": 1,
        "training.model": SMALL,
        "training.rollout.timesteps": 8,
        "training.epochs": 2,
        "guards": "[]",
    }
    run(
        [
            *(sys.executable, str(ROOT / "launch" / "tune_noa.py")),
            *("--space", "study.yaml", "--trials", "2"),
            *("--data", str(place / "data.h5"), "--vqvae", str(place / "runs" / "vqvae" / "best")),
            *(word for key, value in changes.items() for word in ("--set", f"{key}={value}")),
        ],
        tmp_path,
    )
    export = [sys.executable, str(ROOT / "launch" / "export_best.py"), "experiments/mine"]
    assert "Reproduced" in run([*export, "--out", "best-noa"], tmp_path)
    states = pq.read_table(tmp_path / "experiments" / "mine" / "trials.parquet")["state"]
    assert {*states.to_pylist()} <= {"COMPLETED", "PRUNED"}


def run(command: list[str], place: Path) -> str:
    """What a command run in `place` prints; its errors are the test's."""
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr
