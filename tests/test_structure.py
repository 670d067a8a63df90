"""The rules that the code must keep, read from its syntax trees: imports point down, and more."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from workspace import run_fresh

from normlab import norms
from normlab.norms import NORMS
from normlab.norms.builder import module_of

ROOT = Path(__file__).resolve().parents[1]
LAYERS = {
    "lookup": 0,
    "outside": 0,
    "shipped": 0,
    "version": 0,
    "settings": 1,
    "statistics": 2,
    "layers": 3,
    "norms": 4,
    "models": 5,
    "data": 5,
    "diagnostics": 6,
    "training": 7,
    "runs": 8,
    "testing": 8,
    "studies": 9,
    "launch": 10,
    "report": 11,
    "cli": 11,
    "api": 12,
    "command": 12,
}
"""Room of normlab -> layer; a room imports itself and rooms of lower layers."""
SETTINGS_FOLDERS = ("configs", "experiments", "scripts")
OUTSIDE = ("benchmarks", "tests", *SETTINGS_FOLDERS)
HEAVY = {"jax", "jaxlib", "flax", "optax"}
PACKAGE = sorted((ROOT / "normlab").rglob("*.py"))
FOLDERS = (*SETTINGS_FOLDERS, "benchmarks", "tests/stress")
CODE = PACKAGE + [p for f in FOLDERS for p in sorted((ROOT / f).rglob("*.py"))]
TEXTS = {".py", ".md", ".sh", ".toml", ".txt", ".html", ".css", ".lock", ".yml"}
NO_JAX = ("runs", "studies", "launch", "report", "cli")
"""Rooms that work without jax, so that bad input is refused in a second."""
OFFERED = ("normlab", "normlab.api", "normlab.version")
"""What `import normlab` may offer; it imports `api` when a function of it is first asked for."""
JAX_FREE = ("normlab.training.evaluation_steps.", "normlab.training.version.")
"""What these rooms may import of `training`."""
WORKER = ("worker", "shared_worker", "trainer", "costs", "parcel")
"""The files of `launch` that run in the worker process."""
FILE_LINES, FUNCTION_LINES = 350, 60


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "normlab").with_suffix("").parts[0]


def imports_of(path: Path, hides_types: bool = True) -> Iterator[str]:
    """Dotted names of everything that a file imports, inside functions too; `from a import b`
    counts as a.b, and names that are only checked for types are left out."""
    tree = tree_of(path)
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if hides_types and id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def docstrings_of(tree: ast.Module) -> set[int]:
    """Ids of the string constants that stand alone as a statement."""
    return {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}


def own(names: Iterable[str]) -> Iterator[str]:
    """The rooms of normlab among dotted names."""
    for name in names:
        parts = name.split(".")
        if parts[0] == "normlab" and len(parts) > 1:
            yield parts[1]


@pytest.mark.parametrize("path", PACKAGE, ids=name_of)
def test_imports_point_down(path):
    """To lower rooms; only the worker knows jax or training."""
    here, names = room_of(path), list(imports_of(path))
    if here == "__init__":
        assert {n.rpartition(".")[0] for n in names} <= {"__future__", "typing", *OFFERED}
        return
    assert here in LAYERS, f"{here} has no layer"
    tops = {name.split(".")[0] for name in names}
    assert not tops & {*OUTSIDE, "stress"}
    for room in own(names):
        assert room == here or LAYERS[room] < LAYERS[here], (
            f"{name_of(path)} imports {room}, which is not below"
        )
    if here in NO_JAX and path.stem not in WORKER:
        assert not tops & HEAVY
        assert "training" not in own(n for n in names if not n.startswith(JAX_FREE))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_no_file_imports_itself_in_a_circle():
    """Imports for type checking count too, since they hide a circle."""
    modules = {module_name(p): p for p in CODE if p.parts[-2] not in SETTINGS_FOLDERS}
    edges = {
        name: {
            target if target in modules else target.rpartition(".")[0]
            for target in imports_of(path, hides_types=False)
        }.intersection(modules)
        - {name}
        for name, path in modules.items()
    }
    while free := {name for name, targets in edges.items() if not targets}:
        edges = {name: targets - free for name, targets in edges.items() if name not in free}
    assert not edges


def test_all_but_the_worker_works_without_jax():
    """Also through what its modules import in turn."""
    rooms = (*NO_JAX, "api")  # a notebook that trains nothing
    files = [p for p in PACKAGE if room_of(p) in rooms and p.stem not in (*WORKER, "__init__")]
    modules = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in files]
    code = f"import sys, {', '.join(modules)}; print({HEAVY!r} & set(sys.modules))"
    assert run_fresh(code) == "set()"


def test_importing_normlab_or_its_tables_imports_nothing_heavy():
    heavy = HEAVY | {"numpy", "sklearn", "matplotlib", "tensorflow_datasets"}
    code = "import sys, normlab.norms, normlab.models.table, normlab.diagnostics.names; "
    assert run_fresh(f"{code}print({heavy!r} & set(sys.modules))") == "set()"


@pytest.mark.parametrize("path", [p for p in PACKAGE if room_of(p) == "models"], ids=name_of)
def test_models_never_ask_which_norm_it_is(path):
    tree = tree_of(path)
    docs = docstrings_of(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docs:
            assert node.value not in NORMS, f"{name_of(path)}:{node.lineno} names {node.value!r}"
        if isinstance(node, ast.Name):
            assert node.id not in ("isinstance", "issubclass", "type"), (
                f"{name_of(path)}:{node.lineno}"
            )


def test_no_room_but_norms_names_a_scheme_that_only_it_can_know():
    """`layer_channels`, `instance` and the like; "none", "batch" ... are ordinary words."""
    only = {name for name in NORMS if name not in ("none", "batch", "layer", "group", "affine")}
    for path in PACKAGE:
        if room_of(path) in ("norms", "studies", "report", "launch", "runs"):
            continue
        if path.name == "cases.py":  # its inputs are named for the schemes that they trouble
            continue
        tree = tree_of(path)
        docs = docstrings_of(tree)
        found = {
            n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in docs
        }
        assert not found & only, name_of(path)


@pytest.mark.parametrize(
    "path",
    [p for p in PACKAGE if room_of(p) not in ("statistics", "studies", "report", "runs")],
    ids=name_of,
)
def test_variances_are_computed_in_moments_only(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in ("var", "std", "nanvar", "nanstd"), (
                f"{name_of(path)}:{node.lineno} calls {ast.unparse(node.func)}"
            )


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_files_and_functions_are_short(path):
    assert len(path.read_text().splitlines()) <= FILE_LINES
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.decorator_list[0].lineno if node.decorator_list else node.lineno
            assert (node.end_lineno or first) - first < FUNCTION_LINES, f"{node.name} is too long"


@pytest.mark.parametrize(
    "path", [p for p in PACKAGE if room_of(p) in ("norms", "layers", "statistics")], ids=name_of
)
def test_everything_public_in_norms_has_a_docstring(path):
    tree = tree_of(path)
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name_of(path)}: {node.name}"


@pytest.mark.parametrize("name", NORMS)
def test_the_docstring_of_a_norm_has_its_parts(name):
    row = NORMS[name]
    text = inspect.getdoc(module_of(row.module)) or ""
    parts = ["y = ", "Shapes:", "State:"]
    if row.over:
        parts += ["Raises ValueError", "Source: arXiv:", "Deviation", ">>> "]
    assert [part for part in parts if part not in text] == []


def test_everything_that_norms_promises_exists():
    for name in norms.__all__:
        assert getattr(norms, name) is not None


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_settings_are_read_without_defaults(path):
    """Code reads config["a.b"]; a default at a second place would be a second truth."""
    for node in ast.walk(tree_of(path)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner = ast.unparse(node.func.value)
        is_config = owner in ("c", "cfg") or owner.endswith(("config", "settings"))
        is_literal = bool(node.args) and isinstance(node.args[0], ast.Constant)
        has_default = len(node.args) > 1 or is_literal
        assert not (is_config and has_default and node.func.attr in ("get", "setdefault")), (
            f"{name_of(path)}:{node.lineno}: {ast.unparse(node)}"
        )


def texts() -> list[Path]:
    folders = ("normlab", "tests", ".ci", *SETTINGS_FOLDERS)
    inside = [p for folder in folders for p in sorted((ROOT / folder).rglob("*"))]
    return [p for p in [*ROOT.glob("*"), *inside] if p.suffix in TEXTS or p == ROOT / ".ci" / "run"]


@pytest.mark.parametrize("folder", ["work", "root"])
def test_no_path_of_one_machine(folder):
    word = f"/{folder}/"
    assert [name_of(p) for p in texts() if word in p.read_text()] == []


def test_the_page_on_the_architecture_names_what_there_is():
    """Its reading path is short, its rooms are those of LAYERS, and every path exists."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    reading, _, rest = page.partition("## Rooms")
    path = [ROOT / name for name in re.findall(r"^\| \d+ \| `([^`]+)` \|", reading, re.M)]
    assert 8 <= len(path) <= 12
    assert sum(len(p.read_text().splitlines()) for p in path) <= 2500
    rooms = re.findall(r"^\| (\d+) \| `normlab/(\w+)[/.]", rest, re.M)
    assert {room: int(layer) for layer, room in rooms} | dict.fromkeys(
        ("lookup", "outside", "shipped", "version"), 0
    ) == LAYERS
    for name in re.findall(
        r"`((?:normlab|tests|experiments|scripts|benchmarks|configs)/[\w/.]*)`", page
    ):
        assert (ROOT / name).exists(), name
