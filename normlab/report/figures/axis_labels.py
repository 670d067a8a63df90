"""How the axis of a figure says what a key of a curve or of a run's finals holds."""

from __future__ import annotations

from normlab.report.figures.style import wrapped

QUANTITIES = {
    "train_loss": "loss of the training batches, nats",
    "loss": "validation loss, nats",
    "accuracy": "validation accuracy, %",
    "train_set_accuracy": "training accuracy, %",
    "train_set_loss": "loss on training images, nats",
    "replaced_accuracy": "accuracy on replaced labels, %",
    "validation_accuracy": "validation accuracy, %",
    "test_accuracy": "test accuracy, %",
    "activations": "input of one unit's activation",
    "activations.mean": "mean |mean| of what enters the activations",
    "activations.std": "mean standard deviation of what enters the activations",
    "curvature.top": "largest eigenvalue of the loss's Hessian",
    "curvature.trace": "trace of the loss's Hessian",
    "dead.share": "dead units, %",
    "drift.moments": "mean and spread moved since the last measurement, standard deviations",
    "drift.step": "distribution moved since the last measurement, standard deviations",
    "gradients.input": "gradient at a layer's input, L2 norm",
    "gradients.kernel": "gradient of a kernel, L2 norm",
    "gradients.slope": "slope of the gradient's norm, decades per layer",
    "health.ratio": "largest |mean| / standard deviation of a channel",
    "landscape.loss_range": "range of the loss along the gradient, nats",
    "landscape.predictiveness": "largest change of the gradient along itself (L2 norm)",
    "landscape.relative": "relative change of the gradient after a step along it of 1 % of |w|",
    "landscape.relative_frozen": "the same with frozen statistics",
    "landscape.smoothness": "largest change of the gradient / change of w",
    "moments.evaluation": "channels with mean 0 and deviation 1 in evaluation, %",
    "moments.normalized": "channels with mean 0 and deviation 1, %",
    "moments.received": "received channels with mean 0 and deviation 1, %",
    "moments.scaled": "channels with mean 0 and deviation 1, scaled, %",
    "rank.cosine": "mean cosine of two examples",
    "rank.stable": "stable rank of a layer's input",
    "rotation.angle": "angle by which a step turns a kernel, radians",
    "rotation.effective_rate": "learning rate / |kernel|²",
    "shift.cosine": "cosine of the gradients before and after the earlier layers' step",
    "shift.distance": "|gradient's change| by the earlier layers' step",
    "shift.relative": "relative change of the gradient by the earlier layers' step",
    "statistics.mean": "gap of the running mean, standard deviations",
    "statistics.var": "gap of the running variance, |log ratio|",
}
"""Key, or a key without its layer -> name and unit."""
LABEL_WIDTH = 40


def quantity_text(key: str) -> str:
    """Return what an axis says of a key, the key itself where no name is known."""
    return wrapped(QUANTITIES.get(key, key), LABEL_WIDTH)


def scale_of(key: str) -> float:
    """Return what the values of a key are multiplied by: shares are drawn in %."""
    return 100.0 if QUANTITIES.get(key, "").endswith(", %") else 1.0
