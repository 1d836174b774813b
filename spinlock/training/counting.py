"""The footprint of a run, counted from its configuration and its data's header alone.

Cheap: networks are built without memory, on the meta device.
"""

import torch

from spinlock.data import open_dataset
from spinlock.noa import UAFNO, UAFNOConfig, sampled_steps
from spinlock.training.batches import CACHE_BYTES, split
from spinlock.training.config import NOATraining, VQVAETraining
from spinlock.training.footprint import Footprint

_FLOAT = 4
_PROCESS = 2.0**30  # a unit for what is there whatever is trained


def noa_footprint(config: NOATraining) -> Footprint:
    """Weights once; per sample what the window keeps, a step's own room, and the frames.

    A step keeps what the backward reads of it; with `checkpoint_steps` only its state, and one step
    at a time the rest.
    """
    info = open_dataset(config.data.path).info
    grid, frame = (info.height, info.width), _FLOAT * info.channels * info.height * info.width
    dtype = config.compute.convolutions(warm_up=False)
    parameters, step = _network(
        config.model, info.channels, grid, len(info.parameter_names), convolutions=dtype
    )
    rollout, whole = config.rollout, split(info, config.data, config.seed)
    data = (len(whole.train) + len(whole.validation)) * (rollout.window + 1) * frame
    kept = frame if config.compute.checkpoint_steps else step
    per_sample = {"window": float(rollout.window * kept), "step": float(step)}
    if config.tokenizer is not None:
        steps = sampled_steps(config.loss.latent_sample_steps, rollout.window)
        cells = grid[0] * grid[1] // 4**config.model.encoder_levels
        per_sample["frames"] = float((rollout.timesteps + 1) * frame)
        per_sample["latent"] = float(len(steps) * _FLOAT * config.model.bottleneck_channels * cells)
    once = {
        "process": _PROCESS,
        "weights": float(parameters),
    }
    held = float(data if data <= CACHE_BYTES else 0)
    return Footprint(once, per_sample, config.batch_size, held)


def vqvae_footprint(config: VQVAETraining) -> Footprint:
    """By the sizes of the networks of one category: how many there are is found from the data."""
    model = config.model
    widths = model.hidden_dim + model.decoder_hidden_dim + model.partial_hidden_dim
    once = {
        "process": _PROCESS,
        "weights": float(_FLOAT * widths * (widths + model.embedding_dim)),
    }
    per_sample = {"widths": float(_FLOAT * (widths + model.embedding_dim))}
    return Footprint(once, per_sample, config.batch_size)


def _network(
    config: UAFNOConfig,
    channels: int,
    grid: tuple[int, int],
    parameters: int,
    *,
    convolutions: torch.dtype,
) -> tuple[int, int]:
    """Bytes of a U-AFNO's weights, and what a step with one sample keeps for the backward."""
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.device("meta"):
        model = UAFNO(config, channels=channels, grid=grid, parameters=parameters)
        films = model.condition(torch.empty(1, parameters))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(torch.empty(1, channels, *grid), films, convolutions)
    weights = {p.untyped_storage()._cdata: p.untyped_storage().nbytes() for p in model.parameters()}
    step = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights)
    return sum(weights.values()), step
