"""Syne Tune's ASHA in its own simulator, on the pools that the others get.

An extra dependency (`pip install 'spinlock[bench]'`): it brings several hundred megabytes.
"""

import io
import logging
import math
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec

import numpy as np

from spinlock.search.recorded import Recorded, Run
from spinlock.search.simulation import Outcome

_SLOWER = 1000.0


def installed() -> bool:
    """Whether Syne Tune is there."""
    return find_spec("syne_tune") is not None


def syne_asha(pool: Sequence[Run], recorded: Recorded, seed: int) -> Outcome:
    """The pool's runs in turn under Syne Tune's ASHA with a reduction factor of 3.

    Its simulator knows only runs of full length, so one that ends by itself goes on as NaN, and
    those epochs are not counted.
    """
    import pandas as pd
    import syne_tune.config_space as sp
    from syne_tune import StoppingCriterion, Tuner
    from syne_tune.backend.simulator_backend.simulator_callback import SimulatorCallback
    from syne_tune.blackbox_repository import UserBlackboxBackend
    from syne_tune.blackbox_repository.blackbox_tabular import BlackboxTabular
    from syne_tune.optimizer.baselines import ASHA

    logging.getLogger("syne_tune").setLevel(logging.ERROR)
    logging.getLogger().setLevel(logging.ERROR)
    size, epochs, goal = len(pool), recorded.epochs, recorded.objective
    values = np.full((size, epochs), np.nan)
    seconds = np.ones((size, epochs))
    for index, run in enumerate(pool):
        for epoch, row in run.history.items():
            values[index, epoch - 1] = goal.cost(row.get(goal.metric, math.nan))
            seconds[index, epoch - 1] = row.get("seconds", 1.0)
    space = {"run": sp.choice(list(range(size))), "constant": sp.choice([0])}
    # Its tuner looks every 5 simulated seconds: epochs must be long beside that.
    measured = np.stack([values, _SLOWER * np.cumsum(seconds, 1)], -1)[:, None]
    table = BlackboxTabular(
        hyperparameters=pd.DataFrame({"run": np.arange(size), "constant": np.zeros(size, int)}),
        configuration_space=space,
        fidelity_space={"epoch": sp.randint(1, epochs)},
        fidelity_values=np.arange(1, epochs + 1),
        objectives_evaluations=measured,
        objectives_names=["loss", "elapsed"],
    )
    tuner = Tuner(
        trial_backend=UserBlackboxBackend(blackbox=table, elapsed_time_attr="elapsed"),
        scheduler=ASHA(
            space,
            metric="loss",
            time_attr="epoch",
            max_t=epochs,
            grace_period=1,
            reduction_factor=3,
            random_seed=seed,
            points_to_evaluate=[{"run": index, "constant": 0} for index in range(size)],
        ),
        stop_criterion=StoppingCriterion(max_num_trials_finished=size),
        n_workers=4,
        sleep_time=0,
        callbacks=[SimulatorCallback()],
        save_tuner=False,
        max_failures=10**6,
        print_update_interval=1e9,
    )
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuner.run()
    reached = tuner.tuning_status.trial_rows
    trained, nonfinite, best = 0, 0, math.inf
    for row in reached.values():
        if "epoch" not in row:  # begun beyond the pool, which ended the search
            continue
        index = int(row["run"])
        found = values[index, : min(int(row["epoch"]), max(pool[index].history))]
        trained += len(found)
        nonfinite += int(np.sum(~np.isfinite(found)))
        best = min(best, float(np.nanmin(found, initial=math.inf)))
    return Outcome(trained, nonfinite, goal.cost(best))
