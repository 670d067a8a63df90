"""What one finished run says: failed or not, errors, steps to a target."""

from __future__ import annotations

import math
from collections.abc import Callable

from normlab.data import DATASETS
from normlab.runs.record import Record

RUNNING = "running_"
"""Prefix of what was measured with running averages."""
ABOVE_CHANCE = 0.4
"""Share of the way from chance to 1 that validation accuracy must go; below, a run has failed."""
BELOW_SHARES = 0.9
"""Of text: how large the validation loss may be, as a share of that of predicting every token with
its share of the text. Above, a run has failed: it has learned little more than these shares. Its
accuracy does not say so, because most next characters cannot be known."""
ROUNDING = 1e-5
"""Relative: the program compares in float32."""
MISSED_STEPS = 10
"""In tuning, a target that is missed counts as reached after this many times the steps."""

Metric = Callable[[Record], float]


def chance(record: Record) -> float:
    """Return the accuracy of always naming the most frequent class of the training labels; of
    results that do not keep it, 1 / classes."""
    known = record.provenance.get("chance")
    return known or 1 / DATASETS[record.config["data.name"]].classes


def chance_loss(record: Record) -> float:
    """Return the loss of always predicting each class with its share of the labels; of results that
    do not keep it, that of equal shares."""
    known = record.provenance.get("chance_loss")
    return known or math.log(DATASETS[record.config["data.name"]].classes)


def has_learned(record: Record) -> bool:
    """Return whether a run ended clearly better than chance on validation: by its loss on text, by
    its accuracy on all else."""
    data = DATASETS.get(record.config["data.name"])
    if data and data.kind == "text":
        return record.final.get("validation_loss", math.inf) <= BELOW_SHARES * chance_loss(record)
    floor = chance(record)
    return record.final.get("validation_accuracy", 0.0) >= floor + ABOVE_CHANCE * (1 - floor)


def is_failed(record: Record) -> bool:
    """Return whether a run became non-finite, ended near chance on validation, or never reached
    the fit that it was to be compared at (train.stop_at_loss)."""
    return record.status != "trained" or not has_learned(record) or misses_fit(record)


def misses_fit(record: Record) -> bool:
    """Return whether a run used all its steps and did not reach train.stop_at_loss.

    The loss is that of all scored training examples, those with replaced labels included.
    """
    limit, rows = record.config["train.stop_at_loss"], record.curve
    if not limit:
        return False
    if not rows or rows[-1]["step"] < record.config["train.steps"]:
        return not rows
    kept = rows[-1].get("train_set_loss", math.inf)
    share = record.config["data.label_noise"]
    loss = (1 - share) * kept + share * rows[-1].get("replaced_loss", kept)
    return loss > limit * (1 + ROUNDING)


def train_accuracy(record: Record) -> float:
    """Return the final accuracy on the training examples of the curve; 0 for a diverged run."""
    return record.final.get("train_set_accuracy", 0.0) if record.status == "trained" else 0.0


def _reaching(
    rows: list[dict[str, float]], is_reached: Callable[[dict[str, float]], bool]
) -> tuple[dict[str, float] | None, dict[str, float] | None]:
    """Return the first row that reaches something and the one before; None where there is none."""
    before = None
    for row in rows:
        if is_reached(row):
            return row, before
        before = row
    return None, None


def at_train_loss(record: Record, key: str, loss: float) -> float:
    """Return the value of a curve's key where its mean training loss first is at most `loss`; NaN
    where it never is. Between two evaluations it is interpolated linearly in the log loss."""
    now, before = _reaching(record.curve, lambda row: row["train_loss"] <= loss)
    if now is None:
        return math.nan
    if before is None or not math.isfinite(before[key]) or now["train_loss"] <= 0:
        return now[key]
    low, high = math.log(now["train_loss"]), math.log(before["train_loss"])
    return now[key] + (math.log(loss) - low) / (high - low) * (before[key] - now[key])


def share_learned(record: Record, target: float) -> float:
    """Return the predicted share of the replaced labels where that of the kept ones first is at
    least `target`. NaN where it never is, or if the run diverged."""
    rows = record.curve if record.status == "trained" else []
    now, before = _reaching(rows, lambda row: row["train_set_accuracy"] >= target)
    if now is None:
        return math.nan
    if before is None or now["train_set_accuracy"] == before["train_set_accuracy"]:
        return now["replaced_accuracy"]
    (x, y), (end, top) = ((r["train_set_accuracy"], r["replaced_accuracy"]) for r in (before, now))
    return y + (target - x) / (end - x) * (top - y)


def accuracy(record: Record, split: str, mode: str = "") -> float:
    """Return the final accuracy on `split`; chance for a diverged run. NaN for a run that ended at
    train.stop_at, where only validation is scored."""
    if record.status != "trained":
        return chance(record)
    return record.final.get(f"{mode}{split}_accuracy", math.nan)


def error_points(record: Record, split: str = "test", mode: str = "") -> float:
    """Return the final error in percentage points; that of chance for a diverged run."""
    return 100 * (1 - accuracy(record, split, mode))


def trained_error(record: Record) -> float:
    """Return the test error in percentage points; NaN for a failed run, which has none."""
    return math.nan if is_failed(record) else error_points(record)


def growth(record: Record) -> float:
    """Return how much larger the error is on sequences longer than those of training, in points;
    NaN for a failed run."""
    return error_points(record, "long") - trained_error(record)


def steps_to_target(record: Record, target: float, mode: str = "") -> float:
    """Return the step at which validation accuracy first is at least `target`; inf if it never is,
    or if the run failed afterwards.

    Between the evaluation that reaches it and the one before, the step is interpolated linearly in
    accuracy and in log step.
    """
    name, rows = f"{mode}accuracy", [] if is_failed(record) else record.curve
    now, before = _reaching(rows, lambda row: row[name] >= target)
    if now is None:
        return math.inf
    if before is None or now[name] == before[name]:
        return float(now["step"])
    share = (target - before[name]) / (now[name] - before[name])
    low, high = math.log(before["step"]), math.log(now["step"])
    return math.exp(low + share * (high - low))


def restricted_octaves(slow: Record, fast: Record, target: float) -> tuple[float, bool]:
    """Return log2 of the steps to the target, slow over fast, and whether `slow` was cut off.

    A run that misses the target counts with all its steps. NaN where both miss it.
    """
    caps = [run.config["train.steps"] for run in (slow, fast)]
    steps = [steps_to_target(run, target) for run in (slow, fast)]
    if all(map(math.isinf, steps)):
        return math.nan, True
    first, second = (min(*pair) for pair in zip(steps, caps, strict=True))
    return math.log2(first / second), math.isinf(steps[0])
