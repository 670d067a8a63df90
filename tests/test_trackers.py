"""Curves for TensorBoard and Weights & Biases, read back by their own readers."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from workspace import run_script, study_text

from normlab.launch.trackers import add_run, name_of, values_of
from normlab.runs.store import Records, Store

FLAGS = ["--config=digits_mlp", "--config.data.name=synthetic", "--config.model.widths=16"]
FLAGS += ["--config.train.steps=20", "--config.train.eval_every=5"]


class Kept:
    """A tracker that remembers."""

    def __init__(self):
        self.rows: dict[str, list[Any]] = {}

    def add(self, run_id, config, rows):
        self.rows.setdefault(run_id, []).extend(dict(row) for row in rows)

    def close(self):
        pass


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads of one run."""
    reader = import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


def test_a_run_is_added_with_its_rows_and_its_end(tmp_path):
    run = run_script("train", *FLAGS, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    (record,) = Records(Store(tmp_path / "results")).values()
    kept = Kept()
    add_run(kept, record)
    *rows, end = kept.rows[record.run_id]
    assert rows == record.curve and end["step"] == record.curve[-1]["step"] == 20
    assert end["final/test_accuracy"] == record.final["test_accuracy"]
    assert values_of({"step": 1, "loss": math.nan, "accuracy": 0.5}) == {"accuracy": 0.5}
    assert name_of("0f", record.config) == "synthetic-mlp-batch-0f"


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--tensorboard=x"], "no such run"),
        (["--only=optim.rate=1"], "unknown setting 'optim.rate'"),
    ],
)
def test_bad_exports_are_one_line(flags, words, tmp_path):
    run = run_script("export", *flags, cwd=tmp_path)
    assert run.returncode in (2, 7) and words in run.stderr and len(run.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.peers("tensorboard", "tensorboardX")
def test_event_files_are_those_of_the_curve_live_and_afterwards(tmp_path):
    live = run_script("train", *FLAGS, "--tensorboard=live", cwd=tmp_path)
    assert live.returncode == 0 and live.stderr == "", live.stderr
    (record,) = Records(Store(tmp_path / "results")).values()
    for _ in range(2):  # each step once, although the run is exported twice
        late = run_script("export", "--tensorboard=late", cwd=tmp_path)
        assert late.returncode == 0 and late.stdout.startswith("1 runs in late"), late.stderr
    name = name_of(record.run_id, record.config)
    found, again = scalars(tmp_path / "live" / name), scalars(tmp_path / "late" / name)
    assert found == again
    assert [step for step, _ in found["loss"]] == [5, 10, 15, 20]
    for tag, points in found.items():
        if not tag.startswith("final/"):
            told = [row[tag] for row in record.curve]
            assert [value for _, value in points] == pytest.approx(told, rel=1e-6)
            assert [step for step, _ in points] == [row["step"] for row in record.curve]
    assert found["final/test_loss"] == [(20, pytest.approx(record.final["test_loss"], rel=1e-6))]


@pytest.mark.peers("tensorboard", "tensorboardX")
def test_a_study_writes_each_of_its_runs(tmp_path):
    file = tmp_path / "tiny.py"
    file.write_text(study_text(("none", "batch"), 20))
    run = run_script("study", f"--study={file}", "--tensorboard=live", cwd=tmp_path)
    assert run.returncode == 0 and run.stderr == "", run.stderr
    records = Records(Store(tmp_path / "results"))
    names = {name_of(r.run_id, r.config) for r in records.values()}
    assert len(names) == 12 and {p.name for p in (tmp_path / "live").iterdir()} == names


@pytest.mark.peers("wandb")
def test_wandb_writes_an_offline_run(tmp_path):
    environment = {"WANDB_DIR": str(tmp_path), "HOME": str(tmp_path)}
    run = run_script("train", *FLAGS, "--wandb=offline", cwd=tmp_path, **environment)
    assert run.returncode == 0, run.stderr
    (record,) = Records(Store(tmp_path / "results")).values()
    (folder,) = (tmp_path / "offline" / "wandb").glob(f"offline-run-*-{record.run_id}")
    content = (folder / f"run-{record.run_id}.wandb").read_bytes()
    told = [b"norm.name", b"final/test_accuracy", repr(record.curve[-1]["loss"]).encode()]
    assert all(text in content for text in told)
