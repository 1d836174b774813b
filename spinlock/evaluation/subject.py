"""A NOA to be examined, from whatever holds one: a checkpoint of its training, or its artifact."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from spinlock import artifact
from spinlock.config import parse
from spinlock.data import TrajectoryDataset, open_dataset
from spinlock.errors import ArtifactError
from spinlock.noa import UAFNO, LatentProjector, NeuralOperatorAgent, UAFNOConfig
from spinlock.training import checkpoint
from spinlock.vqvae import Tokenizer


@dataclass(frozen=True)
class Subject:
    """The U-AFNO, and what is known of its training; `projected` are its projector's weights.

    `training` is the configuration that it was trained by, as a document, and `facts` the
    fingerprints of its files. `history` are the reports of a checkpoint's epochs; an artifact has
    none. `channels` and `parameters` name the field's channels and the conditioning's entries;
    `grid` is (H, W).
    """

    path: Path
    kind: str
    model: UAFNO
    projected: dict[str, Tensor]
    training: dict[str, Any]
    facts: dict[str, str]
    history: tuple[dict[str, Any], ...]
    channels: tuple[str, ...]
    parameters: tuple[str, ...]
    grid: tuple[int, int]

    def projector(self, tokenizer: Tokenizer) -> LatentProjector | None:
        """Its projector into the tokenizer's latents; None if it was trained without one.

        Raises ArtifactError if those are of another size.
        """
        if not self.projected:
            return None
        made = LatentProjector(self.model.config.bottleneck_channels, tokenizer.latent_dim)
        try:
            made.load_state_dict(self.projected)
        except RuntimeError as error:
            raise ArtifactError(
                f"{self.path}: its projector does not fit the tokenizer's {tokenizer.latent_dim} "
                f"latent entries: {error}"
            ) from None
        return made.eval()

    def refuse(self, dataset: TrajectoryDataset) -> None:
        """Raises ArtifactError if the file's trajectories are not of the kind it was trained on."""
        info = dataset.info
        own = _described(self.channels, self.grid, self.parameters)
        found = _described(info.channel_names, (info.height, info.width), info.parameter_names)
        if found != own:
            raise ArtifactError(
                f"{self.path}: trained on {own}; {info.path} has {found}. Give data of the kind "
                "that it was trained on."
            )


def load_subject(path: Path, dataset: TrajectoryDataset | None = None) -> Subject:
    """What `path` holds: the directory of an artifact or of a checkpoint, or a checkpoint itself.

    A checkpoint does not say how large its fields are: `dataset` does, by default the file that it
    is trained on. Raises ArtifactError or DatasetError if they are not there or do not fit.
    """
    if (path / artifact.FILES[0]).is_file():
        return _of_artifact(path)
    if not checkpoint.place(path).is_file():
        raise ArtifactError(
            f"{path}: neither a checkpoint (a .pt file, or a directory with {checkpoint.NAME}) nor "
            f"an artifact (a directory with {artifact.FILES[0]}).{_hint(path)}"
        )
    return _of_checkpoint(path, dataset)


def data_of(training: dict[str, Any]) -> TrajectoryDataset | None:
    """The file that a training configuration names; None if there is no file any more."""
    path = training.get("data", {}).get("path")
    return open_dataset(Path(path)) if path is not None and Path(path).is_file() else None


def _of_artifact(path: Path) -> Subject:
    agent, found = NeuralOperatorAgent.load(path), artifact.load(path, "noa")
    return Subject(
        path=path,
        kind="artifact",
        model=agent.model,
        projected=_part(found.weights, "projector."),
        training=found.provenance.get("training", {}),
        facts=found.provenance.get("facts", {}),
        history=(),
        channels=agent.channels,
        parameters=agent.parameters,
        grid=agent.grid,
    )


def _of_checkpoint(path: Path, dataset: TrajectoryDataset | None) -> Subject:
    saved = checkpoint.read(path)
    training, weights = saved["config"], saved["model"]
    if training.get("task") != "noa":
        raise ArtifactError(f"{path}: a checkpoint of task '{training.get('task')}', not of a NOA.")
    dataset = dataset or data_of(training)
    if dataset is None:
        raise ArtifactError(
            f"{path}: a checkpoint does not say how large its fields are, and its data is not at "
            f"{training['data']['path']} any more. Say where it is with --dataset."
        )
    info = dataset.info
    try:
        model = UAFNO(
            parse(UAFNOConfig, training["model"], where=str(path), within="model"),
            channels=info.channels,
            grid=(info.height, info.width),
            parameters=len(info.parameter_names),
        )
        model.load_state_dict(_part(weights, "uafno."))
    except (RuntimeError, ValueError) as error:
        raise ArtifactError(
            f"{path}: its weights do not fit fields of {info.channels} channels on "
            f"{info.height} x {info.width} with {len(info.parameter_names)} parameters, as "
            f"{info.path} has them: {error}"
        ) from None
    return Subject(
        path=path,
        kind="checkpoint",
        model=model.eval(),
        projected=_part(weights, "projector."),
        training=training,
        facts=saved["facts"],
        history=tuple(saved["run"]["history"]),
        channels=info.channel_names,
        parameters=info.parameter_names,
        grid=(info.height, info.width),
    )


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def _hint(path: Path) -> str:
    """Where in a run's directory the checkpoint or the artifact is."""
    inside = ("checkpoint", "best", "best_model")
    near = [path / name for name in inside if (path / name).is_dir()]
    near += sorted(path.glob("*.pt"))
    return f" Did you mean {near[0]}?" if near else ""


def _described(channels: tuple[str, ...], grid: tuple[int, int], names: tuple[str, ...]) -> str:
    return (
        f"channels {', '.join(channels)} on {grid[0]} x {grid[1]} with parameters "
        f"{', '.join(names) or 'none'}"
    )
