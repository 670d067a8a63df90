"""Sequences from files outside the repository, and networks with time that come from a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_outside_norms import write
from test_own_data import code, npz, row
from workspace import ROOT, run_script

from normlab import data
from normlab.data import DATASETS, add_data
from normlab.models.outside import add_models
from normlab.models.table import MODELS
from normlab.models.trace import traced
from normlab.runs.config import ConfigError, resolve, run_id
from normlab.runs.constraints import example_shape
from normlab.studies.checks import check_study
from normlab.studies.setup import load_config
from normlab.studies.study import adapt, load_study

RNG = np.random.default_rng(0)
LENGTHS = RNG.permutation(np.tile(np.arange(3, 13), 4))
X = RNG.normal([3, -70], [5, 0.1], (40, 14, 2))
Y = np.arange(40) % 4
LIST = [x[:n] for x, n in zip(X, LENGTHS, strict=True)]
WHOLE = {"x": X, "y": Y, "lengths": LENGTHS}
EXAMPLE = ROOT / "docs" / "examples" / "my_sequence_network.py"
TEXT = EXAMPLE.read_text(encoding="utf-8")

pytestmark = pytest.mark.usefixtures("restored_models", "restored_datasets")


def parts(cut: int, steps: int) -> dict[str, Any]:
    """An official test split with fewer steps."""
    found = {f"{n}_train": a[:cut] for n, a in WHOLE.items()}
    short = np.minimum(LENGTHS[cut:], steps)
    return found | {"x_test": X[cut:, :steps], "y_test": Y[cut:], "lengths_test": short}


def test_steps_are_standardized_and_the_rest_is_blank(tmp_path):
    name, found = row(npz(tmp_path / "d.npz", **WHOLE))
    assert (found.kind, found.shape, found.classes) == ("sequences", (12, 3, 1), 4)
    assert "; sequences of 3 to 12 steps, 2 features, standardized" in found.line(name)
    steps = np.concatenate(LIST)
    expected = (steps - steps.mean(0)) / steps.std(0)
    loaded = data.load(name)
    images = loaded.images.reshape(40, 12, 3)
    valid = np.arange(12) < LENGTHS[:, None]
    assert images.dtype == np.float32 and loaded.shape == (12, 3, 1)
    np.testing.assert_allclose(images[valid, :2], expected, atol=2e-6)
    assert (images[valid, 2] == 1).all() and not images[~valid].any()


@pytest.mark.parametrize("behind", [0, 7.0, np.nan])
def test_what_is_behind_the_ends_is_no_part_of_the_content(behind, tmp_path):
    first = row(npz(tmp_path / "d.npz", **WHOLE))[1]
    x = np.where((np.arange(14) < LENGTHS[:, None])[..., None], X, behind)
    assert row(npz(tmp_path / "e.npz", **WHOLE | {"x": x}))[1].sha256 == first.sha256
    longer = LENGTHS + (np.arange(40) == 5)
    if np.isfinite(behind):
        other = row(npz(tmp_path / "f.npz", **WHOLE | {"x": x, "lengths": longer}))[1]
        assert other.sha256 != first.sha256


@pytest.mark.parametrize("end", ["return LIST, Y", "return X, Y, LENGTHS"])
def test_a_reader_returns_a_list_or_lengths(end, tmp_path):
    np.savez(tmp_path / "kept.npz", **WHOLE)
    head = f"import numpy as np\nkept = np.load({str(tmp_path / 'kept.npz')!r})\n"
    head += "X, Y, LENGTHS = kept['x'], kept['y'], kept['lengths']\n"
    head += f"LIST = [x[:n] for x, n in zip(X, LENGTHS)]\ndef read(): {end}\n"
    file = write(tmp_path / "a.py", head)
    assert row(file)[1].sha256 == row(npz(tmp_path / "d.npz", **WHOLE))[1].sha256


def test_a_list_of_floats_is_of_sequences_and_one_of_integers_is_of_images(tmp_path):
    head = "import numpy as np\ny = list('abc' * 10)\n"
    head += "x = [np.full((8, 6), float(i)) for i in range(30)]"
    assert row(write(tmp_path / "a.py", head))[1].title.startswith("sequences of 8 steps, 6 feat")
    assert row(write(tmp_path / "b.py", head.replace("float", "int")))[1].kind == "images"


@pytest.mark.parametrize("steps", [5, 14])
def test_an_official_test_split_may_have_other_steps(steps, tmp_path):
    name, found = row(npz(tmp_path / "d.npz", **parts(30, steps)))
    assert found.official_test and (found.test, found.shape) == (10, (12, 3, 1))
    seen = data.load(name).images.reshape(40, 12, 3)[..., 2].sum(1)
    assert np.array_equal(seen, np.append(LENGTHS[:30], np.minimum(LENGTHS[30:], steps)))


@pytest.mark.parametrize("given", [WHOLE, parts(30, 6)], ids=["whole", "parts"])
def test_kept_sequences_are_the_same_data_set(given, tmp_path):
    _, found = row(npz(tmp_path / "d.npz", **given))
    (tmp_path / "kept.npz").write_bytes(found.kept_bytes())
    name, kept = row(str(tmp_path / "kept.npz"))
    assert (kept.sha256, kept.shape, kept.test) == (found.sha256, found.shape, found.test)
    facts = json.loads(json.dumps(found.facts()))
    assert data.OutsideData.from_facts(facts, "somewhere").kind == "sequences" and name


def arrays(**changed: Any) -> Callable[[Path], str]:
    return lambda path: npz(path / "bad.npz", **WHOLE | changed)


def without(name: str) -> Callable[[Path], str]:
    given = parts(30, 9)
    return lambda path: npz(path / "bad.npz", **{n: a for n, a in given.items() if n != name})


INSIDE, FIRST = X.copy(), int(LENGTHS[6])
INSIDE[6, FIRST - 1, 1] = np.inf
BAD: dict[str, tuple[Callable[[Path], str], str]] = {
    "no lengths": (lambda path: npz(path / "bad.npz", x=X, y=Y), "come with an array of their len"),
    "zero": (arrays(lengths=LENGTHS - 3), "its lengths are int64 from 0 to 9; give whole numbers"),
    "long": (arrays(lengths=LENGTHS + 3), "from 6 to 15; give whole numbers from 1 to 14, the"),
    "fractions": (arrays(lengths=LENGTHS / 2), "its lengths are float64 from 1.5 to 6.0; give"),
    "texts": (arrays(lengths=LENGTHS.astype(str)), "from ? to ?; give whole numbers"),
    "other number": (arrays(lengths=LENGTHS[1:]), "lengths has shape (39,) and x has (40, 14, 2)"),
    "one number": (arrays(lengths=12), "lengths has shape () and x has (40, 14, 2); give one"),
    "features": (arrays(x=X[:, 0]), "lengths has shape (40,) and x has (40, 2); give one length"),
    "infinite": (arrays(x=INSIDE), f"feature 1 of step {FIRST - 1} of example 6 is inf; every one"),
    "texts as steps": (arrays(x=X.astype(str)), "its sequences are <U"),
    "no features": (arrays(x=X[..., :0]), "of shape (40, 14, 0); give numbers"),
    "train alone": (without("lengths_test"), "only one of its two parts has lengths; give lengths"),
    "test alone": (without("lengths_train"), "only one of its two parts has lengths"),
    "other features": (
        code("import numpy as np\nx, y = [np.ones((3, 2)), np.ones((4, 3))], [0, 1]"),
        "the sequences of x have [2, 3] features; give all the same",
    ),
    "an empty sequence": (
        code("import numpy as np\nx, y = [np.ones((n % 4, 2)) for n in range(40)], [0, 1] * 20"),
        "its lengths are int64 from 0 to 3",
    ),
    "in a list": (code("x, y = [[[1], [1, 2]]] * 30, [0, 1] * 15"), "a list of what are no arrays"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sequences_are_refused_in_one_line(case, tmp_path):
    make, words = BAD[case]
    before, file = dict(DATASETS), make(tmp_path)
    with pytest.raises(data.DataError) as refusal:
        add_data(file)
    message = str(refusal.value)
    assert words in message and message.startswith(f"data {file!r}") and len(message) < 400
    assert "\n" not in message and before == DATASETS


def test_networks_with_time_take_them_and_others_say_which_do(tmp_path):
    name = add_data(npz(tmp_path / "d.npz", **WHOLE))
    given = {"data.name": name, "data.batch": 16}
    for model in ("rnn", "encoder"):
        config = resolve(given | {"model.name": model, "model.widths": (16,)}).config
        assert example_shape(config) == (12, 3, 1)
    with pytest.raises(ConfigError, match="'mlp' takes images or features, d-.* use one of rnn, e"):
        resolve(given)
    with pytest.raises(ConfigError, match="data.length = 9: d-.* has lengths of its own; use 0"):
        resolve(given | {"model.name": "rnn", "data.length": 9})


def test_the_study_of_norms_asks_a_recurrent_network_and_a_transformer(tmp_path):
    name = add_data(npz(tmp_path / "d.npz", **WHOLE))
    study = adapt(load_study("which_norm"), overrides={"data.name": name})
    check_study(study, "quick")
    setups = {s.name: s for s in study.all_setups}
    assert list(setups) == ["which-own-error", "which-own-small", "which-own-transformer"]
    assert [s.base for s in setups.values()] == ["digits_rnn"] * 2 + ["digits_encoder"]
    rates = [setup.protocol.exponents for setup in setups.values()]  # of momentum, and of Adam
    assert [(r[0], r[-1]) for r in rates] == [(-2, 0), (-2, 0), (-3.5, -1.5)]
    sizes = [setup.settings["data.batch"] for setup in setups.values()]
    assert sizes == [16, 4, 16]
    for setup in setups.values():
        assert {"none", "batch", "layer", "rms"} <= {arm.name for arm in setup.arms}
        for arm in setup.arms:
            config = resolve(load_config(setup.base) | setup.settings | arm.settings).config
            assert config["data.name"] == name
    lengths = adapt(load_study("sequences"), overrides={"data.name": name})
    assert any(setup.arms for setup in lengths.all_setups)
    with pytest.raises(ConfigError, match="takes images"):
        adapt(load_study("convergence"), overrides={"data.name": name})


def timed(old: str = "", new: str = "", name: str = "mine") -> str:
    """The file of the example, with one change of its code."""
    assert old in TEXT
    return TEXT.replace(old, new, 1).replace('"my_sequence_network"', repr(name))


NORM = "norm(dense(near, train=train), counted, places)"
ROW = "has_time=True,"
REFUSED = {
    "features": (timed('("images", "sequences")', '("features",)'), "kinds = ('features',), has_t"),
    "without time": (timed(ROW, ""), "kinds = ('images', 'sequences'), has_time = False"),
    "images of a shape": (
        timed("        is_convolutional=False,\n", ""),
        "a sequence has no shape [H, W, C]",
    ),
    "no time": (timed("    time: str\n", ""), "no field 'time', which every network with time has"),
    "no mask": (timed("    is_masked: bool\n", ""), "no field 'is_masked', which every network w"),
    "cell": (
        timed('("widths", "act")', '("widths", "cell")'),
        "no field 'least', which every netw",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_row_with_time_is_refused(case, tmp_path):
    text, words = REFUSED[case]
    with pytest.raises(ValueError) as refusal:
        add_models([write(tmp_path / "bad.py", text)])
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def settled(text: str, tmp_path: Path, **settings: Any) -> dict[str, Any]:
    """The configuration of the network of a file, on rows of digits."""
    add_models([write(tmp_path / "net.py", text)])
    given = {name.replace("__", "."): value for name, value in settings.items()}
    start = load_config("digits_rnn") | {"model.name": "mine", "norm.name": "batch"}
    return resolve(start | given).config


BROKEN = {
    "steps as width": (
        timed(NORM, 'self.layers.norm(name=f"norm_x{i}")(near, train=train, mask=counted)'),
        "calls 'norm_x0' with (8, 4, 24), whose steps the norm would take for height or width",
    ),
    "padding counts": (timed(NORM, NORM.replace("counted", "None")), "does not hand mask to 'nor"),
    "padding counts in training": (
        timed(NORM, NORM.replace("counted", "None if train else counted")),
        "does not hand mask to 'norm_0/steps/norm'",
    ),
    "name": (timed('f"norm_{i}"', 'f"bn_{i}"'), "has a norm named 'bn_0/steps/norm'"),
    "logits of each step": (timed("head(x.sum(0) / valid.sum(0))", "head(x)"), "returns (8, 4, 7)"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_network_with_time_that_no_comparison_could_trust_is_refused(case, tmp_path):
    text, words = BROKEN[case]
    with pytest.raises(ConfigError) as refusal:
        settled(text, tmp_path)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_its_settings_are_those_of_networks_with_time(tmp_path):
    given = {"norm__time": "sequence", "norm__masked": False, "data__length": 12}
    config = settled(timed(), tmp_path, **given, data__length_spread=8)
    kept = [config[n] for n in ("norm.time", "norm.masked", "data.length", "data.length_spread")]
    assert kept == ["sequence", False, 12, 8] and example_shape(config) == (20, 9, 1)
    assert MODELS["mine"].shapes(config, (20, 9, 1)) == [(1, 1, 32)] * 2
    fields = MODELS["mine"].fields(config)
    assert (fields["time"], fields["is_masked"]) == ("sequence", False)
    start = {n: v for n, v in config.items() if n not in ("norm.time", "norm.masked")}
    layer = resolve(start | {"norm.name": "layer"}).config
    assert MODELS["mine"].fields(layer)["time"] == "sequence"  # the same norm, at all steps at once
    with pytest.raises(ConfigError, match="groups examples, and norm.time = 'sequence'"):
        resolve(config | {"norm.stats_batch": 8})
    with pytest.raises(ConfigError, match="nor|groups = 3 does not divide the 32 channels"):
        resolve(start | {"norm.name": "group", "norm.groups": 3})


OURS = {
    "rnn": "from normlab.models.rnn import RNN as Net\n",
    "encoder": "from normlab.models.transformer import Encoder as Net\n",
}


ROWS = """
from normlab.models.row import Model
row = Model(title="t", module=Net, is_convolutional=False, has_time=True, kinds=("sequences",))
row = row.__class__(**vars(row) | {"options": ("widths", "cell", "normed"), "act": "tanh"})
MODELS = {"mine": row}
"""


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("time", ["step", "sequence"])
def test_a_trace_finds_what_the_formulas_of_our_networks_with_time_say(name, time):
    given = {"norm.name": "batch", "norm.time": time, "data.length": 6, "data.length_spread": 2}
    config = resolve(load_config(f"digits_{name}") | given).config
    trace = traced(name, config, example_shape(config))
    assert list(trace.shapes) == MODELS[name].shapes(config, example_shape(config))
    assert trace.has_head and trace.has_act == (name == "encoder")


def test_our_recurrent_network_from_a_file_trains_to_the_same_bits(tmp_path):
    """The rows of `RNN` itself, over sequences of a file: whatever the path adds would change the
    numbers."""
    text = OURS["rnn"] + ROWS
    file, finals = write(tmp_path / "net.py", text), {}
    shared = ["--config=digits_rnn", f"--data={npz(tmp_path / 'd.npz', **WHOLE)}"]
    shared += [
        "--config.train.steps=20",
        "--config.train.eval_every=20",
        "--config.norm.name=batch",
    ]
    for flags in ([], [f"--model={file}"]):
        run = run_script("train", *shared, *flags, cwd=tmp_path)
        assert run.returncode == 0 and run.stderr == "", run.stderr
    for path in (tmp_path / "results" / "runs").glob("*/result.json"):
        result = json.loads(path.read_text())
        finals[result["config"]["model.name"]] = result["final"], result["curve_sha256"]
    assert finals["mine"] == finals["rnn"]


def test_the_example_trains_and_its_page_shows_it(tmp_path):
    page = (ROOT / "docs" / "your_own_network.md").read_text(encoding="utf-8")
    assert TEXT in page
    add_models([str(EXAMPLE)])
    name = add_data(npz(tmp_path / "d.npz", **WHOLE))
    chosen = {"model.name": "my_sequence_network", "data.name": name, "model.widths": (8,)}
    study = adapt(load_study("which_norm"), overrides=chosen)
    check_study(study, "quick")
    assert [s.base for s in study.all_setups] == ["digits_rnn"] * 2
    assert {"none", "batch", "layer"} <= {arm.name for arm in study.all_setups[0].arms}
    ids = {
        run_id(resolve(load_config(s.base) | s.settings | arm.settings).config)
        for s in study.all_setups
        for arm in s.arms
    }
    assert len(ids) == sum(len(s.arms) for s in study.all_setups)
