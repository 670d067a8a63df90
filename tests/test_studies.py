"""The studies: complete, fair, and with the contrasts that were fixed before anything ran."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import pytest

from normlab.data import DATASETS
from normlab.report.formatting import command
from normlab.report.model import StudyReport
from normlab.runs.config import resolve
from normlab.runs.errors import ConfigError
from normlab.studies.checks import check_study
from normlab.studies.effects import looks
from normlab.studies.looks import look_at_study
from normlab.studies.planning import ConfigCache, SetupRuns
from normlab.studies.protocols import Edges
from normlab.studies.rules import rule_of
from normlab.studies.setup import FIRST_SEED, PAIR, Setup, load_config
from normlab.studies.study import (
    PROFILES,
    Study,
    adapt,
    load_study,
    study_names,
    varied_settings,
)

STUDIES = {name: load_study(name) for name in study_names()}


def params(studies: Iterable[Study]) -> list:
    """Return (profile, setup) of all setups of the studies."""
    return [
        pytest.param(profile, setup, id=f"{profile}-{setup.name}")
        for study in studies
        for profile, setups in study.setups.items()
        for setup in setups
    ]


SETUPS = params(STUDIES.values())
CASES = [(name, profile) for name, study in STUDIES.items() for profile in study.setups]
WITH_CLAIMS = [(name, profile) for name, profile in CASES if STUDIES[name].claims]
DECIDING = params(study for study in STUDIES.values() if study.claims)
"""Setups with claims; the others are tested in test_which_norm.py and test_panel.py."""
IN_FULL = {"convergence", "learning_rate", "regularization", "depth", "batch_size", "accuracy"}
IN_FULL |= {"sequences"}
GAINS = ("0.015625", "0.0625", "0.25", "1", "4", "16", "64")


def levels(*names: str) -> set[str]:
    return {f"{norm}/{name}" for norm in PAIR for name in names}


# setup -> its claims, how rates are found, what is tuned, the schedule, the arms that decide
VITS = ("vit-warmup", "vit-norms", "vit-rates")
GPTS = ("gpt-norms", "gpt-depth", "gpt-rates")
LINES = ("none", "batch each step", "batch whole sequence")
PLANNED: dict[str, tuple[str, str, str, str, set[str]]] = {
    "accuracy-cnn": ("C11", "V6", "error", "cosine", {*PAIR}),
    "stats-batch-mlp": ("C8a", "W5", "error", "cosine", {"batch/4", "batch/64"}),
    "stats-batch-cnn": ("C8b", "W5", "error", "cosine", {"batch/2", "batch/64"}),
    "small-batch-mlp": (
        "C10a-layer C10a-group",
        "W5",
        "error",
        "cosine",
        {"batch", "layer", "group"},
    ),
    "lengths-gru": (
        *("C9a C9c C10c", "W5", "error", "cosine"),
        {f"{line}/{spread}" for line in LINES for spread in (0, 8)} | {"layer/8"},
    ),
    "vit-warmup": (
        *("C15a C15b", "W5", "error", "cosine"),
        {"post", "post with warm-up", "pre", "pre with warm-up"},
    ),
    "vit-norms": (
        *("C16a C16b C16c", "W5", "error", "cosine"),
        {"layer", "rms", "dynamic_tanh", "batch"},
    ),
    "vit-rates": ("C17a C17b", "edges", "", "constant", {"pre", "post", "peri"}),
    "gpt-norms": (
        *("C16a-text C16b-text C16d", "W5", "error", "cosine"),
        {"layer", "rms", "dynamic_tanh", "batch"},
    ),
    "gpt-depth": (
        *("C18", "W5", "error", "cosine"),
        {f"{placement}/{depth}" for placement in ("pre", "post") for depth in (2, 12)},
    ),
    "gpt-rates": ("C17a-text C17b-text", "edges", "", "constant", {"pre", "post", "peri"}),
    "lengths-pixels": ("C9h", "given", "error", "constant", {*PAIR}),
    "lengths-beyond": ("C9e", "W5", "error", "cosine", {"none/8", "batch each step/8"}),
    "lengths-padding": ("C9f", "W5", "error", "cosine", {"masked", "unmasked"}),
    "lengths-natural": ("C9b C9d", "W5", "error", "cosine", {*LINES}),
    "lengths-encoder": ("C9g", "W5", "error", "cosine", {"layer", "batch all tokens"}),
    "small-batch-cnn": (
        *("C10b-layer C10b-group C10b-instance", "W5", "error", "cosine"),
        {*PAIR, "layer", "group", "instance", "none/64", "batch/64"},
    ),
    "switched-batch-mlp": ("C8c", "W5", "error", "constant", {*PAIR}),
    "convergence-mlp": ("C1a C1t-mlp", "V6", "steps", "constant", {*PAIR}),
    "convergence-cnn": ("C1b C1t-cnn", "V6", "steps", "constant", {*PAIR}),
    "covariate-shift-mlp": ("C7c C7a C7b-mlp", "V6", "steps", "constant", {*PAIR, "noisy batch"}),
    "covariate-shift-cnn": ("C7b-cnn", "V6", "steps", "constant", {*PAIR}),
    "depth-relu": ("C6a", "V6", "train_error", "constant", levels("4", "8", "16", "32")),
    "depth-sigmoid": ("C6b", "V6", "train_error", "constant", levels("4", "8", "16")),
    "depth-resnet": ("C6a", "V6", "train_error", "step", levels("20", "44", "110")),
    "gradient-flow-sigmoid": ("C3a", "V6", "error", "constant", {*PAIR}),
    "gradient-flow-relu": ("C3b", "V6", "error", "constant", {*PAIR}),
    "gradient-steadiness": ("C3c", "V6", "steps", "constant", {*PAIR}),
    "initial-scale": ("C5a", "V6", "error", "constant", levels(*GAINS)),
    "initial-draws": ("C5b-1 C5b-0.25", "V6", "error", "constant", levels("1", "0.25")),
    "learning-rate-mlp": ("C2-mlp C2r-mlp", "edges", "", "constant", {*PAIR}),
    "learning-rate-cnn": ("C2-cnn C2r-cnn", "edges", "", "constant", {*PAIR}),
    "moments-mlp": ("C12-mlp", "V6", "error", "constant", {"batch"}),
    "moments-cnn": ("C12-cnn", "V6", "error", "constant", {"batch"}),
    "placement-cnn": ("C13", "W5", "error", "cosine", {"batch/pre", "batch/post"}),
    "matched-fit": ("C4a", "two", "error", "constant", {*PAIR}),
    "batch-noise": ("C4b", "W5", "error", "constant", {"batch/16", "batch/128"}),
    "memorising": ("C4c", "V6", "error", "constant", {*PAIR}),
    "tutorial-mlp": ("C14a C14a-float32 C14b", "given", "steps", "constant", {*PAIR}),
}
RATES = {
    "V6": ("one", tuple(range(1000, 1006)), 4),
    "W5": ("window", tuple(range(1000, 1003)), 4),
    "two": ("two", tuple(range(1000, 1006)), 4),
    "given": ("one", (1000,), 0),
}
"""How rates are found: the rates reported, the tuning seeds, the extensions of the grid."""
ENDS = {
    "depth-(relu|resnet)": (-9, -1),
    "tutorial-mlp|lengths-pixels": (-6, -6),
    "lengths-(gru|beyond|natural|padding)": (-3, 0),
    "lengths-encoder": (-6, -3),
    "(vit|gpt)-(norms|warmup|depth)": (-7, -4),
}
"""Half decades of the first and the last rate that are tried before the grid grows; others have
-6 and 1."""
CAPS = {
    ("convergence-mlp", "quick"): 1500,
    ("convergence-mlp", "standard"): 4000,
    ("convergence-cnn", "quick"): 300,
    ("convergence-cnn", "standard"): 2000,
    ("matched-fit", "quick"): 6000,
    ("matched-fit", "standard"): 6000,
    ("batch-noise", "quick"): 6000,
    ("batch-noise", "standard"): 6000,
    ("lengths-gru", "quick"): 600,
    ("lengths-gru", "standard"): 1000,
    **{
        (f"lengths-{name}", profile): steps
        for name in ("beyond", "padding", "natural")
        for profile, steps in (("quick", 600), ("standard", 1000))
    },
    **{
        (name, profile): 300 if name == "vit-rates" else 600
        for name in VITS
        for profile in ("quick", "standard")
    },
    ("lengths-encoder", "quick"): 600,
    ("lengths-encoder", "standard"): 1000,
    **{(name, "standard"): 200 if name == "gpt-rates" else 400 for name in GPTS},
    ("tutorial-mlp", "quick"): 10 * (897 // 32),
    ("tutorial-mlp", "standard"): 10 * (55_000 // 32),
}
SETTINGS = {
    "matched-fit": {"train.stop_at_loss": 0.01},
    "batch-noise": {"train.stop_at_loss": 0.01},
    "memorising": {"data.label_noise": 0.3},
}
BATCHES = {
    "batch-noise": {128},
    **dict.fromkeys(("lengths-gru", "lengths-beyond", "lengths-padding", "lengths-natural"), {16}),
    **dict.fromkeys(("lengths-encoder", *VITS, "gpt-norms"), {16}),
    **dict.fromkeys(("gpt-depth", "gpt-rates"), {8}),
    "small-batch-mlp": {4},
    "small-batch-cnn": {2, 64},
}
RUNG = re.compile(r"-\d\d$")
CACHE = ConfigCache()


@pytest.fixture(autouse=True)
def all_data_are_there(monkeypatch):
    """Studies of the standard profile resolve without their data sets prepared here."""
    monkeypatch.setattr("normlab.runs.config.check", lambda name, data_dir: DATASETS[name])


def contrasts_of(study: Study, profile: str) -> list:
    return [path[0] for path in look_at_study(study, profile, {}, CACHE).paths]


def config_of(setup: Setup, **settings) -> dict:
    return resolve(load_config(setup.base) | setup.settings | settings).config


@pytest.mark.parametrize("name", STUDIES)
def test_study_says_all_it_must(name):
    study = STUDIES[name]
    assert study.name == name and {"quick", "standard"} <= set(study.setups) <= set(PROFILES)
    assert ("full" in study.setups) == (name in IN_FULL)
    for text in (study.title, study.question, study.source, study.expect, study.refuted_if):
        assert text.strip()
    assert study.fair_test and study.cost
    assert name == "tutorial" or re.search(r"arXiv:\d{4}\.\d{5}", study.source)
    assert study.variant == "" and study.planned is None


@pytest.mark.parametrize("name", [name for name in STUDIES if STUDIES[name].claims])
def test_what_refutes_a_study_is_what_its_claims_say(name):
    """Every delta and every number of seeds stands in the texts, and no other number of seeds."""
    study = STUDIES[name]
    numbers = set(re.findall(r"[\d.e-]*\d", f"{study.expect} {study.refuted_if}"))
    numbers |= {"1"} if "one factor" in study.refuted_if else set()
    seeds = set[tuple[str, str]]()
    for claim in study.claims:
        deltas = claim.sesoi.values() if isinstance(claim.sesoi, Mapping) else [claim.sesoi]
        scale = 100 if claim.effect.unit.is_proportion else 1
        assert {f"{scale * d:g}".replace("e-0", "e-") for d in deltas if d} <= numbers
        first, last = str(claim.looks[0]), str(claim.looks[-1])
        assert {first, last} <= set(re.findall(r"\d+", study.refuted_if))
        seeds.add((first, last if last != first else ""))
    assert set(re.findall(r"n = (\d+)(?: to (\d+))?", study.refuted_if)) <= seeds


@pytest.mark.parametrize("name, profile", CASES)
def test_study_can_run(name, profile):
    check_study(STUDIES[name], profile)
    for setup in STUDIES[name].setups[profile]:
        assert SetupRuns(setup, {}, CACHE).wanted
        for follow in setup.follows:
            arm, of = setup.arm(follow.arm), setup.arm(follow.rate_of)
            assert arm and of
            resolve(load_config(setup.base) | setup.settings | arm.settings | follow.settings)
    for figure in STUDIES[name].figures:
        assert figure.setup in {s.name for s in STUDIES[name].all_setups}


@pytest.mark.parametrize("name, profile", WITH_CLAIMS)
def test_contrasts_match_their_claims(name, profile):
    """Each has no effects yet, the planned looks, and the title of its setup."""
    study = STUDIES[name]
    setups = {s.name: s for s in study.setups[profile]}
    claims = [c for c in study.claims if c.setup in setups]
    assert [*setups] == [*dict.fromkeys(setups)] and claims
    for contrast, claim in zip(contrasts_of(study, profile), claims, strict=True):
        assert contrast.effects == {} and contrast.id == claim.id
        assert contrast.looks == claim.looks == looks(claim.looks[0], claim.looks[-1])
        assert contrast.scope == (claim.scope or setups[claim.setup].title)
        assert "{" not in contrast.comparison


@pytest.mark.parametrize("name, profile", WITH_CLAIMS)
def test_claims_are_tested_where_planned(name, profile):
    """The lower rungs of a ladder test the first claim of its top alone."""
    claims = {(c.setup, re.sub(r"(C12-...)-.*", r"\1", c.id)) for c in STUDIES[name].claims}
    for setup in STUDIES[name].setups[profile]:
        top, rung = RUNG.sub("", setup.name), RUNG.search(setup.name)
        planned = PLANNED[top][0].split()
        planned = [planned[0] + rung[0]] if rung else planned
        assert sorted(planned) == sorted(claim for where, claim in claims if where == setup.name)


@pytest.mark.parametrize("profile, setup", DECIDING)
def test_rates_are_found_as_planned(profile, setup):
    """A rung of a ladder is planned like its top."""
    _, rates, metric, schedule, primary = PLANNED[RUNG.sub("", setup.name)]
    is_full = profile == "full"
    assert {a.name for a in setup.arms if a.is_primary} == primary and setup.grows
    found = {config_of(setup, **a.settings)["optim.schedule"] for a in setup.arms}
    assert found == {"step" if is_full and rates == "two" else schedule}
    protocol = setup.protocol
    if isinstance(protocol, Edges):
        assert rates == "edges" and (protocol.spacing, protocol.bisections) == (0.5, 3)
        return
    assert (protocol.reported, protocol.seeds, protocol.extensions) == RATES[rates]
    assert (protocol.metric, protocol.spacing) == (metric, 0.5)
    low, high = -6, 1
    for names, ends in ENDS.items():
        if re.fullmatch(names, setup.name):
            low, high = ends
    assert protocol.exponents == tuple(e / 2 for e in range(low, high + 1))
    is_scale_tuned = setup.name in ("lengths-gru", "lengths-beyond", "lengths-natural")
    is_scale_tuned = is_scale_tuned and profile == "standard"
    assert protocol.also == ((("init.norm_scale", (0.1, 1.0)),) if is_scale_tuned else ())


@pytest.mark.parametrize("profile, setup", DECIDING)
def test_runs_train_as_planned(profile, setup):
    """Momentum 0.9, no decay, batch 64 and the steps at which a comparison ends."""
    name = RUNG.sub("", setup.name)
    configs = [config_of(setup, **a.settings) for a in setup.arms if a.is_primary]
    for config in configs:
        assert config["optim.momentum"] == 0.9
        if profile != "full" and name != "tutorial-mlp":
            optimizer = "adam" if name in ("lengths-encoder", *VITS, *GPTS) else "momentum"
            assert (config["optim.name"], config["optim.weight_decay"]) == (optimizer, 0.0)
            assert (config["norm.epsilon"], config["norm.groups"]) == (1e-5, 4)
        if profile != "full":
            assert config["train.steps"] == CAPS.get((name, profile), config["train.steps"])
        fit = {"train.stop_at_loss": 0.0, "data.label_noise": 0.0} | SETTINGS.get(name, {})
        assert {key: config[key] for key in fit} == fit
    usual = {60} if setup.base == "mnist_mlp" else {32} if name == "tutorial-mlp" else {64}
    if profile != "full":
        assert {c["data.batch"] for c in configs} == BATCHES.get(name, usual)


@pytest.mark.parametrize("profile, setup", SETUPS)
def test_primary_arms_differ_in_the_norm_alone(profile, setup):
    """Those that are tuned together or ranked; the question itself may be where a norm is, or how
    its scale starts."""
    groups: dict[str, list] = {}
    for arm in setup.arms:
        if arm.is_primary:
            group = "" if setup.name.startswith("which-") else arm.group
            groups.setdefault(group, []).append(config_of(setup, **arm.settings))
    for configs in groups.values():
        assert len(configs) >= 2 or setup.name.startswith("moments")
        for config in configs[1:]:
            differing = {n for n in config if config[n] != configs[0][n]}
            legal = {"model.placement"} if setup.name.startswith("placement-cnn") else set()
            if setup.name in ("lengths-gru", "lengths-beyond", "lengths-natural"):
                legal |= {"model.normed", "init.norm_scale"}
            legal |= {"init.norm_scale"} if setup.name == "lengths-pixels" else set()
            legal |= {"model.placement", "optim.warmup"} if setup.name in (*VITS, *GPTS) else set()
            assert all(n.startswith("norm.") or n in legal for n in differing), differing


@pytest.mark.parametrize("profile, setup", SETUPS)
def test_tuning_and_reporting_seeds_are_disjoint(profile, setup):
    tuning = {tuple(setup.seed_settings(s).items()) for s in setup.protocol.seeds}
    for arm in setup.arms:
        seeds = setup.seeds_of(arm)
        assert seeds[0] == setup.first_seed >= FIRST_SEED and len(seeds) >= 2
        runs = [tuple(setup.seed_settings(s).items()) for s in seeds]
        assert len(set(runs)) == len(runs) and not tuning & set(runs)
        for follow in setup.follows:
            assert min(follow.seeds_of(seeds)) == setup.first_seed
    assert all(s < FIRST_SEED for s in setup.protocol.seeds)


def test_rungs_of_a_ladder_share_their_tuning_runs():
    found = 0
    for study in STUDIES.values():
        for setups in study.setups.values():
            tops = {s.name: s for s in setups}
            for rung in setups:
                top = tops.get(RUNG.sub("", rung.name))
                if top not in (None, rung):
                    few, all_runs = (SetupRuns(s, {}, CACHE).wanted for s in (rung, top))
                    assert few and few.keys() <= all_runs.keys()
                    assert rung.target < top.target <= rung.stop_at == top.stop_at
                    found += 1
    assert found == 7


@pytest.mark.parametrize(
    "study, setup",
    [("covariate_shift", "mlp"), ("covariate_shift", "cnn"), ("gradient_flow", "cnn")],
)
def test_standard_tuning_runs_are_those_of_convergence(study, setup):
    names = {"covariate_shift": f"covariate-shift-{setup}", "gradient_flow": "gradient-steadiness"}
    wanted = {
        s.name: SetupRuns(s, {}, CACHE).wanted
        for n in (study, "convergence")
        for s in STUDIES[n].setups["standard"]
    }
    others = wanted[f"convergence-{setup}"]
    own = [w.run_id for w in wanted[names[study]].values() if w.arm != "noisy batch"]
    assert own and set(own) <= others.keys()


@pytest.mark.parametrize("name, profile", CASES)
def test_the_looks_do_not_follow_the_command_line(name, profile):
    fewer = adapt(STUDIES[name], seeds=2)
    planned = {c.id: c.looks for c in contrasts_of(STUDIES[name], profile)}
    assert {c.id: c.looks for c in contrasts_of(fewer, profile)} == planned
    for setup in fewer.setups[profile]:
        assert (setup.seeds, setup.screening_seeds, setup.grows) == (2, 2, False)
    assert fewer.planned is STUDIES[name]


STUDY = STUDIES["batch_size"]


@pytest.mark.parametrize("name, value", [("norm.name", "group"), ("optim.lr", 0.1), ("seed", 3)])
def test_overriding_what_is_varied_is_refused(name, value):
    assert name in varied_settings(STUDY)
    with pytest.raises(ConfigError, match=rf"varies {name} itself.*--only={name}={value}$"):
        adapt(STUDY, overrides={name: value})


def test_unknown_overrides_and_arms_are_refused():
    with pytest.raises(ConfigError, match="unknown setting 'optim.momntum'; did you mean 'optim.m"):
        adapt(STUDY, overrides={"optim.momntum": 0.8})
    with pytest.raises(ConfigError) as refusal:
        adapt(STUDY, arms=("batch", "nope"))
    assert "has no arm 'nope'" in str(refusal.value) and "batch/64" in str(refusal.value)
    with pytest.raises(ConfigError, match="no profile 'full' .profiles: quick, standard"):
        check_study(STUDIES["moments"], "full")
    with pytest.raises(ConfigError, match="unknown study .nope. .studies: accuracy, .*all"):
        load_study("nope")


def test_an_override_is_a_variant_with_runs_of_its_own():
    variant = adapt(STUDY, overrides={"optim.momentum": 0.8, "host.chunk": 7})
    assert variant.variant == "optim.momentum=0.8"  # the host's settings change no result
    plain, changed = (set(SetupRuns(s.setups["quick"][0], {}).wanted) for s in (STUDY, variant))
    assert plain and not plain & changed
    assert rule_of(variant, "quick") == rule_of(STUDY, "quick")


@pytest.mark.parametrize("seeds", [3, 12, 24])
def test_other_seeds_are_a_variant_even_if_their_number_is_planned(seeds):
    """It has a page of its own, with the command that repeats it."""
    options = {"overrides": {"model.widths": (8, 8)}, "arms": ("batch/4", "batch/64")}
    found = adapt(STUDY, seeds=seeds)
    report, planned = (StudyReport(s, "quick", {}, ()) for s in (found, STUDY))
    assert found.variant == f"seeds={seeds}" and report.stem == f"batch_size-quick-seeds={seeds}"
    assert not found.is_planned and STUDY.is_planned and planned.stem == "batch_size-quick"
    assert report.command == f"{planned.command} --seeds={seeds}"
    assert command(adapt(STUDY, seeds=seeds, **options), "quick") == (
        f"{planned.command} '--config.model.widths=(8, 8)' --arms=batch/4,batch/64 --seeds={seeds}"
    )
    assert rule_of(found, "quick") == rule_of(STUDY, "quick")


def test_a_bad_override_is_refused_for_every_arm():
    with pytest.raises(ConfigError, match="norm.groups = 7 does not divide the 100 channels"):
        check_study(adapt(STUDY, overrides={"norm.groups": 7}), "quick")


def test_fewer_arms_and_other_seeds():
    study = adapt(STUDIES["learning_rate"], arms=("batch", "layer"), seeds=3)
    for setup in study.setups["quick"]:
        assert [a.name for a in setup.arms] == ["batch", "layer"]
        assert (setup.seeds, setup.screening_seeds, setup.grows) == (3, 3, False)
        assert setup.follows == ()  # it needs the rate of none
    assert study.variant == "arms=batch,layer, seeds=3" and not study.is_planned
    assert [s.title for s in study.setups["quick"]] == [
        s.title for s in STUDIES["learning_rate"].setups["quick"]
    ]
    whole = adapt(STUDIES["learning_rate"], seeds=3).setups["quick"][0]
    assert [(f.seeds, f.factor) for f in whole.follows] == [(0, 30.0)]
    assert adapt(STUDY).setups == STUDY.setups


def test_schemes_join_where_they_can_run():
    """--arms takes any scheme; one that only normalizes images is no arm of an MLP. Group norm is
    an arm of another profile."""
    study = adapt(STUDIES["convergence"], arms=("none", "group", "rms", "instance"))
    names = {s.base: [a.name for a in s.arms] for s in study.setups["quick"]}
    able = ["none", "group", "rms"]
    assert names == {"digits_mlp": able, "digits_cnn": [*able, "instance"]}
    assert {a.is_primary for s in study.setups["quick"] for a in s.arms[1:]} == {False}
    assert [a.name for s in study.setups["full"] for a in s.arms] == [*able, "instance"]
    assert study.norms == ("group", "rms", "instance") and not study.is_planned


def test_claims_stand_when_arms_are_left_out():
    for name, study in STUDIES.items():
        primary = [a.name for s in study.setups["quick"] for a in s.arms if a.is_primary]
        few = adapt(study, arms=(primary[-1],))
        assert name == "moments" or all(c.effects == {} for c in contrasts_of(few, "quick"))
