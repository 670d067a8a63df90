"""Networks from outside the repository: the rows of an external file join the table.

The file is Python with `MODELS = {"my_net": Model(...)}` and the Linen classes that its rows name;
docs/your_own_network.md shows one. What its norms receive is found by a trace, see trace.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from normlab.layers.table import find_kernel
from normlab.models.row import Model, Shape, no_fields, no_shapes
from normlab.models.table import MODELS
from normlab.norms.table import find_norm
from normlab.outside import OutsideRow, add_rows, rows_of
from normlab.settings import SETTINGS, Config

TAKEN = ("images", "features", "sequences")
FIELDS = ("layers", "classes")
"""What every network gets."""
FIELDS_OF_TIME = ("time", "is_masked", "least")
"""What a network with time gets too, the last one with the option `cell`."""


@dataclass(frozen=True)
class OutsideModel(OutsideRow, Model):
    """A row of an external file, and that file."""

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> OutsideModel:
        row = super().from_facts(facts)
        if not set(row.kinds) <= set(TAKEN):
            raise ValueError("its kinds are not known")
        return row


def outside_models() -> dict[str, OutsideModel]:
    """Return the rows of the table that came from outside and can train."""
    known: dict[str, Any] = {n: row for n, row in MODELS.items() if getattr(row, "code", "")}
    return known


def add_models(files: Sequence[str], sha256: Sequence[str] = ()) -> list[str]:
    """Add the rows of all `files` to the table, or none of them; return their names.

    `sha256`: what the files must hash to, or they are not run. Raises ValueError, one line.
    """
    return add_rows("model", MODELS, files, sha256, read_models, _check)


def read_models(file: str, sha256: str = "") -> dict[str, OutsideModel]:
    """Return the rows of one file, not yet in the table; raises ValueError."""
    found, own = rows_of("model", file, Model, sha256)
    rows: dict[str, OutsideModel] = {}
    for name, given in found.items():
        row = OutsideModel(**vars(given) | vars(own))
        if row.fields is no_fields:
            row = replace(row, fields=partial(_fields, row))
        if row.shapes is no_shapes:
            row = replace(row, shapes=partial(_shapes, name))
        rows[name] = row
    return rows


def _fields(row: Model, config: Config) -> dict[str, Any]:
    """The options that are fields of the module, and with time what its norms ask for."""
    fields = getattr(row.module, "__dataclass_fields__", {})
    given = {option: config[f"model.{option}"] for option in row.options}
    if row.has_time:
        norm = find_norm(config["norm.name"])
        given["time"] = "sequence" if norm.is_per_sample else config["norm.time"]
        given["is_masked"] = config["norm.masked"] and bool(norm.over)
        given["least"] = config["norm.least"]
    return {name: value for name, value in given.items() if name in fields}


def _check(name: str, row: OutsideModel) -> None:
    """Raise ValueError where no configuration could build a row."""
    where = f"model file {row.file!r}: {name!r}"
    fields = getattr(row.module, "__dataclass_fields__", None)
    if fields is None or not callable(getattr(row.module, "apply", None)):
        raise ValueError(f"{where}: module = {row.module!r} is no class of flax.linen.Module")
    of_time = FIELDS_OF_TIME[: 3 if "cell" in row.options else 2] if row.has_time else ()
    for field in FIELDS + of_time:
        if field not in fields:
            owner = "every network with time" if field in of_time else "every network"
            raise ValueError(f"{where}: its module has no field {field!r}, which {owner} has")
    for option in row.options:
        if f"model.{option}" not in SETTINGS or option == "name":
            known = [n.removeprefix("model.") for n in SETTINGS if n.startswith("model.")]
            known = ", ".join(n for n in known if n != "name")
            raise ValueError(f"{where}: there is no option {option!r} (options: {known})")
    acts = SETTINGS["model.act"].choices
    if row.act and row.act not in acts:
        raise ValueError(f"{where}: act = {row.act!r} is not one of {', '.join(acts)}")
    taken = {k for k in TAKEN if k == "images" or (k == "sequences") == row.has_time}
    if not row.kinds or not set(row.kinds) <= taken:
        raise ValueError(
            f"{where}: kinds = {row.kinds!r}, has_time = {row.has_time!r}; a network from a file "
            "takes images or features, and with has_time=True images or sequences"
        )
    if row.has_time and row.is_convolutional:
        raise ValueError(f"{where}: a sequence has no shape [H, W, C]; add is_convolutional=False")
    if row.is_convolutional and "features" in row.kinds:
        raise ValueError(f"{where}: features have no shape [H, W, C]; add is_convolutional=False")


def _shapes(name: str, config: Config, image: Shape) -> list[Shape]:
    """What each norm receives. Raises ValueError where the network cannot be built on `image`, or
    breaks what every network promises."""
    from normlab.models.trace import traced

    return list(traced(name, config, image).shapes)


def check_network(config: Config, image: Shape) -> None:
    """Raise ValueError where a network from outside cannot do what a configuration asks of it."""
    name = config["model.name"]
    if name not in outside_models():
        return
    from normlab.models.trace import traced

    trace = traced(name, config, image)
    if config["init.gain"] != 1 and not trace.has_head:
        raise ValueError(
            f"init.gain = {config['init.gain']} is that of all kernels but the head's, and "
            f"{name!r} has no layer of this name; name it 'head', or use init.gain=1"
        )
    if find_norm(config["norm.name"]).act and not trace.has_act:
        raise ValueError(
            f"norm.name = {config['norm.name']!r} replaces the activation after it, and {name!r} "
            "has one of its own; call layers.act in the network, or use another norm"
        )
    for setting, is_set in (
        ("norm.kernel", bool(find_kernel(config["norm.kernel"]).module)),
        ("eval.probes", bool(config["eval.probes"])),
    ):
        if is_set and trace.has_own_kernels:
            raise ValueError(
                f"{setting} = {config[setting]!r} is about layers.conv and layers.dense, and "
                f"{name!r} has kernels of its own; use these layers, or leave {setting} out"
            )
