"""Norms from files outside the repository: refusals, runs, studies, reports without the file."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from workspace import run_script

from normlab import cli
from normlab.cli import files
from normlab.norms import NORMS
from normlab.norms.outside import OutsideNorm, add_norms, outside_norms
from normlab.report.figures.style import line_styles
from normlab.report.formatting import command
from normlab.runs.config import ConfigError, program_id, resolve, run_id
from normlab.runs.kept_rows import recall_rows, row_files
from normlab.runs.store import StorageError, Store
from normlab.settings import defaults
from normlab.studies.checks import check_study
from normlab.studies.rules import rule_of
from normlab.studies.setup import Setup, load_config
from normlab.studies.study import adapt, load_study, study_names

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "docs" / "examples" / "my_norm.py"
DOCS = (ROOT / "docs" / "your_own_norm.md").read_text(encoding="utf-8")
SHORT = [f"--config={ROOT / 'configs' / 'digits_mlp.py'}", "--config.data.name=synthetic"]
SHORT += ["--config.train.steps=20", "--config.model.widths=16", "--config.norm.name=my_norm"]
ROW = "from normlab.norms import Norm\nNORMS = {%s: Norm(title='t', family='f', %s)}\n"
RMS = "module='normlab.norms.sample:SampleNorm', over=('C',), options=('epsilon',)"
CALLED = "from flax import linen as nn\nclass M(nn.Module):\n    def __call__(self, %s): pass\n"
CALLED += ROW.replace("%s", "'mine'", 1).replace("%s", "module=M, %s")
STUDY = """
from normlab.studies.setup import Setup, Tuning, norm_arms
from normlab.studies.study import Study
SETUP = Setup(
    name="tiny", title="a tiny network", base="digits_mlp", protocol=Tuning((-1.0,), 0.5, "error",
    seeds=(1000,), extensions=0), arms=norm_arms("none", "my_norm", primary=("none", "my_norm")),
    settings={"data.name": "synthetic", "model.widths": (16,), "train.steps": 20}, seeds=2,
)
STUDY = Study(
    name="own", title="t", question="q", fair_test="f", source="s", expect="e", refuted_if="r",
    cost="c", setups={"quick": (SETUP,)}, claims=(),
)
"""

pytestmark = pytest.mark.usefixtures("restored_norms")


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def over(letters: str, name: str = "'mine'") -> str:
    """A file with a row of SampleNorm over some letters."""
    return ROW % (name, f"module='normlab.norms.sample:SampleNorm', over={tuple(letters)}")


REFUSED = {
    "nothing in it": ("", "has no NORMS = {name: Norm(...)}"),
    "empty": ("NORMS = {}", "has no NORMS"),
    "no dict": ("NORMS = 3", "has no NORMS"),
    "syntax": ("NORMS = {", "cannot be loaded (SyntaxError"),
    "raises": ("1 / 0", "cannot be loaded (ZeroDivisionError: division by zero)"),
    "leaves": ("raise SystemExit(0)", "cannot be loaded (SystemExit"),
    "no row": ("NORMS = {'mine': 3}", "NORMS['mine'] = 3 is not a Norm"),
    "name": (over("C", "'my norm'"), "'my norm' is no name of letters, digits and _"),
    "built-in name": (over("C", "'batch'"), "the name 'batch' is taken by a norm of normlab"),
    "letter": (over("CX"), "has 'X', not of"),
    "option": (ROW % ("'mine'", RMS.replace("epsilon", "eps")), "there is no option 'eps'"),
    "not its option": (ROW % ("'mine'", RMS.replace("epsilon", "groups")), "cannot be built"),
    "equals": (ROW % ("'mine'", RMS + ", equals='lay'"), "equals = 'lay' is no norm"),
    "no module": (ROW % ("'mine'", "module='nowhere:Norm', over=()"), "cannot be built"),
    "x alone": (CALLED % ("x", "over=('C',)"), "M.__call__(self, x) cannot be called as (x, train"),
    "no mask": (CALLED % ("x, train", "over=('C',)"), "'mask'); add it with a default, or derive"),
    "one more": (CALLED % ("x, train, mask, t", "over=()"), "missing a required argument: 't'"),
    "no mask of the batch": (
        CALLED % ("x, train", "over=('N',), takes_masks=False"),
        "statistics over examples leave padding out, so __call__ must take mask",
    ),
    "required field": (
        "from flax import linen as nn\nclass M(nn.Module):\n    size: int\n"
        + ROW % ("'mine'", "module=M, over=()"),
        "cannot be built (TypeError",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_file_is_refused_and_adds_nothing(case, tmp_path):
    text, words = REFUSED[case]
    before, good = dict(NORMS), write(tmp_path / "good.py", over("C", "'good'"))
    with pytest.raises(ValueError) as refusal:
        add_norms([good, write(tmp_path / "bad.py", text)])
    assert words in str(refusal.value) and "bad.py" in str(refusal.value)
    assert before == NORMS and len(list(tmp_path.iterdir())) == 2


def test_two_files_with_one_name_are_refused(tmp_path):
    files = [write(tmp_path / f"{name}.py", over("C")) for name in "ab"]
    with pytest.raises(ValueError, match=r"b\.py': the name 'mine' is taken by a norm of .*a\.py'"):
        add_norms(files)
    assert "mine" not in NORMS


@pytest.mark.parametrize(
    "script, flags, words",
    [
        ("train", [*SHORT, "--norms=bad.py"], ["NORMS['mine'] = 3 is not a Norm"]),
        ("study", ["--study=convergence", "--norms=none.py"], ["cannot be read (No such file"]),
        ("list", ["norms", "--norms=bad.py"], ["NORMS['mine'] = 3 is not a Norm"]),
        ("train", SHORT, ["unknown norm 'my_norm'", "one of your own needs --norms=FILE"]),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(script, flags, words, tmp_path):
    write(tmp_path / "bad.py", "NORMS = {'mine': 3}")
    run = run_script(script, *flags, cwd=tmp_path)
    assert run.returncode == 2 and run.stdout == "" and all(w in run.stderr for w in words)
    assert len(run.stderr.splitlines()) == 1 and [p.name for p in tmp_path.iterdir()] == ["bad.py"]


def test_a_file_is_read_on_the_cpu_and_leaves_the_environment(tmp_path, monkeypatch):
    file = write(tmp_path / "f.py", "import os\n" + over("C", "os.environ['JAX_PLATFORMS']"))
    monkeypatch.setattr(files, "FLAGS", SimpleNamespace(norms=[file]))
    monkeypatch.delenv("JAX_PLATFORMS")
    assert cli.load_norms() == ["cpu"] and "JAX_PLATFORMS" not in os.environ


def test_the_content_of_the_file_is_part_of_the_run(tmp_path):
    ids, programs = set(), set()
    plain = run_id(defaults()), program_id(defaults())
    for text in (over("C"), over("C") + "# changed\n"):
        add_norms([write(tmp_path / "f.py", text)])
        config = resolve({"norm.name": "mine"}).config
        ids.add(run_id(config))
        programs.add(program_id(config))
        assert plain == (run_id(defaults()), program_id(defaults()))
        del NORMS["mine"]
    assert len(ids) == len(programs) == 2


def test_a_kept_row_gives_the_same_run_without_the_file(tmp_path):
    add_norms([str(EXAMPLE)])
    name = run_id(resolve({"norm.name": "my_norm"}).config)
    Store(tmp_path).open()
    (file,) = row_files(tmp_path)["norms"]
    assert Path(file).read_bytes() == EXAMPLE.read_bytes()
    del NORMS["my_norm"]
    recall_rows(tmp_path)
    assert run_id(resolve({"norm.name": "my_norm"}).config) == name
    row = NORMS["my_norm"]
    assert isinstance(row, OutsideNorm) and (row.title, row.over) == ("peak norm", ("H", "W", "C"))
    assert (
        outside_norms() == {} and row_files(tmp_path)["norms"] == []
    )  # it can be read, not trained
    (tmp_path / "norms" / "other.json").write_text("{")
    with pytest.raises(StorageError, match="is damaged"):
        recall_rows(tmp_path)


def runs(setup: Setup, norm: str) -> bool:
    """Tell whether a built-in norm can run in a setup."""
    try:
        resolve(load_config(setup.base) | setup.settings | {"norm.name": norm}, needs_data=False)
    except ConfigError:
        return False
    return True


def test_a_norm_joins_every_setup_that_it_can_run_in(tmp_path):
    names = add_norms([str(EXAMPLE), write(tmp_path / "space.py", over("HW", "'space'"))])
    for study in map(load_study, study_names()):
        setups = [s for profile in study.setups.values() for s in profile]
        able = tuple(
            n
            for n, like in (("my_norm", "layer"), ("space", "instance"))
            if any(runs(s, like) for s in setups)
        )
        joined = adapt(study, norms=able)
        assert joined.norms == able and rule_of(joined, "quick") == rule_of(study, "quick")
        for setup in joined.setups["quick"]:
            new = [a for a in setup.arms if a.name in names]
            assert [a.name for a in new] == [
                n for n, like in (("my_norm", "layer"), ("space", "instance")) if runs(setup, like)
            ]
            assert all(a.settings == {"norm.name": a.name} and not a.is_primary for a in new)
            drawn = list(line_styles(setup).values())
            assert all(drawn.count(line_styles(setup)[a.name]) == 1 for a in new)
    study = load_study("convergence")
    chosen = adapt(study, norms=names, arms=("none", "batch", "my_norm"))
    check_study(chosen, "quick")
    assert [a.name for a in chosen.setups["quick"][0].arms] == ["none", "batch", "my_norm"]
    assert f" --norms={EXAMPLE}" in command(chosen, "quick")
    files = ",".join(sorted([str(EXAMPLE), str(tmp_path / "space.py")]))
    assert f" --norms={files}" in command(adapt(study, norms=names), "quick")
    assert "--norms" not in command(study, "quick")
    assert adapt(study, norms=names, arms=("none", "batch")).norms == ()
    with pytest.raises(ConfigError, match="'space'"):
        adapt(study, norms=["space"], overrides={"model.name": "mlp", "data.augment": "none"})
    assert adapt(study, norms=names, overrides={"model.placement": "post"}, arms=("my_norm",))


def test_a_run_is_trained_kept_and_new_when_the_file_changes(tmp_path):
    file = write(tmp_path / "mine.py", EXAMPLE.read_text(encoding="utf-8"))
    first = run_script("train", *SHORT, f"--norms={file}", cwd=tmp_path)
    assert first.returncode == 0 and first.stderr == "", first.stderr
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    kept: Any = json.loads((folder / "result.json").read_text())
    assert kept["provenance"]["norm.file"] in {
        p.stem for p in (tmp_path / "results" / "norms").glob("*.py")
    }
    again = run_script("train", *SHORT, f"--norms={file}", cwd=tmp_path)
    assert again.returncode == 0 and f"run {folder.name} is finished" in again.stdout
    Path(file).write_text(EXAMPLE.read_text() + "# changed\n")
    other = run_script("train", *SHORT, f"--norms={file}", "--dry_run", cwd=tmp_path)
    assert re.search(r"^run id (\w+)$", other.stdout, re.M) and folder.name not in other.stdout


def test_a_study_runs_resumes_and_is_reported_without_the_file(tmp_path):
    study, file = write(tmp_path / "own.py", STUDY), tmp_path / "mine.py"
    write(file, EXAMPLE.read_text(encoding="utf-8"))
    flags = [f"--study={study}", f"--norms={file}", "--config.host.processes=1"]
    for trained in (6, 0):
        run = run_script("study", *flags, cwd=tmp_path)
        assert run.returncode == 0 and run.stderr == "", run.stderr
        assert f"{trained} runs trained" in run.stdout
    page = tmp_path / "results" / "report" / "index.html"
    assert f"--norms={file}" in page.read_text(encoding="utf-8")
    lines = (tmp_path / "results" / "report" / "tables" / "own-quick-tiny.md").read_text()
    assert re.search(r"^\| my\\_norm \| primary \|.*\| 2 \|", lines, re.M)

    page.unlink()
    file.unlink()
    (tmp_path / "no_jax").mkdir()
    write(tmp_path / "no_jax" / "jax.py", "raise SystemExit('jax was imported')")
    paths = os.pathsep.join([str(tmp_path / "no_jax"), os.environ.get("PYTHONPATH", "")])
    rebuilt = run_script("report", cwd=tmp_path, PYTHONPATH=paths)
    assert rebuilt.returncode == 0 and rebuilt.stderr == "" and page.exists()
    same = (tmp_path / "results" / "report" / "tables" / "own-quick-tiny.md").read_text()
    assert same == lines


def test_the_page_shows_the_example_and_commands_that_work(tmp_path):
    assert EXAMPLE.read_text(encoding="utf-8") in DOCS
    blocks = re.findall(r"```bash\n(.*?)```", DOCS, re.DOTALL)
    commands = [line for block in blocks for line in block.replace("\\\n", "").splitlines()]
    for script in ("train", "study", "list"):
        (line,) = [c for c in commands if c.startswith(f"python scripts/{script}.py")][:1]
        flags = [re.sub("=(?=configs/|docs/)", f"={ROOT}/", f) for f in shlex.split(line)[2:]]
        flags += ["--dry_run"] if script != "list" else []
        run = run_script(script, *flags, cwd=tmp_path)
        assert run.returncode == 0 and "my_norm" in run.stdout, run.stderr
    assert list(tmp_path.iterdir()) == []
