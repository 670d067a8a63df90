"""Does the network of the tutorials train as in Keras, and does batch norm help it?

Fair test: As the article has it: 784 - dense 64 - batch norm - ReLU - dense 10, Adam at its default
rate of 1e-3. It trains for 10 epochs of batches of 32, and nothing is tuned. What the norm does for
it at tuned rates is the question of the other studies.
Source: tutorials; the defaults of Keras 3
Expect: losses equal to 1e-4 over 100 steps; a better accuracy by 0.2 points
Refuted if: a loss differs by more than 1e-4 (3 initial draws); the effect is below 0.2 points
(99 % interval, n = 24)
Cost: quick: seconds on 2 cores; standard: about 3 minutes

The comparison with Keras is a benchmark, whose record is read here. It needs Keras:
`python scripts/bench.py --suite=keras_parity`.
"""

from normlab.studies.effects import Claim, Measured, effect, error_difference
from normlab.studies.intervals import MAX_ERROR
from normlab.studies.planning import SetupRuns
from normlab.studies.protocols import Tuning
from normlab.studies.setup import OFTEN, PAIR, Setup, norm_arms
from normlab.studies.study import Figure, study
from normlab.studies.units import NATS

DIGITS = Setup(
    name="tutorial-mlp",
    title="MLP 64-64-10, 8x8 digits, 10 epochs of Adam, batch 32",
    base="tutorial",
    settings={"data.name": "digits", "train.steps": 10 * (897 // 32), **OFTEN},
    arms=norm_arms(*PAIR, primary=PAIR),
    protocol=Tuning((-3.0,), metric="steps", seeds=(1000,), extensions=0),
    target=0.95,
)
MNIST = DIGITS.on("tutorial", "MLP 784-64-10, MNIST, 10 epochs of Adam, batch 32", settings=OFTEN)


@effect(
    MAX_ERROR,
    NATS,
    "largest difference of the training loss over 100 steps, same initial weights and batches",
)
def parity(e: SetupRuns) -> Measured:
    """Return seed -> largest difference of either network's losses, and a remark on Keras's own.

    Its runs with the examples of each batch in reverse order differ in rounding alone.
    """
    record = e.benchmarks.get("tutorial", {})
    judged = [run for run in record.get("runs", []) if run["is_judged"]]
    found: dict[int, float] = {}
    for run in judged:
        difference = run["largest_difference"]["normlab_keras"]
        found[run["seed"]] = max(difference, found.get(run["seed"], 0.0))
    if not judged:
        return Measured({})
    own = max(run["largest_difference"]["keras_keras_reversed"] for run in judged)
    return Measured(
        found,
        "Keras itself, its batches' examples in reverse order, departs from Keras by up to "
        f"{own:.1e}: a ReLU's input of 4e-8 that rounds to either side of 0; "
        f"{record['further_runs']}",
    )


HELPS = error_difference(*PAIR, "test error without - with batch norm, Adam at 1e-3, 10 epochs")
ARTICLE = "MLP 784-64-10, MNIST, batch 32"
SAME = "The tutorial's network trains as it does in Keras"
BETTER = "Batch norm improves the tutorial's network"
STUDY = study(
    __doc__,
    "tutorial",
    "The tutorial's network",
    setups={"quick": (DIGITS,), "standard": (MNIST,)},
    claims=(
        Claim(
            "C14a", SAME, DIGITS.name, parity, sesoi=1e-4, looks=(3,), setup_seeds=24, scope=ARTICLE
        ),
        Claim("C14b", BETTER, DIGITS.name, HELPS, sesoi=0.2, looks=(24,)),
    ),
    benchmarks=("tutorial",),
    figures=(Figure("curves", DIGITS.name, "Validation accuracy with and without the norm."),),
)
