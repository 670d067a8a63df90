"""The wheel: built, unpacked elsewhere, and used without the repository; what the core needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from workspace import CACHE, ROOT

import normlab
from normlab.command import NEEDED, WHAT
from normlab.shipped import COMMANDS, EXTRAS, extra_of, words_of

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LAB = "absl ml_collections optax scipy matplotlib jinja2 filelock safetensors matfree".split()
WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The unpacked wheel, as pip would install it."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*build, "-w", str(folder), str(ROOT)], check=True, capture_output=True)
    (wheel,) = folder.glob("normlab-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def call(site: Path, cwd: Path, *words: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run `normlab` with these words, from the unpacked wheel."""
    code = f"{before}\nimport sys; sys.argv = {['normlab', *words]!r}\n"
    code += "from normlab.command import main; main()"
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=200,
        env=os.environ | CACHE | {"PYTHONPATH": str(site)},
    )


def test_the_demo_shows_a_verdict_and_a_page_without_the_repository(site, tmp_path):
    run = call(site, tmp_path, "demo")
    assert run.returncode == 0 and run.stderr == "", run.stderr
    assert re.search(r"D1 +supported, .*n = 6", run.stdout), run.stdout
    page = (tmp_path / "normlab-demo" / "report" / "index.html").read_text(encoding="utf-8")
    place = site / "normlab" / "files" / "docs" / "examples" / "demo.py"
    assert f"normlab study --study={place}" in page and "scripts/study.py" not in page
    results = [*(tmp_path / "normlab-demo" / "runs").glob("*/result.json")]
    assert len(results) == 20 and '"git_commit": "unknown"' in results[0].read_text()
    again = call(site, tmp_path, "report", f"--study={place}", "--results=normlab-demo")
    assert again.returncode == 0 and "supported" in again.stdout, again.stderr


def test_the_wheel_has_what_its_commands_need(site, tmp_path):
    listed = call(site, tmp_path, "list", "studies")
    assert listed.returncode == 0 and "convergence" in listed.stdout, listed.stderr
    shown = call(site, tmp_path, "train", "--help").stdout
    assert "normlab train --config=" in shown and "python scripts/" not in shown
    plan = call(site, tmp_path, "which", "--dry_run", f"--results={tmp_path / 'r'}")
    assert plan.returncode == 0 and "which-mlp-error" in plan.stdout, plan.stderr
    told = call(site, tmp_path, "--version")
    assert told.stdout == f"normlab {normlab.__version__}\n" == f"normlab {PROJECT['version']}\n"
    lacking = call(site, tmp_path, "train", "--config=mnist_mlp", f"--data_dir={tmp_path}")
    assert lacking.returncode == 2 and "`normlab data --prepare=mnist" in lacking.stderr
    for name in set(COMMANDS.values()):
        assert (site / "normlab" / "files" / "scripts" / f"{name}.py").is_file()
    assert not any((site / "normlab" / "files").rglob("*.pyc"))
    assert {p.name for p in site.iterdir() if p.suffix != ".dist-info"} == {"normlab"}


def test_an_unknown_command_or_a_missing_library_is_one_line(site, tmp_path):
    listed = call(site, tmp_path)
    assert listed.returncode == 0 and all(f"normlab {name}" in listed.stdout for name in WHAT)
    run = call(site, tmp_path, "trian")
    assert run.returncode == 2 and "did you mean 'train'?" in run.stderr
    absent = "import importlib.util as u; f = u.find_spec\n"
    absent += "u.find_spec = lambda n: None if n == 'jinja2' else f(n)"
    run = call(site, tmp_path, "demo", before=absent)
    assert run.returncode == 2 and run.stderr.count("\n") == 1
    assert "needs jinja2; install the laboratory with pip install 'normlab[lab]'" in run.stderr
    before = WITHOUT.format(absent={"tensorflow_datasets"})
    run = call(site, tmp_path, "data", "--prepare=mnist", "--download", before=before)
    assert run.returncode == 2 and "pip install 'normlab[data]'" in run.stderr
    assert run.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


def test_layers_need_the_core_alone(site, tmp_path):
    """Flax itself brings absl and optax."""
    absent = {name for name in (*LAB, *EXTRAS["data"]) if name not in ("absl", "optax", "scipy")}
    code = WITHOUT.format(absent=absent) + (
        "import jax, jax.numpy as jnp\nfrom normlab import norms\nimport normlab.norms.nnx\n"
        "from normlab.norms import convert\n"
        "norm = norms.build('batch', momentum=0.9).norm(name='norm')\nx = jnp.eye(4)\n"
        "v = norm.init(jax.random.key(0), x, train=True)\n"
        "print(norm.apply(v, x, train=False).shape, normlab.__file__)\n"
    )
    run = subprocess.run(
        [sys.executable, "-P", "-c", "import normlab\n" + code],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(site)},
    )
    assert run.returncode == 0 and f"(4, 4) {site}" in run.stdout, run.stderr


def test_core_and_extras_are_what_requirements_txt_says():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = {line for line in lines if line and not line.startswith("#")}
    extras = PROJECT["optional-dependencies"]
    assert {*PROJECT["dependencies"], *extras["lab"], *extras["data"]} == wanted
    assert {name.replace("-", "_") for name in NEEDED} <= set(LAB)


@pytest.mark.parametrize("script", sorted(set(COMMANDS.values())))
def test_how_scripts_are_called(script):
    assert words_of(script, False) == ["python", f"scripts/{script}.py"]
    (first, word) = words_of(script, True)
    assert first == "normlab" and COMMANDS[word] == script and word in WHAT


def test_modules_of_extras():
    assert extra_of("tensorflow_datasets.core") == "data" and extra_of("torch") == ""
