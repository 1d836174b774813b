"""Small files of every layout, and what plain h5py finds in them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from spinlock.data.plan import Plan
from spinlock.data.writer import DatasetWriter

N, M, T, C, H, W = 3, 2, 5, 2, 4, 6


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def plan(operators: int = N, dtype: str = "float32", **changes) -> Plan:
    """A plan whose arrays are square: 4 x 4."""
    facts = {
        "config": {"seed": 0, "operators": operators},
        "provenance": {"versions": {"spinlock": "0"}},
        "domain": "made up",
        "channel_names": ("a", "b"),
        "parameter_names": ("p", "q"),
        "unit": np.random.default_rng(1).random((operators, 2)),
        "physical": [{"p": i, "q": "even" if i % 2 == 0 else "odd"} for i in range(operators)],
        "conditioning_names": ("p", "q=even", "q=odd"),
        "conditioning": numbers(operators, 3, seed=2),
        "seeds": np.arange(operators, dtype=np.uint64) + 2**63,
        "realizations": M,
        "frames": T,
        "grid": H,
        "dtype": np.dtype(dtype),
        "features": {"summary": ("x", "y", "z")},
    }
    return Plan(**(facts | changes))


def rows(plan: Plan) -> dict[str, np.ndarray]:
    """Every row of every array that a plan calls for."""
    return {
        name: numbers(*shape, seed=len(name)).astype(dtype)
        for name, (shape, dtype) in plan.arrays().items()
    }


def write_spinlock(path: Path, dtype: str = "float32") -> None:
    made = plan(dtype=dtype)
    with DatasetWriter(path, made) as writer:
        writer.append(rows(made))
        writer.finish()


def write_the_well(path: Path) -> None:
    """All kinds of fields: shared by the samples, constant along an axis, static, vectors."""
    with h5py.File(path, "w") as file:
        file.attrs["dataset_name"] = "made_up"
        file.attrs["n_trajectories"] = N
        dimensions = file.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = ["x", "y"]
        for name, size in (("time", T), ("x", H), ("y", W)):
            dimensions[name] = np.arange(size, dtype=np.float32)
        scalars = file.create_group("scalars")
        scalars.attrs["field_names"] = ["nu", "drag"]
        for name, values in (("nu", numbers(N, seed=9)), ("drag", np.float32(0.1))):
            scalars[name] = values
            scalars[name].attrs["sample_varying"] = values.ndim == 1
            scalars[name].attrs["time_varying"] = False
        fields = {
            "t0_fields/density": ((N, T, H, W), (True, True), (True, True)),
            "t0_fields/forcing": ((T, W), (False, True), (False, True)),
            "t0_fields/medium": ((N, H, W), (True, False), (True, True)),
            "t1_fields/velocity": ((N, T, H, W, 2), (True, True), (True, True)),
            "t2_fields/stress": ((N, T, H, W, 2, 2), (True, True), (True, True)),
        }
        for name, (shape, (sample, time), dims) in fields.items():
            file[name] = numbers(*shape, seed=len(name))
            file[name].attrs.update(sample_varying=sample, time_varying=time, dim_varying=dims)
        for order in range(3):
            group = file[f"t{order}_fields"]
            group.attrs["field_names"] = list(group)


def write_prototype(path: Path, trajectories: bool = True, snapshot: bool = False) -> None:
    config = {
        "parameter_space": {
            "evolution": {"update_policy": {}},
            "operator": {},
            "architecture": {"num_layers": {}, "base_channels": {}},
            "stochastic": {"noise_scale": {}},
        },
        "simulation": {"operator_type": "cnn"},
    }
    registry = {
        "temporal": {"b": 1, "a": 0},
        "operator_sensitivity": {"never_stored": 2},
        "causality": {"c": 3},
        "invariant_drift": {"d": 4},
    }
    with h5py.File(path, "w") as file:
        file["inputs/fields"] = numbers(N, C, H, W, seed=1)
        file["parameters/params"] = np.random.default_rng(3).random((N, 4), dtype=np.float32)
        file["metadata/grid_sizes"] = np.full(N, H, dtype=np.int32)
        file["metadata"].attrs.update(config=json.dumps(config), num_realizations=M)
        outputs = file.create_group("outputs")
        if trajectories:
            fields = numbers(N, M, T, C, H, W, seed=4)
            fields[:, :, 0] = file["inputs/fields"][:][:, None]
            outputs["fields"] = fields[:, :, 0] if snapshot else fields
        else:
            outputs.attrs["feature_only_mode"] = True
        file["features/summary/per_trajectory/features"] = numbers(N, M, 4, seed=5)
        file["features/summary/aggregated/features"] = numbers(N, 12, seed=6)
        file["features/summary/aggregated/metadata/extraction_time"] = np.zeros(1)
        file["features/summary"].attrs["feature_registry"] = json.dumps(registry)
        file["features/temporal/features"] = numbers(N, T, 3, seed=7)


def write_rollouts(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["trajectories"] = numbers(N, M, T, C, H, W)
        file["metrics/energy"] = numbers(N, M, T, seed=1)


def write_pdebench(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for index in range(N):
            file[f"{index:04}/data"] = numbers(T, H, W, C, seed=index)
            file[f"{index:04}"].attrs["config"] = f"name: made_up\nsim:\n  seed: {index}\n"


@dataclass(frozen=True)
class Layout:
    """How a layout is written, and its numbers by plain h5py: an oracle without our reader."""

    name: str
    write: Callable[[Path], None]
    trajectories: Callable[[h5py.File], np.ndarray]
    initial: Callable[[h5py.File], np.ndarray]
    parameters: Callable[[h5py.File], np.ndarray]


def _well_fields(file: h5py.File) -> np.ndarray:
    """[N, T, C, H, W] by broadcasting every time-varying field to all axes."""
    count = int(file.attrs["n_trajectories"])
    frames, height, width = (file["dimensions"][axis].shape[0] for axis in ("time", "x", "y"))
    channels = []
    for order in range(3):
        group = file[f"t{order}_fields"]
        for name in group.attrs["field_names"]:
            field, flags = group[name], group[name].attrs
            if not flags["time_varying"]:
                continue
            full = (count, frames, height, width)
            kept = (flags["sample_varying"], True, *flags["dim_varying"])
            shape = [size if keep else 1 for size, keep in zip(full, kept, strict=True)]
            values = field[()].reshape(*shape, 2**order)
            values = np.broadcast_to(values, (*full, 2**order))
            channels += list(np.moveaxis(values, -1, 0))
    return np.stack(channels, axis=2)


def _well_scalars(file: h5py.File) -> np.ndarray:
    count, group = int(file.attrs["n_trajectories"]), file["scalars"]
    columns = [np.broadcast_to(group[name][()], count) for name in group.attrs["field_names"]]
    return np.stack(columns, axis=1) if columns else np.empty((count, 0), np.float32)


def _flat(fields: np.ndarray) -> np.ndarray:
    return fields.reshape(-1, *fields.shape[2:])


def _repeated(values: np.ndarray, times: int) -> np.ndarray:
    return np.repeat(values, times, axis=0)


def _pdebench(file: h5py.File) -> np.ndarray:
    return np.stack([file[name]["data"][:].transpose(0, 3, 1, 2) for name in sorted(file)])


SPINLOCK = Layout(
    "spinlock",
    write_spinlock,
    lambda f: _flat(f["outputs/fields"][:]),
    lambda f: _repeated(f["inputs/fields"][:], f["outputs/fields"].shape[1]),
    lambda f: _repeated(f["parameters/conditioning"][:], f["outputs/fields"].shape[1]),
)
THE_WELL = Layout(
    "the_well", write_the_well, _well_fields, lambda f: _well_fields(f)[:, 0], _well_scalars
)
PROTOTYPE = Layout(
    "prototype",
    write_prototype,
    lambda f: _flat(f["outputs/fields"][:]),
    lambda f: _flat(f["outputs/fields"][:, :, 0]),
    lambda f: _repeated(f["parameters/params"][:], f["outputs/fields"].shape[1]),
)
ROLLOUTS = Layout(
    "prototype",
    write_rollouts,
    lambda f: _flat(f["trajectories"][:]),
    lambda f: _flat(f["trajectories"][:, :, 0]),
    lambda f: np.empty((f["trajectories"].shape[0] * f["trajectories"].shape[1], 0)),
)
PDEBENCH = Layout(
    "pdebench",
    write_pdebench,
    _pdebench,
    lambda f: _pdebench(f)[:, 0],
    lambda f: np.empty((len(f), 0)),
)

SYNTHETIC = {
    "spinlock": SPINLOCK,
    "the_well": THE_WELL,
    "prototype": PROTOTYPE,
    "rollouts": ROLLOUTS,
    "pdebench": PDEBENCH,
}
REAL = {
    "ns_kolmogorov_exponax.h5": THE_WELL,
    "tiny/rd_grayscott_exponax_tiny.h5": THE_WELL,
    "tiny/wave_medium_deepwave_tiny.h5": THE_WELL,
    "tiny/wave_const_exponax_tiny.h5": THE_WELL,
    "pdebench_2d_diff-react.h5": PDEBENCH,
    "prototype_trajectories.h5": PROTOTYPE,
}
