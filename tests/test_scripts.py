"""The command lines as a person meets them: one-line refusals, examples, a run from end to end."""

from __future__ import annotations

import gzip
import os
import re
import resource
import subprocess

import pytest
from workspace import ROOT, run_script

import normlab
from normlab.settings import SETTINGS

DIGITS = f"--config={ROOT / 'configs' / 'digits_mlp.py'}"
MNIST = f"--config={ROOT / 'configs' / 'mnist_mlp.py'}"
SHORT = [DIGITS, "--config.data.name=synthetic", "--config.train.steps=60"]
SHORT += ["--config.train.eval_every=20", "--config.model.widths=16"]


def cpu_seconds() -> float:
    """Return the CPU time of all child processes so far, which no other load lengthens."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


BAD_INPUT = {
    "train DIGITS --config.optim.lrr=1": "did you mean 'optim.lr'?",
    "train DIGITS --config.optim.lr=fast": "could not convert",
    "train DIGITS --config.optim.lr=nan": "optim.lr = nan is not finite",
    "train DIGITS --config.train.steps=1.5": "train.steps=1.5",
    "train DIGITS --config.model.widths=a": "tuple of positive int",
    "train DIGITS --config.norm.name=group --config.norm.groups=7": "use one of [1, 2, 4, 5, 10,",
    "train MNIST --data_dir=.": "--prepare=mnist --manual_dir=DIR",
    "train": "--config=configs/digits_mlp.py",
    "train DIGITS --profile_trace=/dev/null/x": "--profile_trace=DIR",
    "train DIGITS --lr=3": "Unknown command line flag 'lr'",
    "train DIGITS optim.lr=3": "unexpected argument 'optim.lr=3'",
    "study": "give --study=NAME (studies: accuracy,",
    "study --study=mine.py": "unknown study 'mine.py'",
    "study --study=batch_size --config.optim.momentm=0.8": "did you mean 'optim.momentum'?",
    "study --study=batch_size --config.optim.momentum=x": "could not convert",
    "study --study=learning_rate --config.data.batch=5000": "use at most 897",
    "study --study=convergence --config.model.name=x": "(models:",
    "study --study=batch_size --config.optim.lr=0.1": "use --only=optim.lr=0.1",
    "study --study=convergence --profile=standard --data_dir=.": "--prepare=mnist --manual_dir=DIR",
    "study --study=batch_size --arms=bach": "has no arm 'bach'; did you mean 'batch'? (arms: ",
    "study --study=batch_size --setups=x": "unknown setup 'x' (setups: ",
    "study --study=batch_size --only=optim.l=1": "did you mean 'optim.lr'",
    "study --study=batch_size --only=optim.lr=x": "type float",
    "study --study=batch_size --results=gs://b/x": "is an address",
    "study --study=batch_size --seeds=1": "--seeds=1",
    "study --study=batch_size --profile=fast": "<quick|standard|full>",
    "list": "no list named; use python scripts/list.py norms|",
    "list nroms": "'nroms' is no list",
    "data --prepare=cifar": "choose one of digits, mnist",
    "data --download": "need --prepare=NAME",
    "data mnist": "unexpected argument 'mnist'",
}
"""A command -> a part of its line on standard error."""


def assert_refused(run: subprocess.CompletedProcess, code: int, words: str) -> None:
    assert run.returncode == code, run.stderr
    assert run.stdout == ""
    lines = run.stderr.splitlines()
    assert len(lines) == 1 and re.match(r"normlab: error\[[a-z]+\]: ", lines[0]), run.stderr
    assert words in lines[0]


@pytest.fixture(scope="session")
def no_jax(tmp_path_factory) -> str:
    """A folder for PYTHONPATH that makes importing jax an error."""
    folder = tmp_path_factory.mktemp("no_jax")
    (folder / "jax.py").write_text("raise SystemExit('jax was imported')")
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


PLACES: dict[str, str] = {"DIGITS": DIGITS, "MNIST": MNIST}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(case: str, tmp_path, no_jax):
    script, *flags = [PLACES.get(word, word) for word in case.split()]
    words = BAD_INPUT[case]
    before = cpu_seconds()
    run = run_script(script, *flags, cwd=tmp_path, PYTHONPATH=no_jax)
    seconds = cpu_seconds() - before
    assert_refused(run, 2, words)
    assert list(tmp_path.iterdir()) == []
    assert seconds < 2  # 0.2 to 0.9 s


def test_a_configuration_may_leave_settings_out(tmp_path):
    """Every setting can be overridden, and whole numbers may stand for fractions."""
    text = "def get_config():\n    return {'optim': {'lr': 1}, 'data': {'name': 'synthetic'}}\n"
    (tmp_path / "part.py").write_text(text.replace("\n", "\r\n"))
    flags = ["--config=part.py", "--config.optim.lr=0.3", "--config.norm.name=layer", "--dry_run"]
    out = run_script("train", *flags, cwd=tmp_path).stdout
    for name, value in (("optim.lr", "0.3"), ("norm.name", "layer"), ("data.name", "synthetic")):
        assert re.search(rf"^{re.escape(name)} +{value}$", out, re.M)


@pytest.mark.parametrize("below", ["", "/deeper/still"])
@pytest.mark.parametrize("script, flags", [("train", [DIGITS]), ("study", ["--study=convergence"])])
def test_results_that_cannot_be_used_are_refused(script, flags, below, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("mine")
    run = run_script(script, *flags, f"--results={blocked}{below}")
    assert_refused(run, 2, "--results=DIR")
    assert blocked.read_text() == "mine" and list(tmp_path.iterdir()) == [blocked]


def test_data_sets_are_listed_with_their_state(tmp_path):
    out = run_script("list", "data", f"--data_dir={tmp_path}").stdout
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert "not prepared" in lines["mnist"] and "built in" in lines["digits"]


@pytest.mark.parametrize("script", ["train", "study", "report", "list", "data"])
def test_help_shows_examples(script):
    run = run_script(script, "--help")
    assert run.returncode == 0 and run.stderr == ""
    assert "Examples:" in run.stdout and f"python scripts/{script}.py" in run.stdout
    assert "--[no]debug" in run.stdout and "--[no]version" in run.stdout
    head, *examples = run.stdout.partition("\n\n--")[0].splitlines()
    assert all(len(line) <= 100 for line in [head, *examples])
    if script in ("train", "study"):
        assert "  --config: " in run.stdout and "  --norms: " in run.stdout
        assert (
            "python scripts/list.py settings" in run.stdout and "default: 'data:" not in run.stdout
        )
        assert " \\\n      --" in run.stdout  # a long example keeps its line break


@pytest.mark.parametrize("script", ["train", "study", "report", "list", "data", "fsck", "bench"])
def test_every_script_has_a_version(script):
    run = run_script(script, "--version")
    assert (run.returncode, run.stdout) == (0, f"normlab {normlab.__version__}\n")


def test_every_setting_is_listed_with_its_default_and_its_reason():
    lines = run_script("list", "settings").stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == [*SETTINGS]
    for line, setting in zip(lines, SETTINGS.values(), strict=True):
        assert repr(setting.default) in line and setting.why in line
    assert re.search(r"^optim\.lr +0\.1 +above 0 ", "\n".join(lines), re.M)


def test_a_flag_and_its_value_may_be_two_words(tmp_path):
    """Of the configuration file, which is read before the flags, and of a setting."""
    file, name = str(ROOT / "configs" / "digits_mlp.py"), "digits_mlp"
    plain = run_script("train", f"--config={file}", "--config.optim.lr=0.3", "--dry_run")
    assert plain.returncode == 0 and re.search(r"^optim\.lr +0\.3$", plain.stdout, re.M)
    for words in (["--config", file], ["--config", name]):
        run = run_script("train", *words, "--config.optim.lr", "0.3", "--dry_run", cwd=tmp_path)
        assert (run.returncode, run.stdout) == (0, plain.stdout)
    assert_refused(run_script("train", "--dry_run", "--config"), 2, "file ''")


@pytest.mark.parametrize(
    "script, flags, words",
    [
        ("train", [DIGITS, "--config.optim.lr=0.3"], "run id "),
        ("study", ["--study=all"], "0 done"),
        ("study", ["--study=batch_size", "--arms=batch/4", "--seeds=3"], "48 to train (14,400"),
        ("study", ["--study=batch_size", "--only=optim.lr=0.1"], "51 runs known by now, 51 to tr"),
    ],
)
def test_dry_run_prints_the_plan_without_jax_and_writes_nothing(
    script, flags, words, tmp_path, no_jax
):
    run = run_script(script, *flags, "--dry_run", cwd=tmp_path, PYTHONPATH=no_jax)
    assert run.returncode == 0 and run.stderr == "" and words in run.stdout
    assert list(tmp_path.iterdir()) == []


def test_dry_run_shows_every_setting_as_it_is_resolved(tmp_path):
    flags = [DIGITS, "--config.norm.name=layer", "--config.norm.momentum=0.5", "--dry_run"]
    out = run_script("train", *flags, cwd=tmp_path).stdout
    assert "note: norm.momentum=0.5 is not used here and reset to the default" in out
    assert re.search(r"^norm\.momentum +0\.9$", out, re.M)
    assert re.search(r"^run id [0-9a-f]{16}$", out, re.M)


def test_a_run_is_trained_shown_and_repeated_bit_equal(tmp_path):
    first = run_script("train", *SHORT, cwd=tmp_path)
    assert first.returncode == 0 and first.stderr == ""
    rows = re.findall(r"step +(\d+) +train loss \S+ +loss \S+ +accuracy (\S+) %", first.stdout)
    assert [int(step) for step, _ in rows] == [20, 40, 60] and float(rows[-1][1]) > 50
    metrics = dict(re.findall(r"^(\w+) +([\d.]+)(?: %)?$", first.stdout, re.M))
    names = {f"{split}_{what}" for split in ("validation", "test") for what in ("loss", "accuracy")}
    assert set(metrics) == names | {f"running_{name}" for name in names}
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    curve = (folder / "curve.jsonl").read_bytes()
    assert len(curve.splitlines()) == 3

    shown = run_script("train", *SHORT, cwd=tmp_path)
    assert shown.returncode == 0 and "is finished; --restart repeats it" in shown.stdout
    assert dict(re.findall(r"^(\w+) +([\d.]+)(?: %)?$", shown.stdout, re.M)) == metrics
    assert "compiling" not in shown.stdout

    traced = ["--profile_trace=trace"]
    untraced = run_script("train", *SHORT, *traced, cwd=tmp_path)
    assert "no profile of it is written; --restart" in untraced.stdout
    assert not (tmp_path / "trace").exists()

    again = run_script("train", *SHORT, *traced, "--restart", cwd=tmp_path)
    assert again.returncode == 0 and "compiling" in again.stdout
    assert "profile of 20 steps in trace; open" in again.stdout
    (trace,) = (tmp_path / "trace").glob("plugins/profile/*/*.trace.json.gz")
    assert "jit_advance_all" in gzip.decompress(trace.read_bytes()).decode()
    assert (folder / "curve.jsonl").read_bytes() == curve
    assert (folder / "result.stale.json").exists() and (folder / "result.json").exists()
    assert dict(re.findall(r"^(\w+) +([\d.]+)(?: %)?$", again.stdout, re.M)) == metrics


def test_a_run_that_diverges_exits_with_3_each_time(tmp_path):
    flags = [*SHORT, "--config.norm.name=none", "--config.optim.lr=1e30"]
    for _ in range(2):
        run = run_script("train", *flags, cwd=tmp_path)
        assert run.returncode == 3 and run.stderr == ""
        assert re.search(r"^diverged at step \d+: .* not finite$", run.stdout, re.M)
    assert len(list(tmp_path.glob("results/runs/*/result.json"))) == 1


def test_a_damaged_record_exits_with_7(tmp_path):
    plan = run_script("train", *SHORT, "--dry_run", cwd=tmp_path).stdout
    folder = tmp_path / "results" / "runs" / plan.split()[-1]
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"config": ')
    run = run_script("train", *SHORT, cwd=tmp_path)
    assert run.returncode == 7 and "is damaged" in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert (folder / "result.json").read_text() == '{"config": '


def test_debug_shows_the_traceback(tmp_path):
    run = run_script("train", DIGITS, "--config.data.batch=5000", "--debug", cwd=tmp_path)
    assert run.returncode != 0 and "Traceback" in run.stderr and "use at most 897" in run.stderr
