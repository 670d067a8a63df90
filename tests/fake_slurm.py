"""Commands like those of Slurm: jobs are processes of this machine, noted in the folder FAKE_SLURM.

jobs/<array>_<place>     its name, its process, and a state that a test gave it
calls                    what was asked: a list of arguments in each line
refuse                   why nothing is submitted, where it is there
hold                     jobs stay pending where it is there
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


def note(root: Path, arguments: list[str], text: str) -> None:
    with open(root / "calls", "a", encoding="utf-8") as file:
        file.write(json.dumps([*arguments, text]) + "\n")


def flag(arguments: list[str], name: str) -> str:
    return next(a.partition("=")[2] for a in arguments if a.startswith(f"--{name}="))


def sbatch(root: Path, arguments: list[str]) -> None:
    text = sys.stdin.read()
    note(root, ["sbatch", *arguments], text)
    if (root / "refuse").exists():
        sys.exit(f"sbatch: error: {(root / 'refuse').read_text()}")
    if "--test-only" in arguments:
        return
    array = len(list((root / "jobs").glob("*_0"))) + 1
    for place in range(int(flag(arguments, "array").partition("%")[0].split("-")[1]) + 1):
        job = {"name": flag(arguments, "job-name"), "place": place, "pid": 0, "state": ""}
        if not (root / "hold").exists():
            log = flag(arguments, "output").replace("%a", str(place)).replace("%%", "%")
            script = root / f"{array}_{place}.sh"
            script.write_text(text)
            with open(log, "ab") as out:
                process = subprocess.Popen(
                    ["bash", str(script)],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                    env=os.environ | {"SLURM_ARRAY_TASK_ID": str(place), "SLURMD_NODENAME": "n1"},
                )
            job["pid"] = process.pid
        (root / "jobs" / f"{array}_{place}").write_text(json.dumps(job))
    print(f"{array};cluster")


def is_running(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def squeue(root: Path, arguments: list[str]) -> None:
    names = arguments[arguments.index("-n") + 1].split(",")
    for path in sorted((root / "jobs").iterdir()):
        job = json.loads(path.read_text())
        running = "RUNNING" if is_running(job["pid"]) else "COMPLETED"
        state = job["state"] or (running if job["pid"] else "PENDING")
        if job["name"] in names and state != "UNKNOWN":
            print(f"{job['name']}|{job['place']}|{path.name}|{state}|NonZeroExitCode")


def scancel(root: Path, arguments: list[str]) -> None:
    note(root, ["scancel", *arguments], "")
    for name in arguments[1:]:
        path = root / "jobs" / name
        job = json.loads(path.read_text()) | {"state": "CANCELLED"}
        path.write_text(json.dumps(job))
        if job["pid"] and is_running(job["pid"]):
            os.killpg(job["pid"], signal.SIGKILL)


def sinfo(root: Path, arguments: list[str]) -> None:
    print("1/2/1/4\n0/1/0/1")


if __name__ == "__main__":
    program = sys.argv[1]
    globals()[program](Path(os.environ["FAKE_SLURM"]), sys.argv[2:])
