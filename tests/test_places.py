"""One worker for each accelerator, else one for each core."""

from __future__ import annotations

import pytest

from normlab.launch import devices as module
from normlab.launch.devices import Device, available_cores, find_devices


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with two GPUs and jax's plugin for them."""
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    monkeypatch.setattr(module, "DEVICES", tmp_path)
    monkeypatch.setattr(
        module.importlib.util, "find_spec", lambda name: name == "jax_cuda12_plugin" or None
    )
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def gpus(*numbers: str) -> list[Device]:
    return [Device(environment={"CUDA_VISIBLE_DEVICES": n}) for n in numbers]


def test_one_worker_for_each_gpu(machine):
    assert find_devices() == gpus("0", "1")
    assert find_devices(3) == gpus("0", "1", "0")


def test_only_visible_gpus_count(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert find_devices() == gpus("1")


def test_a_cpu_that_was_asked_for_is_used(machine, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert find_devices() == [Device(core=core) for core in available_cores()]


def test_gpus_without_a_plugin_are_not_used(machine, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert find_devices() == [Device(core=core) for core in available_cores()]


def test_a_tpu_has_one_worker_that_may_use_any_core(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "DEVICES", tmp_path)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: name == "libtpu" or None)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert find_devices() == [Device()]


def test_more_workers_than_cores_share_them():
    count = len(available_cores())
    assert [p.core for p in find_devices(count + 1)][-1] == available_cores()[0]
