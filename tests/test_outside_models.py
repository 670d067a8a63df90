"""Networks from files outside the repository: refusals, traces, runs, studies, kept rows."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jax
import pytest
from test_outside_norms import STUDY, write
from workspace import run_script

from normlab.models.outside import OutsideModel, add_models, outside_models
from normlab.models.table import MODELS
from normlab.models.trace import traced
from normlab.norms import NORMS
from normlab.report.formatting import command
from normlab.runs.config import ConfigError, program_id, resolve, run_id
from normlab.runs.kept_rows import recall_rows, row_files
from normlab.runs.store import StorageError, Store
from normlab.settings import defaults
from normlab.studies.checks import check_study
from normlab.studies.setup import load_config
from normlab.studies.study import adapt, load_study

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "docs" / "examples" / "my_network.py"
DOCS = (ROOT / "docs" / "your_own_network.md").read_text(encoding="utf-8")
SHORT = [f"--config={ROOT / 'configs' / 'digits_cnn.py'}", "--config.train.steps=20"]
ROW = "\nfrom normlab.models.row import Model\nMODELS = {%s: Model(title='t', %s)}\n"
DENSE = "is_convolutional=False, kinds=('images', 'features'), options=('widths',)"
NET = '''
from typing import Any
from flax import linen as nn
class Net(nn.Module):
    """dense - norm - act, dense."""
    layers: Any
    classes: int
    widths: tuple[int, ...] = (8,)
    @nn.compact
    def __call__(self, x, *, train, mask=None):
        mask = None if mask is None else mask[:, None]
        x = self.layers.dense(self.widths[0], kernel_init=nn.initializers.he_normal(), name="d")(x)
        x = self.layers.norm(name="norm_1")(x, train=train, mask=mask)
        x = self.layers.act(name="act_1")(x)
        return self.layers.head(
            self.classes, kernel_init=nn.initializers.he_normal(), name="head")(x)
'''
NORM = 'self.layers.norm(name="norm_1")(x, train=train, mask=mask)'
ACT = 'self.layers.act(name="act_1")(x)'

pytestmark = pytest.mark.usefixtures("restored_norms", "restored_models")


def net(old: str = "", new: str = "", name: str = "'mine'", options: str = DENSE) -> str:
    """The file of Net, with one change of its code."""
    assert old in NET
    return NET.replace(old, new, 1) + ROW % (name, f"module=Net, {options}")


REFUSED = {
    "nothing in it": ("", "has no MODELS = {name: Model(...)} with a row in it"),
    "raises": ("1 / 0", "cannot be loaded (ZeroDivisionError: division by zero)"),
    "no row": ("MODELS = {'mine': 3}", "MODELS['mine'] = 3 is not a Model"),
    "name": (net(name="'my net'"), "'my net' is no name of letters, digits and _"),
    "built-in name": (net(name="'mlp'"), "the name 'mlp' is taken by a model of normlab"),
    "a function": (ROW % ("'mine'", "module=len"), "is no class of flax.linen.Module"),
    "no module": (ROW % ("'mine'", "module='nowhere:Net'"), "is no class of flax.linen.Module"),
    "no classes": (net("classes: int", "count: int"), "no field 'classes'"),
    "option": (net(options="options=('width',)"), "there is no option 'width'"),
    "its name": (net(options="options=('name',)"), "there is no option 'name'"),
    "act": (net(options="act='gelu'"), "act = 'gelu' is not one of relu"),
    "kind": (net(options="kinds=('sounds',)"), "kinds = ('sounds',)"),
    "time": (net(options="has_time=True, kinds=('images',)"), "has no field 'time'"),
    "features of a shape": (net(options="kinds=('features',)"), "features have no shape"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_file_is_refused_and_adds_nothing(case, tmp_path):
    text, words = REFUSED[case]
    before, good = dict(MODELS), write(tmp_path / "good.py", net(name="'good'"))
    with pytest.raises(ValueError) as refusal:
        add_models([good, write(tmp_path / "bad.py", text)])
    assert words in str(refusal.value) and "bad.py" in str(refusal.value)
    assert "\n" not in str(refusal.value) and before == MODELS


def resolved(text: str, tmp_path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the network of a file, on digits."""
    add_models([write(tmp_path / "net.py", text)])
    return resolve(load_config("digits_mlp") | {"model.name": "mine"} | settings).config


BROKEN = {
    "no norm": (net(NORM, "x"), {}, "calls no layers.norm"),
    "its own norm": (net(NORM, "nn.BatchNorm(not train)(x)"), {}, "calls no layers.norm"),
    "name of a norm": (net('"norm_1"', '"bn"'), {}, "has a norm named 'bn'"),
    "no mask": (net("mask=mask)", "mask=None)"), {}, "does not hand mask to 'norm_1'"),
    "evaluation": (net(NORM, f"{NORM} if train else x"), {}, "other norms in evaluation"),
    "logits": (
        net("            self.classes", "            3"),
        {},
        "returns (4, 3) for 4 examples and 7 classes",
    ),
    "state": (net(ACT, 'x + self.variable("cache", "n", lambda: 1.0).value'), {}, "in 'cache'"),
    "dropout": (net(ACT, "nn.Dropout(0.5, deterministic=not train)(x)"), {}, "InvalidRngError"),
    "raises": (net(ACT, "x.reshape(3, 3)"), {}, "cannot be run on examples (64,) (TypeError"),
    "group": (net(), {"norm.name": "group", "norm.groups": 3}, "norm.groups = 3 does not divide"),
    "own act": (
        net(ACT, "nn.relu(x)"),
        {"norm.name": "evonorm_s0"},
        "replaces the activation after it, and 'mine' has one of its own",
    ),
    "own kernels": (
        net(
            'self.layers.dense(self.widths[0], kernel_init=nn.initializers.he_normal(), name="d")',
            "nn.Dense(8)",
        ),
        {"norm.name": "none", "norm.kernel": "weight_norm"},
        "'mine' has kernels of its own",
    ),
    "own head": (
        net("self.layers.head", "nn.Dense"),
        {"eval.probes": "moments"},
        "has kernels of its own",
    ),
    "no head": (net('name="head"', 'name="last"'), {"init.gain": 2.0}, "no layer of this name"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_network_that_no_comparison_could_trust_is_refused(case, tmp_path):
    text, settings, words = BROKEN[case]
    with pytest.raises(ConfigError) as refusal:
        resolved(text, tmp_path, settings)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_the_same_network_is_allowed_without_what_it_cannot(tmp_path):
    plain = net(ACT, "nn.relu(x)").replace('name="head"', 'name="last"')
    assert resolved(plain, tmp_path, {"norm.name": "group"})["norm.name"] == "group"


@pytest.mark.parametrize("name", ["mlp", "cnn", "vgg", "resnet"])
@pytest.mark.parametrize("depth", [0, 1])
def test_a_trace_finds_what_the_formulas_of_our_networks_say(name, depth):
    deep = {"mlp": 5, "cnn": 4, "vgg": 0, "resnet": 14}[name] if depth else 0
    base = "digits_mlp" if name == "mlp" else "digits_cnn"
    widths = (6, 4) if name == "mlp" else (4, 6)
    given = {"model.name": name, "model.widths": widths, "model.depth": deep}
    config, image = resolve(load_config(base) | given).config, (8, 6, 1)
    trace = traced(name, config, image)
    assert list(trace.shapes) == MODELS[name].shapes(config, image)
    assert (trace.has_act, trace.has_head, trace.has_own_kernels) == (True, True, False)


def test_the_content_of_the_file_is_part_of_the_run(tmp_path):
    plain = run_id(defaults()), program_id(defaults())
    ids, programs = set(), set()
    for text in (net(), net() + "# changed\n"):
        config = resolved(text, tmp_path, {})
        ids.add(run_id(config))
        programs.add(program_id(config))
        assert plain == (run_id(defaults()), program_id(defaults()))
        del MODELS["mine"]
    assert len(ids) == len(programs) == 2


def test_a_kept_row_gives_the_same_run_without_the_file(tmp_path):
    config = resolved(net(), tmp_path, {})
    Store(tmp_path).open()
    (file,) = row_files(tmp_path)["models"]
    assert Path(file).read_text() == net() and row_files(tmp_path)["norms"] == []
    del MODELS["mine"]
    recall_rows(tmp_path)
    assert run_id(resolve(config).config) == run_id(config)
    assert isinstance(MODELS["mine"], OutsideModel) and MODELS["mine"].title == "t"
    assert outside_models() == {} and row_files(tmp_path)["models"] == []  # it cannot be trained
    (tmp_path / "models" / "other.json").write_text("{")
    with pytest.raises(StorageError, match="is damaged"):
        recall_rows(tmp_path)


def test_our_network_from_a_file_trains_to_the_same_bits(tmp_path):
    """The rows of `MLP` itself: whatever the path adds would change the numbers."""
    text = "from normlab.models.mlp import MLP\n" + ROW % (
        "'mine'",
        "module=MLP, is_convolutional=False, options=('widths', 'placement', 'act')",
    )
    file, finals = write(tmp_path / "mlp.py", text), []
    shared = ["--config=digits_mlp", "--config.train.steps=20", "--config.model.widths=16"]
    for flags in ([], [f"--model={file}"]):
        run = run_script("train", *shared, *flags, cwd=tmp_path)
        assert run.returncode == 0 and run.stderr == "", run.stderr
    for path in (tmp_path / "results" / "runs").glob("*/result.json"):
        result = json.loads(path.read_text())
        finals.append((result["final"], result["curve_sha256"]))
        if result["config"]["model.name"] == "mine":
            assert result["provenance"]["model.file"] in {
                p.stem for p in (tmp_path / "results" / "models").glob("*.py")
            }
    assert len(finals) == 2 and finals[0] == finals[1]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--model=bad.py"], "MODELS['mine'] = 3 is not a Model"),
        (["--model=none.py"], "cannot be read (No such file"),
        (["--model=two.py"], "has a, b; choose one with --config.model.name=a"),
        (["--model=two.py", "--config.model.name=mlp"], "name two networks"),
        (["--config.model.name=mine"], "one of your own needs --model=FILE"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(flags, words, tmp_path):
    write(tmp_path / "bad.py", "MODELS = {'mine': 3}")
    row = "Model(title='t', module=Net)"
    write(tmp_path / "two.py", net() + f"MODELS = {{'a': {row}, 'b': {row}}}\n")
    run = run_script("train", *SHORT, *flags, cwd=tmp_path)
    assert run.returncode == 2 and run.stdout == "" and words in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.py", "two.py"]


def test_a_study_takes_the_network_and_says_so(tmp_path):
    add_models([write(tmp_path / "net.py", net())])
    chosen = {"model.name": "mine"}
    study = adapt(load_study("convergence"), overrides=chosen)
    check_study(study, "quick")
    assert not study.is_planned and f"--model={tmp_path / 'net.py'}" in command(study, "quick")
    for setup in study.setups["quick"]:
        config = load_config(setup.base) | setup.settings
        assert resolve(config | setup.arms[0].settings).config["model.name"] == "mine"
    short = adapt(load_study("which_norm"), overrides=chosen)
    check_study(short, "quick")
    assert [s.name for s in short.all_setups] == ["which-own-error", "which-own-small"]
    assert all("t, model.name=mine" in s.title for s in short.all_setups)
    names = {arm.name for arm in short.all_setups[0].arms}
    assert {"none", "batch", "layer", "weight_norm"} <= names <= {*NORMS, *names}


def test_arms_that_the_network_cannot_run_are_left_out(tmp_path):
    own = net(ACT, "nn.relu(x)").replace("self.layers.dense", "nn.Dense")
    add_models([write(tmp_path / "net.py", own)])
    study = adapt(load_study("which_norm"), overrides={"model.name": "mine"})
    names = {arm.name for setup in study.all_setups for arm in setup.arms}
    assert "batch" in names and not names & {"weight_norm", "standardize", "evonorm_s0"}


def test_a_network_that_no_arm_can_run_in_says_why(tmp_path):
    file = write(tmp_path / "net.py", net(options="options=('widths',)"))
    features = f"--data={ROOT / 'docs' / 'examples' / 'my_data.py'}"
    flags = ["--study=which_norm", f"--model={file}", features]
    run = run_script("study", *flags, cwd=tmp_path)
    assert run.returncode == 2 and "model.name = 'mine' takes images, my_data-" in run.stderr


def test_a_study_with_networks_of_its_own_is_reported_without_the_file(tmp_path):
    """One study names the network in an arm. --model then chooses none for the others."""
    arm = 'Arm("own", {"norm.name": "batch", "model.name": "mine"}, is_primary=True)'
    text = STUDY.replace(
        'norm_arms("none", "my_norm", primary=("none", "my_norm"))',
        (f'(Arm("none", {{"norm.name": "none"}}, is_primary=True), {arm})'),
    ).replace("import Setup, Tuning, norm_arms", "import Arm, Setup, Tuning")
    study, file = write(tmp_path / "own.py", text), write(tmp_path / "net.py", net())
    run = run_script("study", f"--study={study}", f"--model={file}", cwd=tmp_path)
    assert run.returncode == 0 and run.stderr == "" and "6 runs trained" in run.stdout, run.stderr
    table = tmp_path / "results" / "report" / "tables" / "own-quick-tiny.md"
    before = table.read_text()
    assert re.search(r"^\| own \| primary \|.*\| 2 \|", before, re.M)
    configs = [json.loads(p.read_text())["config"] for p in tmp_path.glob("results/runs/*/r*.json")]
    models = {(c["norm.name"], c["model.name"]) for c in configs}
    assert models == {("none", "mlp"), ("batch", "mine")}
    Path(file).unlink()
    table.unlink()
    rebuilt = run_script("report", f"--study={study}", cwd=tmp_path)
    assert rebuilt.returncode == 0 and rebuilt.stderr == "" and table.read_text() == before


def test_the_page_shows_the_example_and_commands_that_work(tmp_path):
    assert EXAMPLE.read_text(encoding="utf-8") in DOCS
    blocks = re.findall(r"```bash\n(.*?)```", DOCS, re.DOTALL)
    commands = [line for block in blocks for line in block.replace("\\\n", "").splitlines()]
    assert {"train", "study", "list"} <= {c.split()[1][8:-3] for c in commands}
    for line in commands:
        script = line.split()[1][8:-3]
        flags = [re.sub("=(?=configs/|docs/)", f"={ROOT}/", f) for f in shlex.split(line)[2:]]
        flags += ["--dry_run"] if script != "list" else []
        run = run_script(script, *flags, cwd=tmp_path)
        assert run.returncode == 0 and run.stderr == "", run.stderr
    assert list(tmp_path.iterdir()) == []
    assert jax.default_backend()
