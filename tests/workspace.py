"""A study of seconds on a results directory of its own, run by the real command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from normlab.runs import files
from normlab.runs.store import Store

ROOT = Path(__file__).resolve().parents[1]
CACHE = {"NORMLAB_CACHE": str(ROOT / ".pytest_cache" / "normlab")}

TINY = '''
"""A study of seconds: some norms, two rates, two seeds on generated images."""

from normlab.studies.effects import Claim, error_difference
from normlab.studies.protocols import Tuning
from normlab.studies.setup import Arm, Setup
from normlab.studies.study import Study

ARMS = tuple(Arm(n, {"norm.name": n}, is_primary=True) for n in NORMS)
SETUP = Setup(
    name="tiny",
    title="tiny MLP",
    base="digits_mlp",
    settings=SETTINGS,
    arms=ARMS,
    protocol=Tuning((-1.0, -0.5), 0.5, "error", seeds=(1000, 1001), extensions=0),
    seeds=2,
    grows=False,
)


BETTER = error_difference("none", "batch", "none - batch")
CLAIM = Claim("T", "It is better", "tiny", BETTER, sesoi=1.0, looks=(2,), scope="tiny")

STUDY = Study(
    name="tiny", title="Tiny", question="?", fair_test="f", source="s", expect="e",
    refuted_if="r", cost="c", setups={"quick": (SETUP,), "standard": (SETUP,)}, claims=(CLAIM,),
)
'''


def study_text(norms: tuple[str, ...], steps: int, **settings: Any) -> str:
    """Return the file of that study, whose settings have _ for a point."""
    more = {name.replace("_", ".", 1): value for name, value in settings.items()}
    tiny = {"data.name": "synthetic", "model.widths": (16,), "train.steps": steps}
    return TINY.replace("SETTINGS", repr(tiny | more)).replace("NORMS", repr(norms))


def runs_of(arms: int) -> int:
    """Return the number of its runs: arms x rates x tuning seeds, then arms x seeds."""
    return arms * 2 * 2 + arms * 2


RUNS = runs_of(2)
SHORT, LONG = 40, 5_000
"""Steps of a run: none to speak of, and a second for a population."""


def run_script(script: str, *flags: str, cwd: Any = "/", **environment: str):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *flags],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        env=os.environ | CACHE | environment,
    )


def run_fresh(code: str) -> str:
    """Return what a new process of Python prints, without the last line break."""
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    return run.stdout.rstrip("\n")


def start_script(script: str, *flags: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env=os.environ | CACHE | environment,
    )


class Workspace:
    """One results directory and the command that works on it."""

    def __init__(self, folder: Path, steps: int):
        self.study, self.results = folder / "tiny.py", folder / "results"
        self.study.write_text(study_text(("none", "batch"), steps, train_eval_every=20))
        self.store = Store(self.results)

    def start(self, *flags: str, **environment: str) -> subprocess.Popen[str]:
        common = [f"--study={self.study}", f"--results={self.results}"]
        common += ["--config.host.processes=1"]
        return start_script("study", *common, *flags, **environment)

    def done(self) -> set[str]:
        return self.store.done()

    def read_results(self) -> dict[str, dict[str, Any]]:
        paths = self.results.glob("runs/*/result.json")
        return {path.parent.name: files.read_json(path) for path in paths}

    def is_training(self) -> bool:
        """Tell whether a run has evaluations but no result yet."""
        curves = self.results.glob("runs/*/curve.jsonl")
        return any(c.stat().st_size and not self.store.is_done(c.parent.name) for c in curves)

    def wait_for_training(self, process: subprocess.Popen[str]) -> None:
        for _ in range(600):
            if self.is_training():
                return
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        raise AssertionError("no run began within 30 seconds")


def wait_for_checkpoint(results: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(600):
        if any(results.glob("populations/*/checkpoint-*.json")):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("no checkpoint within 30 seconds")


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a process; return what it printed, or where it must fail its last line of errors."""
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    return err.strip().splitlines()[-1] if code else out


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
