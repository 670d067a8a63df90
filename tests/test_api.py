"""normlab.run, normlab.study and normlab.load_runs: the same runs as those of the command lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from small_runs import leaves_of, member, small, train
from workspace import CACHE, ROOT, run_script, study_text

import normlab
from normlab import norms
from normlab.api import settings_of
from normlab.data import load
from normlab.launch.supervisor import Supervisor
from normlab.launch.surroundings import worker_environment
from normlab.models.table import MODELS
from normlab.norms import NORMS
from normlab.runs.config import resolve, run_id
from normlab.runs.errors import ConfigError, Damaged, StorageError
from normlab.runs.fsck import examine
from normlab.runs.store import Store

TINY = {"data": "synthetic", "steps": 20, "widths": (16,)}
DOCS = ROOT / "docs" / "examples"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    for name, value in CACHE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run with its parameters, as the module's tests read it."""
    folder = tmp_path_factory.mktemp("kept") / "results"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CACHE.items():
            patch.setenv(name, value)
        settings = {name: v for name, v in small(norm__name="batch").items()}
        return normlab.run(settings, results=folder, keep_params=True)


def test_a_run_is_that_of_the_command_line_and_is_not_repeated(tmp_path, capsys):
    run = normlab.run("digits_mlp", norm="group", lr=0.3, seed=3, **TINY)
    assert "step     20" in capsys.readouterr().out
    flags = ["--config=digits_mlp", "--config.data.name=synthetic", "--config.train.steps=20"]
    flags += ["--config.model.widths=16", "--config.norm.name=group", "--config.optim.lr=0.3"]
    told = run_script("train", *flags, "--config.seed=3", cwd=tmp_path)
    assert f"run {run.run_id} is finished" in told.stdout, told.stderr
    assert normlab.run("digits_mlp", norm="group", lr=0.3, seed=3, **TINY) == run
    assert capsys.readouterr().out == ""
    assert run.curve[-1]["step"] == 20 and run.final["test_accuracy"] > 0
    assert f"{100 * run.final['test_accuracy']:.2f} %" in repr(run) and "group" in repr(run)
    other = normlab.run("digits_mlp", norm="batch", seed=3, **TINY)
    assert {r.run_id for r in normlab.load_runs()} == {run.run_id, other.run_id}
    assert normlab.load_runs(norm="batch") == [other]


def test_kept_parameters_are_the_bits_of_the_state(kept):
    _, states = train([resolve(kept.config).config], load("synthetic"))
    found, state = kept.variables(), member(states)
    assert found["norm_state"] == {} and len(leaves_of(found["batch_stats"])) > 2
    for collection in ("params", "batch_stats"):
        left = leaves_of(getattr(state, collection))
        right = leaves_of(found[collection])
        assert left.keys() == right.keys()
        assert all(np.array_equal(left[name], right[name]) for name in left)


def test_the_parameters_give_the_scores_of_the_run_and_the_same_logits_everywhere(kept):
    net, variables = kept.network(), kept.variables()
    x, y = kept.examples("test")
    logits: Any = net.apply(variables, x, train=False)
    assert float((np.asarray(logits).argmax(-1) == y).mean()) == pytest.approx(
        kept.final["running_test_accuracy"], abs=1e-9
    )
    log_p = np.asarray(nn.log_softmax(np.asarray(logits, np.float64)))
    loss = -log_p[np.arange(len(y)), y].mean()
    assert loss == pytest.approx(kept.final["running_test_loss"], rel=1e-5)
    model: Any = nnx.bridge.ToNNX(net, rngs=nnx.Rngs(0)).lazy_init(x, train=False)
    norms.nnx.from_linen(model, variables)
    found: Any = model(x, train=False)
    assert np.array_equal(found, logits)
    sizes = {part: len(kept.examples(part)[1]) for part in ("train", "validation")}
    row = load("synthetic")
    assert sizes["train"] + sizes["validation"] + len(y) == len(row.labels)


def test_parameters_without_a_norm_fit_a_plain_network_of_flax():
    run = normlab.run("digits_mlp", norm="none", keep_params=True, **TINY)
    x, _ = run.examples()

    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(run.network().classes, name="head")(
                nn.relu(nn.Dense(16, name="dense_1")(x))
            )

    logits: Any = Plain().apply({"params": run.variables()["params"]}, x)
    assert np.array_equal(logits, run.network().apply(run.variables(), x, train=False))


def test_parameters_that_are_not_there_or_damaged_are_refused(tmp_path):
    run = normlab.run("digits_mlp", **TINY)
    with pytest.raises(StorageError, match="no kept parameters in .*--keep_params and --restart"):
        run.variables()
    again = run_script(
        "train",
        "--config=digits_mlp",
        "--config.data.name=synthetic",
        "--config.train.steps=20",
        "--config.model.widths=16",
        "--keep_params",
        cwd=tmp_path,
    )
    assert "its parameters were not kept; --restart repeats it" in again.stdout
    kept = normlab.run("digits_mlp", seed=1, keep_params=True, **TINY)
    file = kept.folder / "params.safetensors"
    assert not [f for f in examine("results") if f.kind == "damaged"]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(Damaged, match="sha256 mismatch"):
        kept.variables()
    (found,) = [f for f in examine("results") if f.kind == "damaged"]
    assert found.path == f"runs/{kept.run_id}" and "params.safetensors" in found.message


def test_a_study_keeps_the_parameters_of_runs_that_report(capsys):
    file = Path("tiny.py")
    file.write_text(study_text(("none", "batch"), 20))
    result = normlab.study(file, keep_params=True)
    assert result.verdicts["T"].n == 2 and result.verdicts["T"].word in repr(result)
    assert result.page.exists() and result.page == Path("results/report/index.html")
    has = {len(list(r.folder.glob("params.safetensors"))): r.config["seed"] for r in result.runs}
    assert len(result.runs) == 12 and has[0] < 10_000 <= has[1]
    assert {
        r.config["seed"] >= 10_000 for r in result.runs if r.provenance.get("params_sha256")
    } == {True}
    capsys.readouterr()
    before = sorted(Path("results/runs").glob("*/result.json"))
    assert normlab.study(file).verdicts["T"].estimate == result.verdicts["T"].estimate
    assert sorted(Path("results/runs").glob("*/result.json")) == before


@pytest.mark.usefixtures("restored_norms", "restored_models")
def test_files_of_your_own_are_taken_and_read_once():
    tiny = {name: v for name, v in TINY.items() if name != "data"}
    run = normlab.run("digits_mlp", data=DOCS / "my_data.py", **tiny)
    assert run.config["data.name"].startswith("my_data-")
    again = normlab.run("digits_mlp", data=str(DOCS / "my_data.py"), **tiny)
    assert again == run
    for _ in range(2):
        run = normlab.run("digits_mlp", norm="my_norm", norms=[DOCS / "my_norm.py"], **TINY)
        assert run.config["norm.name"] == "my_norm" and "my_norm" in NORMS
        run = normlab.run("digits_cnn", model=DOCS / "my_network.py", **TINY)
        assert run.config["model.name"] == "my_network" and "my_network" in MODELS
    changed = Path("my_norm.py")
    changed.write_text((DOCS / "my_norm.py").read_text() + "# changed\n")
    with pytest.raises(ValueError, match="the name 'my_norm' is taken"):
        normlab.run("digits_mlp", norm="my_norm", norms=[changed], **TINY)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: normlab.run("digit_mlp"), "unknown configuration 'digit_mlp' (in configs/: "),
        (lambda: normlab.run(rl=0.1), "unknown setting 'rl'"),
        (lambda: normlab.run(stepz=1), "did you mean 'steps'?"),
        (lambda: normlab.run(name="batch"), "it may be data.name, model.name"),
        (lambda: normlab.run(settings={"optim.rate": 1.0}), "unknown setting 'optim.rate'"),
        (lambda: normlab.run(norm="bach"), "unknown norm 'bach'"),
        (lambda: normlab.study("convergance"), "convergance"),
        (lambda: normlab.study("convergence", arms=["bach"]), "has no arm 'bach'"),
    ],
)
def test_mistakes_are_errors_of_one_line_and_write_nothing(call, words, tmp_path):
    with pytest.raises(ConfigError) as refusal:
        call()
    assert words in str(refusal.value) and "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_short_names():
    assert settings_of({"norm": "group", "lr": 0.1, "seed": 2, "widths": [8, 8]}) == {
        "norm.name": "group",
        "optim.lr": 0.1,
        "seed": 2,
        "model.widths": (8, 8),
    }
    assert settings_of({}, {"host.width": 4}) == {"host.width": 4}


def test_workers_take_no_setting_of_jax_from_a_notebook(monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    found = worker_environment({"OWN": "1"})
    assert "JAX_ENABLE_X64" not in found and found["JAX_PLATFORMS"] == "cpu" and found["OWN"] == "1"


def start(code: str, cwd: Path) -> subprocess.Popen[str]:
    """Start a program in a session of its own, as a notebook's kernel has."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


def test_an_interrupted_run_is_continued(tmp_path):
    code = "import normlab; normlab.run('digits_mlp', steps={}, eval_every=200, settings={})"
    long = code.format(60_000, {"host.chunk": 200})
    process = start(long, tmp_path)
    assert process.stdout
    for line in process.stdout:
        if "step    200" in line:
            break
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert "saving ..." in rest and "KeyboardInterrupt" in errors and process.returncode != 0
    (facts,) = tmp_path.glob("results/populations/*/checkpoint-*.json")
    step = json.loads(facts.read_text())["step"]
    again = start(long, tmp_path)
    assert again.stdout
    lines = [next(again.stdout) for _ in range(2)]
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=60)
    assert step >= 200 and any(f"continued from step {step}" in line for line in lines), lines


def test_of_runs_that_train_together_only_some_are_kept():
    store, configs = Store("results").open(), {}
    for seed in (0, 1, 2):
        config = small(seed=seed, host__keep_params=seed == 1, host__width=3)
        config = resolve(config).config
        configs[run_id(config)] = config
    with Supervisor(store, processes=1) as supervisor:
        supervisor.run(lambda: {n: c for n, c in configs.items() if not store.is_done(n)})
        assert not supervisor.failures
    for name, config in configs.items():
        record = store.read(name)
        is_kept = (store.run_dir(name) / "params.safetensors").exists()
        assert record.provenance["members"] == 3
        assert is_kept == ("params_sha256" in record.provenance) == (config["seed"] == 1)
