"""How a run is executed: no part of its identity."""

from __future__ import annotations

from normlab.settings.row import Setting

HOST: dict[str, Setting] = {
    "host.mode": Setting(
        "auto",
        "execution",
        "members one after another (map: bit-equal in every population) or at once (vmap)",
        choices=("auto", "map", "vmap"),
    ),
    "host.mesh": Setting(
        "auto",
        "execution",
        "what several devices of a process divide: members (auto), examples of a batch, or nothing",
        choices=("auto", "none", "members", "batch"),
    ),
    "host.width": Setting(32, "execution", "members of one population", "runs", low=1, high=4096),
    "host.chunk": Setting(
        100, "execution", "steps of a population between two returns to the host", "steps", low=1
    ),
    "host.time_limit": Setting(
        1800.0,
        "execution",
        "time without progress of a population after which its worker is killed",
        "seconds",
        low=0,
        is_open=True,
    ),
    "host.conv": Setting(
        "auto",
        "execution",
        "form of the convolutions: cpu, lax (accelerators) or patches (members at once on a CPU)",
        choices=("auto", "cpu", "lax", "patches"),
    ),
    "host.keep_params": Setting(
        False,
        "execution",
        "keep the parameters and statistics after the last step, as params.safetensors in the "
        "folder of the run; of a study, those of runs that report",
    ),
    "host.processes": Setting(
        0,
        "execution",
        "worker processes; 0: one for each accelerator, or for each core if there is none",
        low=0,
        high=256,
    ),
}
