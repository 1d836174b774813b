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
