"""How well tokens tell operators apart, against the features that they were made from.

Three measures, each where the data allows it:

- *neighbours*: of the 10 samples nearest to one by its features, the share that is also among the
  10 nearest by its tokens: what the tokens keep of what the features can tell apart.
- *retrieval*, of operators with several samples, by realization or window: how often the nearest
  other sample is of the same operator. Equally near ones share the answer, as a random choice
  among them would.
- *prediction*, of operators with parameters: how well the 10 nearest samples of other operators
  tell one's parameters, by R² for numbers and accuracy for choices, in 5 folds by operator.

All in the same spaces: tokens by their Hamming distance, decoded tokens and features by the
Euclidean one, and the tokens dealt out anew to the samples, whose score is that of knowing
nothing. N samples, P parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.metrics import pairwise_distances_chunked, r2_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor, NearestNeighbors

NEIGHBOURS, FOLDS, MOST_SAMPLES = 10, 5, 4096
FEATURES, CHANCE = "features", "shuffled tokens"


@dataclass(frozen=True)
class Discriminability:
    """Scores by space, then by what is scored; `sentence` says what was measured, of what."""

    measure: str
    sentence: str
    scores: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Space:
    """A row for each sample, and how far apart two of them are."""

    rows: Float[ndarray, "N D"] | Int[ndarray, "N D"]
    metric: str


def spaces(
    codes: Int[ndarray, "N Q"],
    decoded: Float[ndarray, "N D"],
    features: Float[ndarray, "N D"],
) -> dict[str, Space]:
    """What is compared, by name; every one in the order of the samples."""
    # Not "euclidean": scikit-learn's comes from a product, and equal rows are not at distance 0.
    return {
        FEATURES: Space(features, "sqeuclidean"),
        "decoded tokens": Space(decoded, "sqeuclidean"),
        "tokens": Space(codes, "hamming"),
        CHANCE: Space(np.random.default_rng(0).permutation(codes), "hamming"),
    }


def chosen(operators: Int[ndarray, " N"], most: int = MOST_SAMPLES) -> Int[ndarray, " n"]:
    """Rows to judge: all, or those of as many whole operators, drawn by a fixed seed, as fit."""
    if len(operators) <= most:
        return np.arange(len(operators))
    names, counts = np.unique(operators, return_counts=True)
    order = np.random.default_rng(0).permutation(len(names))
    fitting = max(2, int((counts[order].cumsum() <= most).sum()))
    return np.flatnonzero(np.isin(operators, names[order[:fitting]]))


def neighbours(found: Mapping[str, Space]) -> Discriminability | None:
    """Whether the features' nearest samples are the nearest elsewhere; None below three samples."""
    count = len(found[FEATURES].rows)
    if count < 3:
        return None
    most = min(NEIGHBOURS, count - 2)  # of all the others, everyone is a neighbour
    order = _order(count)
    nearest = {
        name: NearestNeighbors(n_neighbors=most, metric=space.metric, algorithm="brute")
        .fit(space.rows[order])
        .kneighbors(return_distance=False)
        for name, space in found.items()
    }
    expected = nearest[FEATURES]
    return Discriminability(
        measure="neighbours",
        sentence=(
            f"Share of the {most} samples nearest by features that are among the {most} nearest, "
            f"over {count} samples; a blind guess scores {most / (count - 1):.4g}."
        ),
        scores={
            name: {
                f"{most} nearest": float((members[:, :, None] == expected[:, None]).any(2).mean())
            }
            for name, members in nearest.items()
        },
    )


def retrieval(found: Mapping[str, Space], operators: Int[ndarray, " N"]) -> Discriminability | None:
    """The nearest other sample's operator; None where no operator has two, or is alone."""
    names, counts = np.unique(operators, return_counts=True)
    if len(names) < 2 or counts.max() < 2:
        return None
    several = np.isin(operators, names[counts > 1])
    same = counts[np.searchsorted(names, operators)][several] - 1
    chance = float((same / (len(operators) - 1)).mean())
    return Discriminability(
        measure="retrieval",
        sentence=(
            f"Share of {several.sum()} samples whose nearest other one is of the same operator, of "
            f"{len(names)} operators; a blind guess scores {chance:.4g}."
        ),
        scores={
            name: {"accuracy": float(_shares(space, operators)[several].mean())}
            for name, space in found.items()
        },
    )


def prediction(
    found: Mapping[str, Space],
    operators: Int[ndarray, " N"],
    parameters: Float[ndarray, "N P"],
    names: Sequence[str],
) -> Discriminability | None:
    """A sample's parameters from its neighbours; None without parameters that vary, or operators.

    Columns named `parameter=value` are the values of one choice.
    """
    columns = {name: place for name, place in _columns(names).items() if _varies(parameters, place)}
    count = len(np.unique(operators))
    if not columns or count < 2:
        return None
    order = _order(len(operators))
    folds = GroupKFold(min(FOLDS, count))
    least = len(operators) - max(len(test) for _, test in folds.split(order, groups=operators))
    voters = min(NEIGHBOURS, least)
    truth = parameters[order]
    scores: dict[str, dict[str, float]] = {}
    for space_name, space in found.items():
        guess = cross_val_predict(
            KNeighborsRegressor(voters, metric=space.metric, algorithm="brute"),
            space.rows[order],
            truth,
            groups=operators[order],
            cv=folds,
        ).reshape(truth.shape)
        scores[space_name] = {
            name: _score(truth[:, place], guess[:, place]) for name, place in columns.items()
        }
    return Discriminability(
        measure="prediction",
        sentence=(
            f"Parameters of {len(operators)} samples of {count} operators, each from the "
            f"{voters} nearest samples of other operators in {folds.n_splits} folds: R² of "
            "numbers, accuracy of choices (marked =)."
        ),
        scores=scores,
    )


def _order(count: int) -> Int[ndarray, " N"]:
    """Equally near samples are taken in the order of the rows, which must not mean anything."""
    return np.random.default_rng(1).permutation(count)


def _shares(space: Space, operators: Int[ndarray, " N"]) -> Float[ndarray, " N"]:
    """For each sample, the share of its own operator's among those nearest to it."""
    done = 0
    shares = []
    # 64 MB at a time; the distances are float64 and exact where rows are equal.
    for block in pairwise_distances_chunked(space.rows, metric=space.metric, working_memory=64):
        rows = np.arange(done, done + len(block))
        block[np.arange(len(block)), rows] = np.inf
        nearest = block == block.min(1, keepdims=True)
        same = operators[None, :] == operators[rows, None]
        shares.append((nearest & same).sum(1) / nearest.sum(1))
        done += len(block)
    return np.concatenate(shares)


def _columns(names: Sequence[str]) -> dict[str, list[int]]:
    """Places of each parameter's columns; a choice's name ends with "="."""
    columns: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        head, equals, _ = name.partition("=")
        columns.setdefault(head + equals, []).append(place)
    return columns


def _varies(parameters: Float[ndarray, "N P"], place: list[int]) -> bool:
    return bool((parameters[:, place] != parameters[0, place]).any())


def _score(truth: Float[ndarray, "N k"], guess: Float[ndarray, "N k"]) -> float:
    if truth.shape[1] == 1:
        return float(r2_score(truth, guess))
    return float((truth.argmax(1) == guess.argmax(1)).mean())
