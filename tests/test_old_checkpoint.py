"""Checkpoints in the training guides' layout, whole and with what the oldest ones lacked."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from noa_runs import SMALL, refused, train

from spinlock.training import checkpoint

SIZES = {"base_channels": 4, "encoder_levels": 1, "modes": 4, "afno_blocks": 1}


@pytest.fixture(scope="module")
def straight(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state-only run of two epochs of three batches; its checkpoint after the first update."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("old") / "noa"
    train("--dataset", tiny_data, *SMALL, "--checkpoint-dir", out, "--save-every", "4")
    return out


def old(straight: Path, tiny_data: Path, **changes: Any) -> dict[str, Any]:
    """`straight`'s fourth update as the guides lay it out; a change to None leaves a key out."""
    saved = checkpoint.read(straight / "step_4.pt")
    weights = {k.removeprefix("uafno."): v for k, v in saved["model"].items()}
    content = {
        "model_state_dict": OrderedDict(weights),
        "optimizer_state_dict": saved["optimizer"],
        "scheduler_state_dict": {"_last_lr": [1.5e-4], "last_epoch": 4},
        "epoch": 0,
        "global_step": 4,
        "history": {"train_loss": [1.5], "val_loss": [1.25]},
        "best_val_loss": 1.25,
        "config": SIZES,
        "args": {
            **{"dataset": str(tiny_data), "vqvae_path": None, "lambda_commit": 0.5},
            **{"lr": 3e-4, "epochs": 2, "batch_size": 4, "timesteps": 8, "bptt_window": 4},
            **{"warmup_steps": 2, "lr_schedule": "cosine", "device": "cuda", "resume": None},
            # the prototype writes every argument that it has, used or not
            **{"loss_mode": "mse_led", "lambda_recon": 1.0, "enable_latent_loss": False},
        },
    }
    return {k: v for k, v in {**content, **changes}.items() if v is not None}


def resumed(content: dict[str, Any], tmp_path: Path, *flags: str | Path, name: str = "any") -> str:
    path = tmp_path / "old" / f"{name}.pt"
    path.parent.mkdir()
    torch.save(content, path)
    extra = [word for word in SMALL if "=" in word]
    sets = [word for pair in extra for word in ("--set", pair)]
    return train("--resume", path, *sets, *flags, "--checkpoint-dir", tmp_path / "new")


def test_a_whole_one_goes_on_as_if_nothing_had_happened(straight, tiny_data, tmp_path):
    told = resumed(old(straight, tiny_data), tmp_path)
    there, here = (checkpoint.read(path / "epoch_2.pt") for path in (straight, tmp_path / "new"))
    assert all(torch.equal(there["model"][k], here["model"][k]) for k in there["model"])
    assert here["run"]["global_step"] == 6
    assert here["run"]["history"][0]["metrics"] == {"train/total": 1.5}
    for line in (
        "  ✓ Loaded model weights\n  ✓ Loaded optimizer state",
        "  ✓ Resuming from epoch 2, step 4\n    (Will skip first 1 batches of epoch 2)",
        "  ⚠ Best val loss there: 1.250000, of the weighted total.",
    ):
        assert line in told
    assert "Old checkpoint format" not in told
    assert "Its schedule" not in told
    assert {p.name for p in (tmp_path / "old").iterdir()} == {"any.pt"}


def test_one_from_before_resuming_is_inferred_and_synced(straight, tiny_data, tmp_path):
    lacking = dict.fromkeys(
        ("scheduler_state_dict", "epoch", "global_step", "history", "best_val_loss")
    )
    told = resumed(old(straight, tiny_data, **lacking), tmp_path, name="step_4")
    assert (
        "  ⚠ Old checkpoint format detected - inferred global_step=4 from filename\n"
        "  ⚠ Syncing scheduler to step 4...\n"
        "  ✓ Scheduler synced to step 4, lr=1.50e-04\n"
        "  ✓ Resuming from epoch 2, step 4\n"
    ) in told
    there, here = (checkpoint.read(path / "epoch_2.pt") for path in (straight, tmp_path / "new"))
    assert all(torch.equal(there["model"][k], here["model"][k]) for k in there["model"])


def test_missing_projector_weights_are_told_in_the_guides_words(
    straight, tiny_data, tiny_tokenizer, tmp_path
):
    told = resumed(
        *(old(straight, tiny_data, scheduler_state_dict={"_last_lr": [2e-4]}), tmp_path),
        *("--vqvae-path", tiny_tokenizer, "--enable-latent-loss"),
    )
    assert (
        "  ⚠⚠ WARNING: Old checkpoint has no projector weights!\n"
        "      Projector will restart from random initialization.\n"
        "      L_latent training will be inconsistent with pre-crash training.\n"
        "      Recommend: Either disable --enable-latent-loss or train from scratch.\n"
    ) in told
    assert "  ⚠ Its schedule was at lr=2.00e-04: it had other settings than this run\n" in told


def test_a_term_that_an_old_run_never_used_stays_off_and_its_mode_is_told(
    straight, tiny_data, tiny_tokenizer, tmp_path
):
    whole = old(straight, tiny_data)
    whole["args"]["loss_mode"] = "vq_led"
    told = resumed(whole, tmp_path, "--vqvae-path", tiny_tokenizer)
    assert "  ⚠ It was trained by --loss-mode vq_led, which is not taken over\n" in told
    config = checkpoint.read(tmp_path / "new" / "epoch_2.pt")["config"]
    assert not config["loss"]["lambda_recon"]
    assert config["loss"]["lambda_commit"] > 0  # of the tokenizer that was given


def test_what_cannot_be_resumed_is_refused_with_the_reason(straight, tiny_data, tmp_path, capsys):
    out = ("--checkpoint-dir", tmp_path / "new", "--set", "model.blocks_per_level=1")

    def said(name: str, content: dict[str, Any], *flags: str | Path) -> str:
        torch.save(content, tmp_path / name)
        return refused(capsys, "--resume", tmp_path / name, *(flags or out))

    whole = old(straight, tiny_data)
    assert "Give a new --checkpoint-dir" in said("a.pt", whole, "--epochs", "2")
    sizes = said("b.pt", whole, *out, "--base-channels", "8", "--modes", "2")
    assert "model.base_channels: 4 there, 8 here\n  model.modes: 4 there, 2 here" in sizes
    renamed = {f"operator.{k}": v for k, v in whole["model_state_dict"].items()}
    other = said("c.pt", {**whole, "model_state_dict": renamed})
    assert "its network is not this U-AFNO" in other
    assert "0 of them with the same name; the first that differs is 'operator." in other
    assert "name the file step_N.pt" in said("d.pt", old(straight, tiny_data, global_step=None))
    assert "not a Spinlock checkpoint" in said("e.pt", {"weights": torch.zeros(1)})
    torch.save({"model_state_dict": {"a": torch.zeros(1)}, "f": print}, tmp_path / "f.pt")
    assert "Nothing of it was run" in refused(capsys, "--resume", tmp_path / "f.pt", *out)
    assert not (tmp_path / "new").exists()
