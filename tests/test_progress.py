"""What is printed while runs train: a log in a file, one line on a terminal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from normlab.launch import progress
from normlab.launch.batching import PlannedPopulation
from normlab.launch.progress import LOG_S, Display, chunk_text
from normlab.settings import defaults
from normlab.studies.study import load_study

STUDY = load_study("convergence")
CHUNK = {"train_loss": 0.5, "best": 0.97, "alive": 2, "waited": 0.0}
RUNS = {name: defaults() | {"seed": seed} for seed, name in enumerate("ab")}


class Clock:
    """Time that passes when a test says so, instead of the module `time`."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def make_display(is_live: bool = False, **serves: Any) -> Display:
    display = Display(lambda: "1 of about 4 runs", serves)
    display.is_live = is_live
    return display


def worker_of(runs: dict[str, Any]) -> Any:
    return SimpleNamespace(number=0, population=PlannedPopulation(runs))


def test_a_log_has_a_line_now_and_then_that_names_study_and_question(clock, capsys):
    """One line at once, then one in LOG_S seconds, whatever the number of chunks."""
    display, worker = make_display(a=STUDY, b=STUDY), worker_of(RUNS)
    display.show(worker, "given", {})
    for step in range(1, 101):
        clock.now += 1
        display.show(worker, "chunk", {"step": step, **CHUNK})
    worker.population = None  # as the supervisor has it by then
    clock.now += LOG_S
    display.show(worker, "done", {"ids": ["a", "b"], "busy": []})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 100 // LOG_S
    for line in lines:
        assert f"] convergence ({STUDY.question}): digits mlp batch, batch 64, 2 runs: " in line
    assert lines[0].endswith(": begins") and lines[-1].endswith(": done")
    assert lines[1].endswith(": step 20/300, best 97.0 %")
    assert all(line.startswith("[1 of about 4 runs] ") for line in lines)


def test_the_wait_for_images_is_shown_where_there_is_one():
    population = worker_of(RUNS).population
    for waited, end in ((0.04, "best 97.0 %"), (2.34, "best 97.0 %, waited 2.3 s for images")):
        text = chunk_text(population, {"step": 20, **CHUNK, "waited": waited})
        assert text == f"step 20/300, {end}"


def test_a_terminal_has_one_line_that_fits(clock, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    display, worker = make_display(is_live=True, a=STUDY), worker_of(RUNS)
    for step in (10, 20):
        clock.now += 1
        display.show(worker, "given" if step == 10 else "chunk", {"step": step, **CHUNK})
    display.close()
    out = capsys.readouterr().out
    assert "\n" not in out and out.endswith("\r\033[K")
    shown = [text for text in out.split("\r\033[K") if text]
    assert len(shown) == 2 and all(len(text) == 59 for text in shown)
    assert STUDY.question[:10] not in out


def test_what_happens_to_a_population_is_never_left_out(clock, capsys):
    display, worker = make_display(), worker_of(RUNS)
    display.show(worker, "given", {})
    for event, words in (("resumed", "continued from step 7"), ("saved", "saved at step 7")):
        display.show(worker, event, {"step": 7})
        assert words in capsys.readouterr().out
