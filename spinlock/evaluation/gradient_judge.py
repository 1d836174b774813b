"""What a measured gradient says: sentences with a status, and the window that would cure it."""

from spinlock.evaluation.gradient_measurement import Measurement
from spinlock.evaluation.gradient_window import EXPLODED, LARGE, OVERFLOW, advice
from spinlock.evaluation.verdict import Finding, Status, verdict

_ANEW = "Go back to an earlier checkpoint, or start anew with a lower learning rate."
RUNAWAY = 10.0
"""A rollout that reaches further than so many times its targets runs away."""


def judge(
    timesteps: int, window: int, measured: Measurement
) -> tuple[tuple[Finding, ...], int | None]:
    """What is found of a rollout, and the window that would cure it, if one has to and can."""
    windows = measured.windows
    configured, forward, norms = (
        _configuration(timesteps, window),
        _forward(measured),
        _norm(measured, window),
    )
    findings = (configured, forward, norms)
    if verdict((configured, norms)) is Status.PASS or forward.status is Status.FAIL:
        return findings, None
    if windows.of(window) <= LARGE and norms.status is not Status.PASS:
        alone = Finding(
            Status.WARN,
            f"The gradient of L_traj alone has the norm {windows.of(window):.3g}: the other terms "
            "are at fault. Lower their weights, or look at what the tokenizer sees.",
        )
        return (*findings, alone), None
    most = min(window, advice(timesteps).window or window)
    fix = windows.longest_within(LARGE, most) or windows.longest_within(EXPLODED, most)
    if fix is None:
        hopeless = Finding(
            Status.FAIL,
            f"No window cures this: even one step has a gradient of norm {windows.of(1):.2g}. The "
            f"weights themselves are at fault. {_ANEW}",
        )
        return (*findings, hopeless), None
    return findings, None if fix == window else fix


def _configuration(timesteps: int, window: int) -> Finding:
    row = advice(timesteps)
    if row.window is not None and row.necessity == "required" and window > row.window:
        if window == timesteps:
            return Finding(
                Status.FAIL,
                f"CRITICAL: timesteps {timesteps} without a bptt_window: the gradient goes through "
                "all of them, and more than 32 need truncation (TBPTT). Recommended: "
                f"{row.window}.",
            )
        return Finding(
            Status.WARN,
            f"A bptt_window of {window} is longer than the recommended {row.window}.",
        )
    whole = "no window" if window == timesteps else f"a window of {window}"
    said = {
        "none": f"{timesteps} steps need no window",
        "optional": f"for {timesteps} steps a window of 16 is optional",
        "required": f"for {timesteps} steps a window of 32 or less is required",
    }
    return Finding(Status.PASS, f"{said[row.necessity]}; trained with {whole}.")


def _forward(measured: Measurement) -> Finding:
    bad = [each for each in measured.modules if each.bad and each.first_bad_step is not None]
    if bad:
        first = min(bad, key=lambda each: each.first_bad_step or 0)
        return Finding(
            Status.FAIL,
            f"The rollout itself is not finite: first at step {first.first_bad_step}, in "
            f"{first.name}. No window cures a forward pass. {_ANEW}",
        )
    (predicted,) = (each for each in measured.tensors if each.name == "predicted")
    (target,) = (each for each in measured.tensors if each.name == "target")
    own = max(abs(predicted.minimum), abs(predicted.maximum))
    true = max(abs(target.minimum), abs(target.maximum))
    if own > RUNAWAY * true > 0:
        return Finding(
            Status.WARN,
            f"The rollout runs away: it reaches {own:.3g}, where the targets stay within "
            f"{true:.3g}.",
        )
    return Finding(Status.PASS, "Every value of the forward pass is finite.")


def _norm(measured: Measurement, window: int) -> Finding:
    bad, whole = measured.nonfinite, measured.norm
    growth = measured.windows.growth
    rate = (
        ""
        if growth is None
        else f" Each step back multiplies the state's gradient by {growth:.3g}."
    )
    if bad:
        return Finding(
            Status.FAIL,
            f"{len(bad)} of {len(measured.gradients)} parameters have a gradient that is not "
            f"finite, with a window of {window}: the update would be skipped.{rate}",
        )
    if whole >= OVERFLOW:
        return Finding(
            Status.FAIL,
            f"The gradient's norm is {whole:.2g}: its square overflows float32, so the update "
            f"would be skipped.{rate}",
        )
    if whole > EXPLODED:
        return Finding(
            Status.FAIL,
            f"The gradient's norm is {whole:.2g}, above {EXPLODED:.0e}: it explodes.{rate}",
        )
    if whole > LARGE:
        return Finding(
            Status.WARN, f"The gradient's norm is {whole:.3g}, above {LARGE:.0f}: large.{rate}"
        )
    return Finding(Status.PASS, f"Every gradient is finite, and the norm of all is {whole:.3g}.")
