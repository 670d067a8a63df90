"""A results directory that is whole, and the files, names and texts that are planted against it."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from made_up_runs import PROVENANCE

from normlab.data.outside import OutsideData, read_row
from normlab.data.table import DATASETS
from normlab.launch import sweep
from normlab.norms.outside import OutsideNorm
from normlab.norms.table import NORMS
from normlab.runs import files
from normlab.runs.checkpoints import PopulationFolder, population_id
from normlab.runs.config import config_sha256, run_id
from normlab.runs.provenance import host_facts
from normlab.runs.store import Store
from normlab.settings import Config
from normlab.studies.effects import Claim, error_difference
from normlab.studies.protocols import Tuning
from normlab.studies.setup import Arm, Setup
from normlab.studies.study import Figure, Study

NASTY = (
    "<script>alert(1)</script> \"'><img src=x onerror=alert(1)> [x](javascript:alert(1)) |x| `x` "
    "\\input{/etc/x} $x$ ^^5cinput %x _x {{7*7}} {%x%} --> ]]> &lt;script&gt; \u202e"
)
FORMULAS = ('=HYPERLINK("x")', "+1+cmd|'x'!A0", "-2+3+cmd|'x'!A0", "@SUM(1)", "\t=1", "\r=1")
ODD: tuple[Any, ...] = (None, "<script>", -1, True, math.nan, 10**400, [], {}, [[1]], {"a": {}})
DEEP = "[" * 100_000 + "]" * 100_000


def made_up(config: Config) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Return a complete result and the curve of a run that was never trained."""
    facts = {"config_sha256": config_sha256(config), "seed": config["seed"]}
    splits = itertools.product(("", "running_"), ("validation", "test"), ("loss", "accuracy"))
    final = {f"{mode}{split}_{what}": 0.95 for mode, split, what in splits}
    row = {"train_loss": 0.5, "loss": 0.5, "running_loss": 0.5}
    points = ((10, 0.5), (20, 0.95))
    curve = [row | {"step": s, "accuracy": a, "running_accuracy": a} for s, a in points]
    result = {"config": config, "status": "trained", "diverged_at": None, "skipped_steps": 0}
    provenance = PROVENANCE | host_facts() | facts
    return result | {"final": final, "seconds": 0.5, "provenance": provenance}, curve


def planted_study(text: str) -> Study:
    """Return a study that has `text` wherever it has a text."""
    names = {"none": f"none {text}", "batch": f"{FORMULAS[0]} batch", "planted": "planted"}
    arms = tuple(Arm(name, {"norm.name": n}, n != "planted") for n, name in names.items())
    setup = Setup(
        name="tiny",
        title=text,
        base="digits_mlp",
        arms=arms,
        protocol=Tuning((-1.0,), 0.5, "steps", seeds=(1000,), extensions=0),
        settings={"data.name": "synthetic", "model.widths": (16,), "train.steps": 20},
        seeds=2,
        grows=False,
        screening_seeds=1,
    )

    effect = error_difference(arms[0].name, arms[1].name, text)
    claims = tuple(
        Claim(f, text, "tiny", effect, sesoi=1.0, looks=(2,), scope=text) for f in FORMULAS
    )
    kinds = ("title", "question", "fair_test", "source", "expect", "refuted_if", "cost", "variant")
    texts: dict[str, Any] = dict.fromkeys(kinds, text)
    figures = (Figure("curves", "tiny", text),)
    return Study("planted", setups={"quick": (setup,)}, claims=claims, figures=figures, **texts)


class Target:
    """Results with finished runs, a population that stopped, a study, a norm and data from outside.

    A folder outside of them must stay unchanged. Planted code would make the canary."""

    def __init__(self, folder: Path):
        self.folder, self.root, self.good = folder, folder / "results", folder.parent / "good"
        self.outside, self.canary = folder / "outside", folder / "canary"
        self.study = replace(planted_study("x"), variant="", figures=())
        self.code = f"__import__('pathlib').Path({str(self.canary)!r}).touch()"
        digest = hashlib.sha256(self.code.encode()).hexdigest()
        about: dict[str, Any] = {"title": NASTY, "family": NASTY, "file": f"{NASTY}.py"}
        about |= {"module": "normlab.norms.sample:SampleNorm", "code": self.code}
        self.row, self.norm = OutsideNorm(over=("C",), sha256=digest, **about), f"norms/{digest}.py"
        NORMS["planted"] = self.row
        self.data = self._data_set()
        store = Store(self.good).open()
        job = sweep.Job([self.study], "quick", store)
        job.write_rules()
        while missing := job.missing():
            for name, config in missing.items():
                store.run_dir(name).mkdir()
                store.finish(name, *made_up(config))
        self.run = min(job.required())
        self.config = job.required()[self.run].config
        self.left = {run_id(c): c for c in (self.config | {"seed": seed} for seed in (77, 78))}
        self.population = population_id(self.left)
        population = PopulationFolder(store, self.population)
        population.form(self.left, {})
        population.save(20, {"x": np.zeros(3)}, {"runs": self.left})
        files.write_json(store.root / "steptimes.json", {"A processor": {"x": 1.0}})
        at = f"populations/{self.population}"
        self.places = [f"runs/{self.run}/result.json", f"runs/{self.run}/curve.jsonl"]
        self.places += [f"{at}/manifest.json", f"{at}/checkpoint-0000000020.json"]
        self.places += [f"{at}/checkpoint-0000000020.safetensors", "norms/planted.json"]
        self.places += ["steptimes.json", "studies/planted-quick.json"]
        self.places += ["data/planted.json", "data/planted.npz"]

    def _data_set(self) -> OutsideData:
        """Return a data set of one file, in the table as `planted`."""
        self.folder.parent.mkdir(exist_ok=True)
        file = self.folder.parent / "planted.npz"
        np.savez(file, x=np.arange(40.0).reshape(20, 2), y=np.arange(20) % 2)
        row = replace(read_row(str(file)), title=NASTY, file=NASTY)
        DATASETS["planted"] = row
        return row

    def renew(self) -> Store:
        """Make everything as it was at first."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.good, self.root)
        self.outside.mkdir()
        (self.outside / "file").write_text("mine")
        NORMS.pop("planted", None)
        DATASETS.pop("planted", None)
        return Store(self.root)

    def escaped(self) -> list[str]:
        """Return what outside of the results is not as it should be."""
        kept = {self.outside, self.outside / "file", self.canary}
        paths = [p for p in self.folder.rglob("*") if self.root not in (p, *p.parents)]
        found = [f"outside: {p.relative_to(self.folder)} was made" for p in {*paths} - kept]
        is_same = (self.outside / "file").read_bytes() == b"mine"
        found += [] if is_same else ["outside: file was changed"]
        return [*found, "a canary was made"] if self.canary.exists() else found

    def payloads(self) -> dict[str, bytes]:
        """Return files of other kinds; a reader of pickle or npy would run code."""
        pickled = f"cbuiltins\nexec\n(V{self.code}\ntR.".encode()
        head = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
        shape = json.dumps({"x": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 4]}})
        return {
            "pickle": pickled,
            "npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + pickled,
            "deep": DEEP.encode() + b"\n",
            "not text": b"\xff\xfe\x00" * 99,
            "nothing": b"",
            "header": struct.pack("<Q", 2**63 - 1) + b"{}",
            "shape": struct.pack("<Q", len(shape)) + shape.encode() + b"\0" * 4,
        }

    def plants(self) -> dict[str, tuple[str, bytes]]:
        """Return label -> (place, content) of all that is planted; forged JSON is sealed, as by
        somebody who knows how checksums are made."""
        found = {f"{p}: {k}": (p, v) for p in self.places for k, v in self.payloads().items()}
        for place in [p for p in self.places if p.endswith(".json")]:
            value = files.read_json(self.good / place)
            for path, odd in itertools.product(list(leaves(value)), ODD):
                forged = json.dumps(put(value, path, odd), indent=1)
                found[f"{place}: {'.'.join(path)} = {str(odd)[:20]}"] = place, sealed(forged)
        for odd in ODD:
            row = {"step": 10, "accuracy": odd, "train_loss": 1.0}
            content = json.dumps(row).encode() + b"\n"
            found[f"{self.places[1]}: accuracy = {str(odd)[:20]}"] = self.places[1], content
        return found

    def plant(self, place: str, content: bytes) -> None:
        """Write a file, and into its owner the sha256 that it has now."""
        path = self.root / place
        path.write_bytes(content)
        owner, key = path.with_suffix(".json"), "arrays_sha256"
        if path.suffix == ".jsonl":
            owner, key = path.with_name("result.json"), "curve_sha256"
        if path.suffix not in (".json", ".npz"):
            digest = hashlib.sha256(content).hexdigest()
            files.write_json(owner, files.read_json(owner) | {key: digest})


def sealed(body: str) -> bytes:
    """Return a JSON object with the checksum of runs/files.py."""
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f'{body[:-2]},\n "sha256": "{digest}"\n}}\n'.encode()


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every value of nested objects, and of the objects."""
    if path:
        yield path
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from leaves(inner, (*path, key))


def put(value: dict[str, Any], path: tuple[str, ...], odd: Any) -> dict[str, Any]:
    """Return nested objects with another value at `path`."""
    inner = put(value[path[0]], path[1:], odd) if path[1:] else odd
    return value | {path[0]: inner}
