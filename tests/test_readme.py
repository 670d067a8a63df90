"""Every command and every example of the README works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
SHELL = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
TABLE = re.findall(r"\| `(python scripts/[^`]+)` \|", README)
COMMANDS = [line for line in [*SHELL, *TABLE] if line.startswith("python scripts/")]
BY_CI = ("bash scripts/reproduce.sh", "bash scripts/test.sh")
ELSEWHERE = ("source .venv/bin/activate", ".venv/bin/pip install -c requirements.lock")


SHORT = ["--config=configs/digits_mlp.py", "--config.train.steps=2"]


def run(script: str, flags: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, script, *flags], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def words(command: str) -> list[str]:
    return shlex.split(command, comments=True)


def test_the_readme_has_commands():
    assert len(COMMANDS) >= 12


def test_no_blank_is_left():
    assert "@@" not in README


def test_every_other_line_is_run_by_ci_or_is_about_another_machine():
    for line in SHELL:
        is_known = line.startswith((*BY_CI, *ELSEWHERE, "python scripts/"))
        assert not line.strip() or is_known, line


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_command(command: str, tmp_path: Path):
    script, *rest = words(command)[1:]
    if "--profile=standard" in rest or "--prepare" in command:
        pytest.skip("needs MNIST and Fashion-MNIST, which users prepare themselves")
    if script.endswith("study.py"):
        rest += ["--dry_run"]  # CI trains the whole of --study=all
    if script.endswith(("report.py", "fsck.py")):
        run("scripts/train.py", [*SHORT, f"--results={tmp_path}"])  # they refuse to look at nothing
    rest = [f"--ledger={tmp_path / 'c.md'}" if r.startswith("--ledger") else r for r in rest]
    if script.endswith("stress.py"):
        rest += ["--campaigns=permission"]  # test_stress_*.py have the others
    if not script.endswith(("list.py", "data.py", "check_norm.py", "bench.py", "stress.py")):
        rest += [f"--results={tmp_path}"]
    assert run(script, rest).strip()


@pytest.mark.parametrize("block", [text for kind, text in BLOCKS if kind == "python"])
def test_example(block: str):
    space: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), space)  # the page is ours
    assert getattr(space["logits"], "shape", None) == (64, 10)
