"""What malice plants: a results directory that is whole, and files, names and texts against it.

`Ground` is that directory with what must not change beside it; code that is planted makes a canary.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from normlab.launch import sweep
from normlab.norms.outside import OutsideNorm
from normlab.norms.table import NORMS
from normlab.runs import files
from normlab.runs.checkpoints import PopulationFolder, population_id
from normlab.runs.config import config_sha256, run_id
from normlab.runs.provenance import SCHEMA, host_facts, timing_place
from normlab.runs.store import Store
from normlab.settings import Config
from normlab.studies.decisions import Contrast
from normlab.studies.hypothesis_tests import PAIRED_T
from normlab.studies.metrics import error_points
from normlab.studies.study import Arm, Figure, Setup, Study, Tuning
from normlab.studies.units import POINTS

NASTY = (
    "<script>alert(1)</script> \"'><img src=x onerror=alert(1)> [x](javascript:alert(1)) |x| `x` "
    "\\input{/etc/x} $x$ ^^5cinput %x _x {{7*7}} {%x%} --> ]]> &lt;script&gt; \u202e"
)
FORMULAS = ('=HYPERLINK("x")', "+1+cmd|'x'!A0", "-2+3+cmd|'x'!A0", "@SUM(1)", "\t=1", "\r=1")
FORMULAS += ("[1cm]", "*")
BAD_NAMES = ("", ".", "..", "../x", "/etc/x", "a/../../x", "a/b", "a\0b", "a\nb", "a\n", "x" * 300)
BAD_NAMES += (".x", "a\\b", "a b", "é", "~", "$(x)", "a;b")
ODD: tuple[Any, ...] = (None, "<script>", "=1+1", -1, True, math.nan, math.inf, 10**400)
ODD += ([], {}, [[1]], {"a": {"b": 1}}, "\\input{x}")
DEEP = "[" * 100_000 + "]" * 100_000
CODE = "__import__('pathlib').Path({!r}).touch()"
"""What must never run: it makes the canary."""


def made_up(config: Config) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Return a complete result and the curve of a run that was never trained."""
    made: dict[type, Any] = {str: "x", dict: {}, list: [], bool: True, int: 1}
    facts = {n: next(made[kind] for kind in made if kind in kinds) for n, kinds in SCHEMA.items()}
    facts |= host_facts() | {"config_sha256": config_sha256(config), "seed": config["seed"]}
    splits = itertools.product(("", "running_"), ("validation", "test"), ("loss", "accuracy"))
    final = {f"{mode}{split}_{what}": 0.95 for mode, split, what in splits}
    row = {"train_loss": 0.5, "loss": 0.5, "running_loss": 0.5}
    points = ((10, 0.5), (20, 0.95))
    curve = [row | {"step": s, "accuracy": a, "running_accuracy": a} for s, a in points]
    result = {"config": config, "status": "trained", "diverged_at": None, "skipped_steps": 0}
    return result | {"final": final, "seconds": 0.5, "provenance": facts}, curve


def planted_study(text: str) -> Study:
    """Return a study that says `text` wherever it can say something."""
    names = {"none": f"none {text}", "batch": f"{FORMULAS[0]} batch", "planted": "planted"}
    arms = tuple(Arm(told, {"norm.name": n}, n != "planted") for n, told in names.items())
    setup = Setup(
        name="tiny",
        title=text,
        base="digits_mlp",
        arms=arms,
        protocol=Tuning((-1.0,), 0.5, "steps", seeds=(1000,), extensions=0),
        settings={"data.name": "synthetic", "model.widths": (16,), "train.steps": 20},
        seeds=2,
        screening_seeds=1,
    )

    def claims(evidence: Mapping[str, Any], profile: str) -> list[Contrast]:
        one, two = (evidence["tiny"].runs_of(arm.name) for arm in arms[:2])
        effects = {s: error_points(one[s]) - error_points(two[s]) for s in one if s in two}
        told: dict[str, Any] = dict.fromkeys(("claim", "sentence", "contrast", "scope"), text)
        told |= {"effects": effects, "unit": POINTS, "sesoi": 1.0, "n": 2, "test": PAIRED_T}
        return [Contrast(id=formula, setup="tiny", **told) for formula in FORMULAS]

    said = ("title", "question", "fair_test", "source", "expect", "refuted_if", "cost", "variant")
    texts: dict[str, Any] = dict.fromkeys(said, text)
    figures = (Figure("curves", "tiny", text),)
    return Study("planted", setups={"quick": (setup,)}, claims=claims, figures=figures, **texts)


class Ground:
    """Results with finished runs, a population that stopped, a norm from outside and a study that
    was started; beside them a folder that must stay as it is, and where a canary would stand."""

    def __init__(self, folder: Path):
        self.folder, self.root, self.good = folder, folder / "results", folder.parent / "good"
        self.outside, self.canary = folder / "outside", folder / "canary"
        self.study = replace(planted_study("x"), variant="", figures=())
        self.code = CODE.format(str(self.canary))
        self.sha256 = hashlib.sha256(self.code.encode()).hexdigest()
        about: dict[str, Any] = {"title": NASTY, "family": NASTY, "file": f"{NASTY}.py"}
        about |= {"module": "normlab.norms.sample:SampleNorm", "code": self.code}
        self.row = OutsideNorm(over=("C",), sha256=self.sha256, **about)
        self.norm = f"norms/{self.sha256}.py"
        NORMS["planted"] = self.row
        store = Store(self.good).open()
        job = sweep.Job([self.study], "quick", store)
        job.write_rules()
        while missing := job.missing():
            for name, config in missing.items():
                store.run_dir(name).mkdir()
                store.finish(name, *made_up(config))
        self.run = min(job.wanted())
        self.config = job.wanted()[self.run].config
        self.left = {run_id(c): c for c in (self.config | {"seed": seed} for seed in (77, 78))}
        place = PopulationFolder(store, population_id(self.left))
        place.form(self.left, {})
        for step in (10, 20):
            place.save(step, {"x": np.zeros(3)}, {"runs": self.left})
        files.write_json(store.root / "steptimes.json", {timing_place(host_facts()): {"x": 1.0}})
        newest = f"populations/{place.name}/checkpoint-0000000020"
        self.places = [f"runs/{self.run}/{name}" for name in ("result.json", "curve.jsonl")]
        self.places += [f"populations/{place.name}/manifest.json", f"{newest}.json"]
        self.places += [f"{newest}.safetensors", "norms/planted.json", "steptimes.json"]
        self.places += ["studies/planted-quick.json"]
        self.population = place.name

    def renew(self) -> Store:
        """Make everything as it was at first."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.good, self.root)
        self.outside.mkdir()
        (self.outside / "file").write_text("mine")
        NORMS.pop("planted", None)
        return Store(self.root)

    def escaped(self) -> list[str]:
        """Return what stands beside the results that should not, or not so."""
        kept = {self.outside, self.outside / "file", self.canary}
        places = [p for p in self.folder.rglob("*") if self.root not in (p, *p.parents)]
        told = [f"outside: {p.relative_to(self.folder)} was made" for p in {*places} - kept]
        is_same = (self.outside / "file").read_bytes() == b"mine"
        told += [] if is_same else ["outside: file was changed"]
        return [*told, "a canary was made"] if self.canary.exists() else told

    def payloads(self) -> dict[str, bytes]:
        """Return files of other kinds, some of which run code where their own reader reads them."""
        pickled = f"cbuiltins\nexec\n(V{self.code}\ntR.".encode()
        head = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
        code = f"!!python/object/apply:exec [{json.dumps(self.code)}]"
        return {
            "pickle": pickled,
            "npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + pickled,
            "yaml": code.encode(),
            "deep": DEEP.encode(),
            "deep line": DEEP.encode() + b"\n",
            "not text": b"\xff\xfe\x00" * 99,
            "nothing": b"",
            "number": b"1e999\n",
            "header": struct.pack("<Q", 2**63 - 1) + b"{}",
            "short header": struct.pack("<Q", 99) + b"{}",
            "array": safetensors({"x": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}),
            "shape": safetensors({"x": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 4]}}),
        }

    def plants(self) -> dict[str, tuple[str, bytes]]:
        """Return label -> (place, content) of all that is planted; some of it is sealed, as by
        somebody who knows how checksums are made."""
        found = {f"{p}: {k}": (p, v) for p in self.places for k, v in self.payloads().items()}
        for place in [p for p in self.places if p.endswith(".json")]:
            value = files.read_json(self.good / place)
            for path, odd in itertools.product(list(leaves(value)), ODD):
                forged = json.dumps(put(value, path, odd), indent=1)
                found[f"{place}: {'.'.join(path)} = {str(odd)[:20]}"] = place, sealed(forged)
            for key in value:
                deep = json.dumps(value, indent=1)[:-2] + f',\n "{key}": {DEEP}\n}}'
                found[f"{place}: deep {key}"] = place, sealed(deep)
        for odd in ODD:
            row = {"step": 10, "accuracy": odd, "train_loss": 1.0}
            for told, line in {"row": odd, "accuracy": row, "step": row | {"step": odd}}.items():
                label = f"{self.places[1]}: {told} = {str(odd)[:20]}"
                found[label] = self.places[1], json.dumps(line).encode() + b"\n"
        return found

    def plant(self, place: str, content: bytes) -> None:
        """Write a file, and into its owner the sha256 that it has now."""
        path = self.root / place
        path.write_bytes(content)
        owner, key = path.with_suffix(".json"), "arrays_sha256"
        if path.suffix == ".jsonl":
            owner, key = path.with_name("result.json"), "curve_sha256"
        if path.suffix != ".json":
            digest = hashlib.sha256(content).hexdigest()
            files.write_json(owner, files.read_json(owner) | {key: digest})


def safetensors(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * 4


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
