"""Studies in files of one's own: the example, and mistakes that are refused before training."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_runs import runs_for
from workspace import run_script

from normlab.runs.errors import ConfigError
from normlab.studies.checks import check_claims, check_names, check_study
from normlab.studies.decisions import decide
from normlab.studies.looks import look_at_study
from normlab.studies.study import adapt, load_study, study_names

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "docs" / "examples" / "my_study.py"
TEXT = EXAMPLE.read_text(encoding="utf-8")
ERROR = "error_points(none) -"
SESOI, LOOKS = "sesoi=0.5", "sesoi=0.5, looks=(12,)"
RETURN = "return {seed: error_points(none) - error_points(layer) for"
GRID = "exponents=(-1.0, -0.5, 0.0, 0.5),"
TOO = " also=((%s),),"
FOLLOW = "target=0.9, follows=(FollowUp('f', 'layer', 'nonne'),),"
MISTAKES: dict[str, tuple[str, str, str]] = {
    "setup": ("ERROR, NET.name", "ERROR, 'my-mpl'", "did you mean 'my-mlp'?"),
    "arm": ("speedup(*ARMS)", "speedup('none', 'layr')", "did you mean 'layer'?"),
    "arm of a function": ("paired(*ARMS)", "paired('none', 'layr')", "it measures 0 seeds"),
    "metric": (ERROR, "error_points(none, 'tset') -", "no seed has an effect"),
    "final": (ERROR, "none.final['tset_accuracy'] -", "did you mean 'test_accuracy'?"),
    "curve": (ERROR, "none.curve[-1]['acuracy'] -", "did you mean 'accuracy'?"),
    "diverged": (ERROR, "none.final['test_loss'] -", "one diverged: KeyError: 'test_loss'"),
    "setting": ("model.act", "model.atc", "unknown setting 'model.atc'"),
    "value": ('"sigmoid"', '"sigmoyd"', "'sigmoyd' is not one of"),
    "setting of a function": (ERROR, "none.config['optim.rate'] -", "KeyError: optim.rate in line"),
    "norm": ('"layer")', '"layr")', "unknown norm 'layr'; did you mean 'layer'?"),
    "profile": (SESOI, "sesoi={'standard': 0.5}", "has none for the profile 'quick'"),
    "negative": (SESOI, "sesoi=-0.5", "sesoi = -0.5 is not a number from 0"),
    "NaN": (SESOI, "sesoi=float('nan')", "sesoi = nan is not"),
    "text": (SESOI, "sesoi='0.5'", "sesoi = '0.5' is not"),
    "one look": (LOOKS, "sesoi=0.5, looks=12", "looks = 12 are not numbers of seeds"),
    "one seed": (LOOKS, "sesoi=0.5, looks=(1,)", "looks = (1,) are not"),
    "falling looks": (LOOKS, "sesoi=0.5, looks=(24, 12)", "looks = (24, 12) are not"),
    "raises": (RETURN, f"1 / 0; {RETURN}", "ZeroDivisionError: division by zero in line 41"),
    "no effect": ("@effect(PAIRED_T, POINTS,", "max(", "its effect 'less_error' is a function"),
    "not called": ("speedup(*ARMS)", "speedup", "its effect 'speedup' is a function"),
    "list": (RETURN, "return [7]  # {", "it returns [7], not seed -> effect"),
    "texts": (ERROR, "str(none) if 1 else", "TypeError"),
    "nothing": (RETURN, RETURN[7:], "it returns None, not seed -> effect"),
    "one setup": ("(NET,)}", "(NET)}", "is no tuple of Setup; (x,) has one"),
    "claims": ("claims=(", "claims=[] and (", "claims = [] is no tuple of Claim"),
    "other profile": ('"quick": (NET', '"quik": (NET', "the profile 'quik' does not exist"),
    "no profile": ("(NET,)}", '(NET,), "quik": (NET,)}', "the profile 'quik' does not exist"),
    "same id": ('"M2"', '"M1"', "two claims are named 'M1'"),
    "same setup": ("(NET,)}", "(NET, NET)}", "two setups are named 'my-mlp'"),
    "figure": ('"curves", NET', '"curvse", NET', "did you mean 'curves'?"),
    "figure's setup": ('"curves", NET.name', '"curves", "no"', "its setup 'no' does not exist"),
    "screened": ("primary=ARMS", "primary=('none',)", "measures 5 seeds, and its first look is at"),
    "tuning seeds": ("(1000, 1001,", "(10000, 1001,", "tuning seeds (10000, 1001, 1002)"),
    "no rates": ("(-1.0, -0.5, 0.0, 0.5)", "()", "exponents = () are not"),
    "base": ('"digits_mlp"', '"digits_mpl"', "did you mean 'digits_mlp'?"),
    "goal": ('metric="steps"', 'metric="step"', "the metric 'step' does not exist"),
    "arms": ("arms=norm_arms(*ARMS, primary=ARMS)", "arms=ARMS", "is no tuple of Arm"),
    "protocol": ("protocol=Tuning(", "protocol=dict(", "is not a Tuning or Edges"),
    "follow-up": ("target=0.9,", FOLLOW, "the arm 'nonne' does not exist; did you mean 'none'?"),
    "tuned too": (GRID, GRID + TOO % "'optim.wd', (0.0, 1.0)", "unknown setting 'optim.wd'"),
    "one value": (GRID, GRID + TOO % "'optim.momentum', (0.9,)", "is not a setting that no arm"),
    "twice": (GRID, GRID + TOO % "'norm.name', ('none', 'rms')", "is not a setting that no arm"),
    "tuned value": (GRID, GRID + TOO % "'optim.momentum', (0.9, 2.0)", "optim.momentum = 2.0"),
    "percent": ("target=0.9,", "target=90,", "target = 90 is not an accuracy"),
    "docstring": ("Refuted if:", "Refuted:", "has no Refuted if"),
}


def write(folder: Path, old: str, new: str) -> Path:
    """Write the example with one text replaced; return its path."""
    assert TEXT.count(old) >= 1, old
    file = folder / "mine.py"
    text = TEXT.replace("import Setup,", "import FollowUp, Setup,").replace(old, new, 1)
    file.write_text(text.replace("STUDY = max(", "STUDY = study("), encoding="utf-8")
    return file


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_refused_in_a_line_with_the_name_of_the_file(case, tmp_path):
    old, new, told = MISTAKES[case]
    with pytest.raises(ConfigError) as refusal:
        check_study(adapt(load_study(str(write(tmp_path, old, new)))), "quick")
    message = str(refusal.value)
    assert told in message and "mine.py" in message and "\n" not in message
    assert len(message) < 500


def test_the_command_refuses_before_it_writes_anything(tmp_path):
    file = write(tmp_path, *MISTAKES["diverged"][:2])
    done = run_script("study", f"--study={file}", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


@pytest.mark.parametrize("name", study_names())
def test_the_claims_of_every_study_pass(name):
    check_names(load_study(name))
    check_claims(load_study(name), "quick")


def test_fewer_arms_and_other_seeds_are_no_mistake():
    study = load_study(str(EXAMPLE))
    changed = {"optim.momentum": 0.5}
    for variant in (adapt(study, arms=("none",)), adapt(study, seeds=3, overrides=changed)):
        check_study(variant, "quick")


def test_the_example_decides_both_claims_and_is_what_the_page_shows():
    study = load_study(str(EXAMPLE))
    check_study(study, "quick")
    known = look_at_study(study, "quick", runs_for([study], "quick"))
    verdicts = [decide(path) for path in known.paths]
    assert verdicts[0].word == "supported" and verdicts[1].is_decided
    page = (ROOT / "docs" / "your_own_study.md").read_text(encoding="utf-8")
    assert TEXT in page
    assert all(claim.sentence in page for claim in study.claims)
