"""Distributed hyperparameter search for Neural Operator Agents."""

import os

# OpenMP's threads spin while they wait, and so take the core from whatever runs beside them: with
# one other busy process on two cores, training the default tokenizer took 13.5 s; when they sleep
# it takes 4.9. Read when torch loads OpenMP, so it stands before any import of torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
