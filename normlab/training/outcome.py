"""What a run has come to so far, as the host keeps it between two chunks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Outcome:
    """The result of one run so far."""

    curve: list[dict[str, float]] = field(default_factory=list)
    """One row for each evaluation: step, train_loss (mean since the row before), and loss and
    accuracy on the curve's validation images. `running_...` where there are running statistics."""
    final: dict[str, float] = field(default_factory=dict)
    """validation_... and test_... loss and accuracy over the whole splits, after the last step."""
    diverged_at: int | None = None
    """The step whose loss or gradient was not finite, or the evaluation whose loss was not."""
    stopped_at: int | None = None
    """The evaluation that reached train.stop_at and ended the run."""
    skipped_steps: int = 0
    """Steps without effect, since their loss or gradient was not finite (train.on_nonfinite)."""
    loss_sum: float = 0.0
    loss_steps: int = 0

    @property
    def is_over(self) -> bool:
        return self.diverged_at is not None or self.stopped_at is not None

    @property
    def status(self) -> str:
        return "trained" if self.diverged_at is None else "diverged"

    def add_losses(self, losses: np.ndarray) -> None:
        """Count steps of the curve's next row. The sum is in float64: float32 would round
        differently with every length of a chunk."""
        finite = losses[np.isfinite(losses)]
        self.loss_sum += float(np.sum(finite, dtype=np.float64))
        self.loss_steps += len(finite)
        self.skipped_steps += len(losses) - len(finite)

    def take_mean_loss(self) -> float:
        """Return the mean since the last row, NaN where no step counted, and begin the next."""
        mean = self.loss_sum / self.loss_steps if self.loss_steps else float("nan")
        self.loss_sum, self.loss_steps = 0.0, 0
        return mean
