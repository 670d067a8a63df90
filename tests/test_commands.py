"""Every command that documentation, help, pages and errors print can be parsed and planned."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from workspace import ROOT

from normlab.data import DATASETS, DataUnavailable, check
from normlab.norms.outside import add_norms
from normlab.report.formatting import command
from normlab.studies.study import adapt, load_study, study_names

EXAMPLE = "docs/examples/my_norm.py"
COMMAND = r"(?:python|bash) scripts/\w+\.(?:py|sh)"
SPAN = re.compile(rf"`({COMMAND}[^`]*)`")
LINE = re.compile(rf"^#?\s*({COMMAND}.*)$", re.M)
"""A command in backquotes, or on a line of its own."""
REMARK = re.compile(r"\s#|\s>|\s{2}")
"""What ends a command on its line."""
FILES = ("*.md", "docs/**/*.md", "scripts/*", "configs/*.py", "experiments/*.py", "docs/**/*.py")
FILES += ("normlab/**/*.py", "benchmarks/**/*.py")
DRIVER = """
import gc, json, os, runpy, sys, traceback
import absl.flags, ml_collections.config_flags, numpy, flax.linen
import normlab.cli, normlab.data, normlab.report.terminal, normlab.runs.config
import normlab.launch.sweep, normlab.report.write

normlab.runs.config.check = lambda *_: None  # plans need no prepared data
start, is_planned = normlab.cli.start, ("study", "train", "list", "report")


def parse_only(main, takes_words=False):
    words = normlab.cli.parse(sys.argv)[1:]
    sys.exit(0 if takes_words or not words else 2)


def run(script, flags):
    name = os.path.basename(script).removesuffix(".py")
    sys.argv = [script, *flags]
    if name not in is_planned:
        normlab.cli.start = parse_only
        absl.flags.DEFINE_bool("debug", False, "")
    runpy.run_path(script, run_name="__main__")


gc.freeze()
for line in sys.stdin:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 1), os.dup2(write, 2)
        os.close(read)
        code = 70
        try:
            run(*json.loads(line))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([status, text[-2000:]]), flush=True)
"""
"""Runs scripts in one process that imports once and forks for each."""


def written_down() -> Iterator[str]:
    """Yield the commands of all texts of the repository."""
    for path in sorted({path for pattern in FILES for path in ROOT.glob(pattern)}):
        if path.is_file():
            text = re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8"))
            yield from LINE.findall(text) + SPAN.findall(text)


def of_pages() -> Iterator[str]:
    """Yield the command of every study in every profile, and those of variants."""
    for name in study_names():
        study = load_study(name)
        for profile, setups in study.setups.items():
            yield command(study, profile)
            arms = tuple(arm.name for arm in setups[0].arms)[:2]
            yield command(adapt(study, arms=arms, seeds=3), profile)
    study = load_study("convergence")
    overrides = {"optim.momentum": 0.8, "data.batch": 32, "model.widths": (8, 16)}
    yield command(adapt(study, overrides=overrides, arms=("none",)), "quick")
    yield command(adapt(study, norms=add_norms([EXAMPLE]), seeds=5), "quick")


def of_errors() -> Iterator[str]:
    """Yield the commands of messages about data that is not prepared."""
    for name, row in DATASETS.items():
        if row.prepared:
            with pytest.raises(DataUnavailable) as error:
                check(name, "/no such/folder")
            yield from SPAN.findall(str(error.value))


def words_of(text: str) -> list[str]:
    """Return a command as words, without a remark; [] for one that is only a pattern."""
    words = shlex.split(REMARK.split(text.strip())[0])
    is_pattern = any(set("{}$|") & set(word) for word in words)
    return [] if is_pattern or words[1] == "scripts/test.sh" else words


def planned(words: list[str], results: Path) -> tuple[str, list[str]]:
    """Return the script and the flags that plan a command; of reproduce.sh those of the study that
    it starts."""
    script, flags = words[1], words[2:]
    if script == "scripts/reproduce.sh":
        study = "all" if "--all" in flags else "convergence,learning_rate,batch_size"
        flags = [flag for flag in flags if flag != "--all"]
        script, flags = "scripts/study.py", [f"--study={study}", "--profile=quick", *flags]
    if script in ("scripts/study.py", "scripts/train.py"):
        flags = [*flags, "--dry_run"]
    if script in ("scripts/study.py", "scripts/train.py", "scripts/report.py"):
        flags = [*flags, f"--results={results}"]
    named = [EXAMPLE if flag == "my_norms.py" else flag for flag in flags]
    return script, list(dict.fromkeys(named))


@pytest.mark.usefixtures("restored_norms")
def test_every_command_that_is_printed_can_be_parsed_and_planned(tmp_path):
    """Studies and single runs are planned, lists are printed, and of the others the flags are
    parsed."""
    texts = [*written_down(), *of_pages(), *of_errors()]
    commands = [words for words in map(words_of, texts) if words]
    lines = sorted({json.dumps(planned(words, tmp_path)) for words in commands})
    assert len(lines) > 150
    driver, asked = [sys.executable, "-c", DRIVER], "\n".join(lines)
    run = subprocess.run(driver, input=asked, capture_output=True, text=True, cwd=ROOT, timeout=500)
    assert run.returncode == 0, run.stderr
    found = list(map(json.loads, run.stdout.splitlines()))
    assert len(found) == len(lines)
    empty = "error[storage]: no finished run in"
    wrong = [
        (line, code, text)
        for line, (code, text) in zip(lines, found, strict=True)
        if code != 0 and not ("report.py" in line and empty in text)
    ]
    assert not wrong, "\n".join(f"{line}: {code}\n{text}" for line, code, text in wrong)
    assert list(tmp_path.iterdir()) == []
