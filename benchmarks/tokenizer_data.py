"""How much data the tokenizer needs: a quarter, half and all of the operators of datasets.

    python benchmarks/tokenizer_data.py --data DIRECTORY --work DIRECTORY

Writes benchmarks/results/tokenizer_data.md, with every category and level of the largest run.
Runs that stand in --work are not trained again. About ten minutes on two cores.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from tokenizer import HEAD, STORED, WINDOWS, Run, row, train

from spinlock.artifact import provenance

RESULT = Path(__file__).parent / "results" / "tokenizer_data.md"
FLOW = ("ns_kolmogorov_exponax.h5", (*WINDOWS, "epochs=60"), (16, 32, 64))
OLDER = ("prototype_mid.h5", STORED, (64, 128, 256))
SMALL = ("prototype_small.h5", STORED, (64,))
MADE = ("generated", ("batch_size=256", "epochs=120"), (640, 1280, 2560))
RUNS = tuple(
    Run(f"{data.removesuffix('.h5')}-{operators}", data, (*settings, f"operators={operators}"))
    for data, settings, amounts in (FLOW, SMALL, OLDER, MADE)
    for operators in amounts
)


def main(
    data: Annotated[Path, typer.Option(help="Where the real files are.")],
    work: Annotated[Path, typer.Option(help="Where runs and the generated file are kept.")],
) -> None:
    facts = provenance()
    rows = [row(run, train(run, data, work)) for run in RUNS]
    found = json.loads((work / f"m_{RUNS[-1].name}" / "metrics.json").read_text())
    lines = [
        "# How much data the tokenizer needs",
        "",
        f"Made by `python benchmarks/tokenizer_data.py`, commit {facts['commit']}, "
        f"{facts['created'][:10]}, torch {facts['versions']['torch']}, one thread.",
        "Columns as in [tokenizer.md](tokenizer.md); a fifth of the operators is held out. "
        "The other real files hold 2 to 8 operators, too few to split and train on.",
        "",
        *HEAD,
        *rows,
        "",
        "## Every category and level of the last row",
        "",
        *detail(found),
    ]
    RESULT.write_text("\n".join([*lines, ""]))
    print(RESULT.read_text())


def detail(found: dict[str, Any]) -> list[str]:
    """A row per codebook; what belongs to a whole category stands at its first level."""
    quality = found["quality"]
    rows = [
        "| category | level | codes | latent entries | utilization | topography | "
        "reconstruction quality | orthogonality |",
        "|" + "---|" * 8,
    ]
    seen: list[str] = []
    for number, book in enumerate(found["codebooks"]):
        first = book["category"] not in seen
        if first:
            seen.append(book["category"])
        whole = [
            f"{quality[name][len(seen) - 1]:.3f}" if first else ""
            for name in ("category_reconstruction", "category_orthogonality")
        ]
        own = [f"{quality[name][number]:.3f}" for name in ("utilization", "codebook_topography")]
        cells = [book["category"] if first else "", book["level"], book["num_tokens"]]
        rows.append("| " + " | ".join(map(str, [*cells, book["latent_dim"], *own, *whole])) + " |")
    return rows


if __name__ == "__main__":
    typer.run(main)
