"""Do the words of other studies depend on schedule, weight decay and optimiser?

Fair test: Eight contrasts of other studies run in eight cells: a constant rate or a cosine, weight
decay 0 or 5e-4, momentum or AdamW. Setups and effects are those of their studies, with fewer steps.
In each cell all arms are tuned on the same grid with 3 seeds, and 12 others report at one rate. The
word to be kept is that of the contrast's own cell in this panel. The own cell has the schedule,
decay and optimiser of the contrast's study.
Source: arXiv:1711.05101 (AdamW: the decay is separate from the gradient); arXiv:1706.05350 (decay
and norms act on the rate together); arXiv:1910.05446 (rankings depend on the tuning of optimisers)
Expect: the same words in most cells
Refuted if: nothing is tested. The words are exploratory: they are no verdicts of claims, and do not
change those of other studies. A delta is that of its study (n = 12)
Cost: quick: about 8 minutes on 2 cores; standard: about 35 minutes, from single cells

AdamW's decay is multiplied by the rate alone, so 5e-4 is weak there. An AdamW of decay 0 is Adam.
"""

from dataclasses import replace
from itertools import product

from normlab.settings import Config
from normlab.studies.panel import VARIED, Line
from normlab.studies.protocols import Tuning
from normlab.studies.setup import Setup, load_config, norm_arms
from normlab.studies.study import load_study, study

RATES = {
    "momentum": tuple(e / 2 for e in range(-5, 1)),
    "adamw": tuple(e / 2 for e in range(-8, -2)),
}
"""log10 of the rates of either optimiser. The grid grows at its edges for all arms of a cell."""
CELLS: dict[str, Config] = {
    f"{schedule}, decay {decay:g}, {name}": dict(zip(VARIED, (schedule, decay, name), strict=True))
    for schedule, decay, name in product(("constant", "cosine"), (0.0, 5e-4), RATES)
}
SOURCES = {n: load_study(n) for n in ("convergence", "batch_size", "accuracy", "placement")}
CLAIMS = {claim.id: claim for source in SOURCES.values() for claim in source.claims}
TESTED = ("C1b", "C8a", "C8b", "C10b-layer", "C10b-group", "C10b-instance", "C11", "C13")


SCORED = {"eval.batch_statistics": False, "eval.batch": 100}
"""All contrasts score their runs alike, so that C8b, C11 and C13 share the runs of batch norm."""


def taken(name: str, profile: str, setup: str, title: str, settings: Config, **facts) -> Setup:
    """Return a setup of another study with its primary arms, its title and some settings new."""
    found = next(s for s in SOURCES[name].setups[profile] if s.name == setup)
    facts = {"base": found.base, "report_settings": {}, "follows": ()} | facts
    return found.on(title=title, settings=found.settings | SCORED | settings, **facts)


SHORT = {"train.steps": 300, "train.eval_every": 50}
LONG = {"train.steps": 600, "train.eval_every": 100}
NORMS = ("batch", "layer", "group", "instance")
TWOS = {"data.batch": 2, "train.steps": 1200, "train.eval_every": 400}
BY_NORM = norm_arms(*NORMS, primary=NORMS)
DIGITS, FASHION = "ReLU CNN 16-32-64, 8x8 digits", "ReLU CNN 16-32-64, stride 2, Fashion-MNIST"
QUICK = (
    taken("convergence", "quick", "convergence-cnn", f"{DIGITS}, at most 300 steps", {}),
    taken("batch_size", "quick", "stats-batch-mlp", "ReLU MLP 3x100, 8x8 digits, 300 steps", SHORT),
    taken("batch_size", "quick", "stats-batch-cnn", f"{DIGITS}, 300 steps", SHORT),
    taken(
        *("batch_size", "standard", "small-batch-cnn", f"{DIGITS}, batch 2, 1,200 steps"),
        TWOS | {"model.stride": 1},
        base="digits_cnn",
        arms=BY_NORM,
    ),
    taken("accuracy", "quick", "accuracy-cnn", f"{DIGITS}, 300 steps", SHORT),
    taken("placement", "quick", "placement-cnn", f"{DIGITS}, 300 steps", SHORT),
)
STANDARD = (
    taken(
        *("convergence", "standard", "convergence-cnn", f"{FASHION}, at most 600 steps"),
        {"train.steps": 600},
        target=0.75,
    ),
    taken("batch_size", "standard", "stats-batch-mlp", "ReLU MLP 3x100, MNIST, 600 steps", LONG),
    taken("batch_size", "standard", "stats-batch-cnn", f"{FASHION}, 600 steps", LONG),
    taken(
        *("batch_size", "standard", "small-batch-cnn", f"{FASHION}, batch 2, 1,200 steps"),
        TWOS,
        arms=BY_NORM,
    ),
    taken("accuracy", "standard", "accuracy-cnn", f"{FASHION}, 600 steps", LONG),
    taken("placement", "standard", "placement-cnn", f"{FASHION}, 600 steps", LONG),
)


def cell_of(setup: Setup, cell: str) -> Setup:
    """Return a setup in one cell: one rate, 3 tuning seeds and 12 others. Timed runs stop at the
    target."""
    settings, is_timed = CELLS[cell], setup.protocol.times_steps
    tuning = Tuning(
        RATES[settings["optim.name"]],
        metric="steps" if is_timed else "error",
        seeds=tuple(range(1000, 1003)),
    )
    return replace(
        setup,
        name="-".join([setup.name, *map(str, settings.values())]),
        title=f"{setup.title}, {cell}",
        settings=setup.settings | settings,
        stop_at=0.0,
        report_settings={"train.stop_at": setup.target} if is_timed else {},
        protocol=tuning,
        grows=False,
    )


def line_of(test: str, setups: tuple[Setup, ...]) -> Line:
    """Return a contrast in all cells; its own has the settings of its study."""
    claim = replace(CLAIMS[test], looks=(12,))
    setup = next(s for s in setups if s.name == claim.setup)
    config = load_config(setup.base) | setup.settings
    cells = {cell: cell_of(setup, cell).name for cell in CELLS}
    own = next(c for c, settings in CELLS.items() if settings.items() <= config.items())
    return Line(claim, setup.title, cells, own)


PROFILES = {"quick": QUICK, "standard": STANDARD}
STUDY = study(
    __doc__,
    "transfer",
    "Transfer",
    setups={
        profile: tuple(cell_of(setup, cell) for setup in setups for cell in CELLS)
        for profile, setups in PROFILES.items()
    },
    claims=(),
    panel={
        profile: tuple(line_of(test, setups) for test in TESTED)
        for profile, setups in PROFILES.items()
    },
    is_extra=True,
)
