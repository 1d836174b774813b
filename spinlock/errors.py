"""Errors meant for the person at the keyboard.

A message says what is wrong, where (file, key, line, sample) and what to do. The command
line prints it alone and exits with 2; our own mistakes stay ordinary Python errors, with
their traceback.
"""


class SpinlockError(Exception):
    """Something the user can put right."""


class ConfigError(SpinlockError):
    """A configuration file or `--set` override that cannot be used."""


class DatasetError(SpinlockError):
    """A data file that is not what it should be."""


class GroundTruthError(SpinlockError):
    """An operator whose own trajectory is not finite or runs away."""


class ArtifactError(SpinlockError):
    """A trained module or checkpoint on disk that cannot be used."""


class TrainingError(SpinlockError):
    """A training run that cannot start as it was asked for."""


class OutOfMemoryError(SpinlockError):
    """A model that does not fit into memory before its first update."""


class SearchError(SpinlockError):
    """A search that cannot start, or be resumed, as it was asked for."""
