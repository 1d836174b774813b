"""Commands that look into a search."""

from pathlib import Path
from typing import Annotated

import typer

from spinlock.cli.root import app


@app.command("explain")
def explain_trial(
    experiment: Annotated[Path, typer.Argument(help="Directory of a search, running or ended.")],
    trial: Annotated[int, typer.Argument(min=0, help="The trial's number.")],
) -> None:
    """Tell a trial's story: who suggested it, how it did, who stopped it, what that spared."""
    from spinlock.search.ledger import read_ledger  # a search's modules are half of a start
    from spinlock.search.story import explain

    for line in explain(read_ledger(experiment), trial):
        print(line)


@app.command("replay")
def replay_search(
    experiment: Annotated[Path, typer.Argument(help="Directory of a search, running or ended.")],
) -> None:
    """Derive every suggestion and every verdict again from the log; exit with 1 if one differs."""
    from spinlock.search.replay import replay
    from spinlock.search.trainables import TRAINABLES

    found = replay(experiment, TRAINABLES)
    for difference in found.differences:
        print(difference)
    told = "with differences" if found.differences else "all as the log has them"
    moves = f", {found.promotions} promotions" if found.promotions else ""
    print(
        f"{found.suggestions} suggestions{moves} and {found.reports} reports derived again: {told}."
    )
    raise typer.Exit(1 if found.differences else 0)
