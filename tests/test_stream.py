"""Images that come chunk by chunk give the bits of images that are all on the device."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest
from small_runs import small
from workspace import (
    LONG,
    needs_proc,
    run_script,
    start_script,
    wait_for_checkpoint,
    workers_of,
)

from normlab import data
from normlab.runs.config import resolve, run_id
from normlab.settings import SETTINGS, Config
from normlab.training.population import Population
from normlab.training.snapshot import Snapshot, arrays_of

RUN = {"model.widths": (8, 8), "norm.name": "batch", "host.chunk": 7, "host.width": 2}
ALONE = RUN | {"eval.batch": 20}
CASES: dict[str, Config] = {
    "two members": RUN,
    "members at once": RUN | {"host.mode": "vmap"},
    "one piece": RUN | {"eval.batch": 200},
    "its own batches, augmented, later smaller": RUN
    | {"model.name": "cnn", "model.widths": (4,), "data.augment": "crop_flip"}
    | {"eval.batch_statistics": True, "train.late_batch": 6, "train.late_from": 9},
    "diagnostics, noisy labels": RUN
    | {"eval.probes": "moments+drift", "data.label_noise": 0.2, "eval.train_examples": 2000},
    "an end at a loss": RUN | {"train.stop_at_loss": 2.2, "eval.train_examples": 50},
    "an end at an accuracy": RUN | {"train.stop_at": 0.15, "train.eval_every": 4, "host.chunk": 5},
    "an end that is not finite": RUN | {"optim.lr": 1e38},
    "longer sequences": {"model.name": "rnn", "model.widths": (6,), "norm.name": "layer"}
    | {"data.length": 6, "eval.long": 2, "host.chunk": 7},
}


def members(case: Config, stream: str) -> list[Config]:
    common = small(case | {"data.stream": stream})
    return [common | {"seed": s, "optim.lr": common["optim.lr"] * (1 + s)} for s in (0, 1)]


def of(case: Config, dataset: data.Dataset) -> data.Dataset:
    is_sequence = case.get("model.name") == "rnn"
    return data.as_sequences(dataset, 6, longer=2) if is_sequence else dataset


def trained(case: Config, stream: str, dataset: data.Dataset, resumed: Snapshot | None = None):
    """The population, all that it leaves behind, and its snapshots."""
    population, kept = Population(members(case, stream), of(case, dataset)), []
    states = population.train(lambda progress: kept.append(progress.snapshot()), resumed)
    return population, arrays_of(states, 2)[0], kept


def assert_equal_bits(one: Any, two: Any) -> None:
    assert repr(one[0].outcomes) == repr(two[0].outcomes)  # NaN equals NaN
    assert {n: a.tobytes() for n, a in one[1].items()} == {
        n: a.tobytes() for n, a in two[1].items()
    }


@pytest.fixture(scope="module")
def dataset() -> data.Dataset:
    return data.load("synthetic")


@pytest.mark.parametrize("name", CASES)
def test_a_stream_gives_the_bits_of_images_on_the_device(name, dataset):
    """To the end, and from each of its snapshots."""
    resident = trained(CASES[name], "off", dataset)
    streamed = trained(CASES[name], "on", dataset)
    assert resident[0].stream is None and streamed[0].stream is not None
    assert_equal_bits(streamed, resident)
    for snapshot in streamed[2][:-1]:
        assert_equal_bits(trained(CASES[name], "on", dataset, snapshot), resident)


def test_the_setting_changes_neither_the_run_nor_its_program(dataset):
    ids = {
        run_id(resolve({"data.stream": s}, needs_data=False).config)
        for s in SETTINGS["data.stream"].choices
    }
    assert ids == {run_id(resolve({}, needs_data=False).config)}
    programs = [Population(members(RUN, s), dataset).program for s in ("on", "off")]
    assert programs[0] is programs[1]


class Slow:
    """Images that are no array: they note who reads how many of them, and take their time."""

    def __init__(self, images: np.ndarray, seconds: float = 0.0):
        self.images, self.seconds, self.read = images, seconds, []
        self.shape, self.dtype, self.nbytes = images.shape, images.dtype, images.nbytes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        self.read.append((threading.current_thread().name, len(rows)))
        time.sleep(self.seconds)
        return self.images[rows]


def test_a_thread_reads_what_a_chunk_needs_and_no_more(dataset):
    source = Slow(dataset.images)
    config, lazy = members(ALONE, "auto")[0], dataclasses.replace(dataset, images=source)
    population, snapshots = Population([config], lazy), []
    assert population.stream is not None and population.chunk == 7
    # Of 3,000: 130 + 64 + 64 of every evaluation, then 7 steps of 32.
    assert population.stream.like.shape == (258 + 7 * 32, 64)
    population.train(lambda progress: snapshots.append(progress.snapshot()))
    # Three chunks; 370 and 500 examples that are scored once, in 8 pieces of 6 batches of 20.
    counts = [count for _, count in source.read]
    assert len(counts) == 1 + 3 + 8 and counts[0] == 258 and max(counts[1:]) <= 7 * 32
    assert {name for name, _ in source.read[1:]} == {"images_0"}
    source.read.clear()
    Population([config], lazy).train(lambda progress: None, snapshots[1])  # of step 14
    assert [count for _, count in source.read] == [counts[0], *counts[3:]]


def test_the_next_chunk_is_read_while_one_trains(dataset):
    source = Slow(dataset.images)
    lazy = dataclasses.replace(dataset, images=source)
    stream = Population([members(ALONE, "on")[0]], lazy).stream
    assert stream is not None
    _, images = stream.take(0)
    seen = np.array(images)
    for _ in range(100):
        if len(source.read) == 3:  # without being asked for: the first, then the second chunk
            break
        time.sleep(0.05)
    assert len(source.read) == 3 and np.array_equal(images, seen)
    buffers = []
    for place in (7, 14):  # what a device may still see is not written over
        buffers.append(stream.ahead[1].result()[1] if stream.ahead else None)
        stream.take(place)
    assert buffers[0] is not None and buffers[1] is not None and buffers[0] is not buffers[1]


def test_a_chunk_is_shorter_where_it_would_need_too_many_images(dataset):
    """At most an eighth of all examples; members of one seed need the same ones."""
    configs = [members(RUN, "on")[0] | {"seed": seed} for seed in (0, 1, 1)]
    for chosen, chunk in ((configs[:1], 7), (configs[:2], 5), (configs[1:], 7), (configs, 5)):
        assert Population(chosen, dataset).chunk == chunk


def test_the_wait_for_images_is_measured(dataset):
    """Every read takes longer than the training between two of them."""
    found = {}
    for seconds in (0.0, 0.1):
        source = Slow(dataset.images, seconds)
        lazy = dataclasses.replace(dataset, images=source)
        population = Population([members(ALONE, "on")[0]], lazy)
        waits: list[float] = []
        population.train(lambda progress, waits=waits: waits.append(progress.waited))
        found[seconds] = waits[-1]
        assert population.stream is not None
        facts = population.stream.facts()
        assert facts["data_buffer_mb"] == pytest.approx(482 * 64 / 1e6, abs=1e-3)
        assert facts["data_wait_seconds"] == pytest.approx(waits[-1], abs=1e-3)
    reads = 11  # of 3 chunks and 8 pieces
    assert 0 < found[0.0] < 0.3 < 0.5 * reads * 0.1 < found[0.1] < reads * 0.1 + 0.5


def test_a_read_that_fails_ends_the_run(dataset):
    class Broken(Slow):
        def __getitem__(self, rows):
            if len(self.read) == 3:
                raise OSError("gone")
            return super().__getitem__(rows)

    with pytest.raises(OSError, match="gone"):
        trained(RUN, "on", dataclasses.replace(dataset, images=Broken(dataset.images)))


@needs_proc
def test_a_killed_run_continues_in_the_middle_of_its_stream(tmp_path):
    """Killed with its worker. The bits are those of a run whose images are on the device."""
    flags = ["--config=configs/digits_mlp.py", "--config.data.name=synthetic"]
    flags += [f"--config.train.steps={LONG}", "--config.host.width=1", "--config.norm.name=batch"]
    flags += ["--config.train.checkpoint_seconds=0.1", "--config.data.batch=8"]
    results = {}
    for stream in ("on", "off"):
        command = [*flags, f"--config.data.stream={stream}", f"--results={tmp_path / stream}"]
        if stream == "on":
            process = start_script("train", *command)
            wait_for_checkpoint(tmp_path / stream, process)
            workers = workers_of(process)
            for pid in (process.pid, *workers):
                os.kill(pid, signal.SIGKILL)
            process.communicate()
        done = run_script("train", *command)
        assert done.returncode == 0, done.stderr
        assert ("continued from step" in done.stdout) == (stream == "on")
        assert ("MB of images at a time, waited" in done.stdout) == (stream == "on")
        (file,) = (tmp_path / stream).glob("runs/*/result.json")
        results[stream] = json.loads(file.read_text())
    on, off = results["on"], results["off"]
    assert on["provenance"]["bit_exact"] and on["provenance"]["data_wait_seconds"] >= 0
    for part in ("final", "curve_sha256", "status"):
        assert on[part] == off[part]
