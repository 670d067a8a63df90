"""Every command and every example of README.md and docs/commands.md works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = README + (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGES, re.DOTALL)
SHELL = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
TABLE = re.findall(r"\| `(python scripts/[^`]+)` \|", PAGES)
PYTHON = ("python scripts/", "python docs/examples/")
COMMANDS = [line for line in [*SHELL, *TABLE] if line.startswith(PYTHON)]
BY_CI = ("bash scripts/reproduce.sh", "bash scripts/test.sh")
ELSEWHERE = ("source .venv/bin/activate", ".venv/bin/pip install -c requirements.lock")
STUDY = "python scripts/study.py --study="
STUDIES = sorted(c.removeprefix(STUDY) for c in TABLE if c.startswith(STUDY))
SHORTER = {
    "train": ["--config.train.steps=40", "--config.model.widths=8,8,8"],
    "study": ["--dry_run"],  # reproduce.sh trains
    "check_norm": ["--checks=contract"],  # test_testing.py runs them all
    "own_model": [],
    "list": [],
    "report": [],
}


def run(script: str, flags: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, script, *flags], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A directory with a finished run, because reports of nothing are refused."""
    folder = tmp_path_factory.mktemp("results")
    flags = ["--config=configs/digits_mlp.py", *SHORTER["train"], f"--results={folder}"]
    run("scripts/train.py", flags)
    return folder


def test_the_readme_is_short_and_its_lines_are_run_here_by_ci_or_on_another_machine():
    assert len(COMMANDS) >= 20 and "@@" not in PAGES and len(README.split()) <= 1600
    for line in SHELL:
        assert not line.strip() or line.startswith((*BY_CI, *ELSEWHERE, *PYTHON)), line


@pytest.mark.parametrize(
    "command", [*sorted({*COMMANDS} - {STUDY + s for s in STUDIES}), STUDY + ",".join(STUDIES)]
)
def test_command(command: str, results: Path, tmp_path: Path):
    """The commands of single studies are planned together."""
    script, *flags = shlex.split(command, comments=True)[1:]
    prepared = ("--profile=standard", "--prepare", "shakespeare", "imagenet", "configs/mnist")
    if any(word in command for word in prepared):
        pytest.skip("needs images or a text that users prepare themselves")
    kind = Path(script).stem
    flags = [f"--ledger={tmp_path / 'c.md'}" if f.startswith("--ledger") else f for f in flags]
    flags = [f"--profile_trace={tmp_path}" if "_trace=" in f else f for f in flags]
    flags += SHORTER[kind]
    if kind in ("train", "study", "report"):
        flags += [f"--results={results}"]
    assert run(script, flags).strip()


@pytest.mark.parametrize("block", [text for kind, text in BLOCKS if kind == "python"])
def test_example(block: str):
    space: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), space)  # the page is ours
    assert getattr(space["logits"], "shape", None) == (64, 10)
