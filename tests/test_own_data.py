"""Data sets of files outside the repository: reading, refusals, identity, runs, what is kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from workspace import ROOT, run_script

from normlab import data
from normlab.data import DATASETS, OutsideData, add_data
from normlab.report.formatting import command
from normlab.runs.config import resolve, run_id
from normlab.runs.errors import ConfigError
from normlab.runs.fsck import DAMAGE, examine
from normlab.runs.kept_data import recall_data
from normlab.runs.record import Record
from normlab.runs.store import Store
from normlab.studies.checks import check_study
from normlab.studies.metrics import is_failed
from normlab.studies.setup import load_config
from normlab.studies.study import Study, adapt, load_study

RNG = np.random.default_rng(0)
FEATURES, IMAGES = RNG.normal(size=(30, 4)), RNG.integers(0, 256, (30, 8, 6, 3))
LABELS = np.arange(30) % 3
TRAIN = {"x_train": FEATURES, "y_train": LABELS}
PARTS = {"x_train": FEATURES[:20], "y_train": LABELS[:20]}
PARTS |= {"x_test": FEATURES[20:], "y_test": LABELS[20:]}
SMALL = {"data.batch": 16}
TABLE = [f"{a},{b},{'uvw'[c]}" for (a, b, *_), c in zip(FEATURES.tolist(), LABELS, strict=True)]
CSV = "\n".join(["a,b,kind", *TABLE])

pytestmark = pytest.mark.usefixtures("restored_datasets")


def npz(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def text(path: Path, content: str, encoding: str = "utf-8") -> str:
    path.write_text(content, encoding=encoding)
    return str(path)


def folder(path: Path, images: np.ndarray = IMAGES, ending: str = "png") -> str:
    for i, (pixels, label) in enumerate(zip(images.astype(np.uint8), LABELS, strict=False)):
        (path / "uvw"[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path / "uvw"[label] / f"{i:02}.{ending}")
    return str(path)


def row(file: str) -> tuple[str, OutsideData]:
    name = add_data(file)
    found = DATASETS[name]
    assert isinstance(found, OutsideData)
    return name, found


def test_an_npz_with_features_is_standardized(tmp_path):
    x = np.hstack([1e9 + FEATURES, np.full((30, 1), 7.0), 1e-300 * FEATURES, 1e300 * FEATURES])
    name, found = row(npz(tmp_path / "my set.npz", X=x, Y=LABELS))
    assert name == f"my_set-{found.sha256[:8]}" and found.shape == (1, 1, 13)
    assert (found.kind, found.classes, found.official_test) == ("features", 3, False)
    loaded = data.load(name)
    assert (loaded.images.dtype, loaded.labels.dtype) == (np.float32, np.int32)
    expected = (FEATURES - FEATURES.mean(0)) / FEATURES.std(0)
    for first in (0, 5, 9):
        np.testing.assert_allclose(loaded.images[:, first : first + 4], expected, atol=1e-6)
    assert not loaded.images[:, 4].any() and np.array_equal(loaded.labels, LABELS)
    line = "30 examples, 3 classes, 18 train, 6 validation, 6 test, chance 33.3 %"
    assert found.line(name).startswith(f"{name}: {line}; 13 features, standardized")


@pytest.mark.parametrize("images", [IMAGES, IMAGES[..., 0], IMAGES[..., :1].astype(np.uint8)])
def test_an_npz_with_images_keeps_its_pixels(images, tmp_path):
    name, found = row(npz(tmp_path / "d.npz", x=images, y=[f"class {i}" for i in LABELS]))
    channels = 1 if images.ndim == 3 else images.shape[3]
    assert (found.kind, found.shape) == ("images", (8, 6, channels))
    loaded = data.load(name)
    assert loaded.images.dtype == np.uint8 and np.array_equal(loaded.labels, LABELS)
    assert np.array_equal(loaded.images, images.reshape(30, -1))


def test_an_official_test_split_is_kept_for_every_seed(tmp_path):
    name, found = row(npz(tmp_path / "d.npz", **PARTS))
    sizes = (found.train, found.validation, found.test)
    assert found.official_test and sizes == (16, 4, 10)
    for seed in (0, 1):
        assert np.array_equal(data.load(name).split(seed).test, np.arange(20, 30))
    name, _ = row(npz(tmp_path / "e.npz", x=FEATURES, y=LABELS))
    first, second = (data.load(name).split(seed).test for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_a_csv_has_names_numbers_and_labels(tmp_path):
    name, found = row(text(tmp_path / "d.csv", CSV))
    expected = (FEATURES - FEATURES.mean(0)) / FEATURES.std(0)
    np.testing.assert_allclose(data.load(name).images, expected[:, :2], atol=1e-6)
    assert np.array_equal(data.load(name).labels, LABELS) and "label kind" in found.title
    lines = [f'"{c}";{a};{b}' for a, b, c in (line.split(",") for line in TABLE)]
    _, same = row(text(tmp_path / "e.csv", "\ufeffTarget;a;b\n" + "\n\n".join(lines) + "\n"))
    assert same.sha256 == found.sha256 and "label Target" in same.title
    tabs = CSV.replace(",", "\t").replace("u\n", "10\n").replace("v\n", "9\n").replace("w", "-1")
    name, _ = row(text(tmp_path / "f.tsv", tabs))
    assert np.array_equal(data.load(name).labels[:3], [2, 1, 0])  # by number, not by letter


@pytest.mark.parametrize("images", [IMAGES, IMAGES[..., 0]])
def test_a_folder_has_a_class_in_each_folder(images, tmp_path):
    order = np.argsort(LABELS, kind="stable")
    _, found = row(folder(tmp_path / "d", images))
    assert found.sha256 == row(npz(tmp_path / "d.npz", x=images[order], y=LABELS[order]))[1].sha256
    folder(tmp_path / "parts" / "train", images)
    folder(tmp_path / "parts" / "test", images[:9], "jpg")
    _, parts = row(str(tmp_path / "parts"))
    assert parts.official_test and (parts.examples, parts.test) == (39, 9)


def test_code_returns_arrays_or_has_them(tmp_path):
    head = "import numpy as np\nx, y = np.arange(60.).reshape(30, 2), np.arange(30) % 3\n"
    one = row(text(tmp_path / "a.py", head))[1]
    two = row(text(tmp_path / "b.py", head + "def read(): return x, y\n"))[1]
    assert one.sha256 == two.sha256 and one.shape == (1, 1, 2)
    four = row(text(tmp_path / "c.py", head + "def read(): return x, y, x[:6], y[:6]\n"))[1]
    assert four.official_test and four.test == 6
    assert row(str(ROOT / "docs" / "examples" / "my_data.py"))[1].examples == 450


def lines(*changed: str) -> Callable[[Path], str]:
    """A CSV whose last lines are these."""
    return lambda path: text(path / "bad.csv", "\n".join([CSV, *changed]))


def arrays(**changed: Any) -> Callable[[Path], str]:
    return lambda path: npz(path / "bad.npz", **{"x": FEATURES, "y": LABELS} | changed)


def code(content: str) -> Callable[[Path], str]:
    return lambda path: text(path / "bad.py", content)


def with_file(name: str, content: bytes) -> Callable[[Path], str]:
    """A folder of images with one more file."""

    def make(path: Path) -> str:
        folder(path / "bad")
        (path / "bad" / name).parent.mkdir(exist_ok=True)
        (path / "bad" / name).write_bytes(content)
        return str(path / "bad")

    return make


def other_image(mode: str, size: tuple[int, int]) -> Callable[[Path], str]:
    def make(path: Path) -> str:
        folder(path / "bad")
        Image.new(mode, size).save(path / "bad" / "u" / "zz.png")
        return str(path / "bad")

    return make


WITH_NAN = np.where(np.arange(120).reshape(30, 4) == 9, np.nan, FEATURES)
BAD: dict[str, tuple[Callable[[Path], str], str]] = {
    "absent": (lambda path: str(path / "bad.npz"), "cannot be read (No such file or directory)"),
    "ending": (lambda path: text(path / "bad.xls", "x"), "is no .npz, .csv, .tsv or .py file"),
    "no zip": (lambda path: text(path / "bad.npz", "x"), "cannot be read (ValueError"),
    "empty file": (lambda path: text(path / "bad.npz", ""), "cannot be read (EOFError"),
    "objects": (arrays(y=np.array([{}] * 30, object)), "cannot be read (ValueError: Object arrays"),
    "no y": (lambda path: npz(path / "bad.npz", x=FEATURES, labels=LABELS), "but labels, x;"),
    "lengths": (arrays(y=LABELS[1:]), "x has shape (30, 4) and its labels have (29,)"),
    "a number": (arrays(y=3), "labels have ()"),
    "one-hot": (arrays(y=np.eye(3)[LABELS]), "its labels have shape (30, 3); give one for each"),
    "fractions": (arrays(y=LABELS + 0.5), "a label is 0.5; give classes as integers or texts"),
    "nan label": (arrays(y=np.where(LABELS, 1.0, np.nan)), "a label is nan"),
    "one class": (arrays(y=LABELS * 0), "its 30 labels have 1 different values; give at least 2"),
    "regression": (arrays(y=np.arange(30)), "30 different values; these are no classes"),
    "few": (arrays(x=FEATURES[:4], y=LABELS[:4]), "4 examples are too few"),
    "nan": (arrays(x=WITH_NAN), "feature 1 of example 2 is nan; every one is needed"),
    "complex": (arrays(x=FEATURES * 1j), "its examples are complex128 of shape (30, 4)"),
    "no features": (arrays(x=FEATURES[:, :0]), "of shape (30, 0); give numbers"),
    "five axes": (arrays(x=IMAGES[..., None]), "its shape is (30, 8, 6, 3, 1); give [N, D]"),
    "float images": (arrays(x=IMAGES / 255), "(30, 8, 6, 3) are float64 from 0 to 1; images are"),
    "16 bits": (arrays(x=IMAGES * 256), "int64 from 0 to 65280; images are integers from 0 to 255"),
    "channels first": (arrays(x=IMAGES.transpose(0, 3, 2, 1)), "have 8 channels; give at most 4"),
    "parts": (
        lambda path: npz(path / "bad.npz", **TRAIN, x_test=FEATURES[:, 1:], y_test=LABELS),
        "x_test is of (3,), x_train of (4,)",
    ),
    "class in the test alone": (
        lambda path: npz(path / "bad.npz", **TRAIN, x_test=FEATURES, y_test=LABELS + 1),
        "a class of its test examples has no other example",
    ),
    "empty table": (lambda path: text(path / "bad.csv", ""), "does not name at least two columns"),
    "no names": (lambda path: text(path / "bad.csv", "1,2\n3,4\n"), "its first line, '1,2', does"),
    "no lines": (lambda path: text(path / "bad.csv", "a,b\n"), "cannot be read (ValueError"),
    "short line": (lines("1,2"), "line 32 has 2 columns, the first has 3"),
    "missing": (lines("1,2,u", "1,,u"), "line 33, column 'b' = '' is missing; fill it in"),
    "not there": (lines("NA,2,u"), "line 32, column 'a' = 'NA' is missing; fill it in"),
    "text": (lines("1,red,u"), "line 32, column 'b' = 'red' is no number; write it as one"),
    "infinite": (lines("1,inf,u"), "line 32, column 'b' = 'inf' is no number"),
    "no label": (lines("1,2,"), "line 32: the label 'kind' is missing"),
    "latin": (
        lambda path: text(path / "bad.csv", "a,b\n1,\xe9", "latin-1"),
        "cannot be read (UnicodeDecodeError",
    ),
    "no folders": (lambda path: str(path), "it has no folders with PNG or JPG images"),
    "empty folder": (with_file("empty/notes.txt", b""), "folder 'empty' has no PNG or JPG image"),
    "no image": (with_file("u/zz.png", b"no image"), "'u/zz.png' is no image that can be read"),
    "sizes": (other_image("RGB", (5, 5)), "'u/zz.png' has 5 x 5 pixels, the first image 6 x 8"),
    "deep": (other_image("I;16", (6, 8)), "'u/zz.png' has more than 8 bits; save it with 8"),
    "raises": (code("1 / 0"), "cannot be read (ZeroDivisionError: division by zero)"),
    "leaves": (code("raise SystemExit(0)"), "cannot be read (SystemExit: 0)"),
    "syntax": (code("def"), "cannot be read (SyntaxError"),
    "no arrays": (code("a = 3"), "nor x_train, y_train, x_test, y_test, but a;"),
    "five": (code("def read(): return 1, 2, 3, 4, 5"), "read() must return (x, y) or (x_train"),
    "ragged": (code("x, y = [[1], [1, 2]], [0, 1]"), "cannot be read (ValueError"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_in_one_line_and_adds_nothing(case, tmp_path):
    make, words = BAD[case]
    file = make(tmp_path)
    before, there = dict(DATASETS), sorted(tmp_path.rglob("*"))
    with pytest.raises(data.DataError) as refusal:
        add_data(file)
    message = str(refusal.value)
    assert words in message and message.startswith(f"data {file!r}") and len(message) < 400
    assert "\n" not in message and before == DATASETS and sorted(tmp_path.rglob("*")) == there


def test_bad_input_is_one_line_exit_code_2_and_nothing_written(tmp_path):
    file = lines("1,,u")(tmp_path)
    config = f"--config={ROOT / 'configs' / 'digits_mlp.py'}"
    for flags, words in (
        ([f"--data={file}"], "error[data]: data "),
        ([f"--data={file}", "--config.data.name=digits"], "name two data sets; leave one"),
        (["--config.data.name=mydata"], "one of your own needs --data=FILE"),
    ):
        run = run_script("train", config, *flags, cwd=tmp_path)
        assert run.returncode == 2 and words in run.stderr and run.stdout == ""
        assert len(run.stderr.splitlines()) == 1
        assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"]


def test_the_content_is_part_of_the_run_and_the_place_is_not(tmp_path):
    def id_of(path: Path, **arrays: Any) -> str:
        path.parent.mkdir(exist_ok=True)
        return run_id(resolve({"data.name": add_data(npz(path, **arrays)), **SMALL}).config)

    first = id_of(tmp_path / "a.npz", x=FEATURES, y=LABELS)
    other = id_of(tmp_path / "far" / "b.npz", x=FEATURES, y=LABELS)
    assert other == first and run_id(resolve({}).config) != first
    changed = FEATURES.copy()
    changed[3, 1] = np.nextafter(changed[3, 1], 9)
    parts = {"x_train": FEATURES[:23], "y_train": LABELS[:23]}  # 18 for training, as without
    parts |= {"x_test": FEATURES[23:], "y_test": LABELS[23:]}
    ids = {
        first,
        id_of(tmp_path / "a.npz", x=changed, y=LABELS),
        id_of(tmp_path / "a.npz", x=FEATURES, y=(LABELS + 1) % 3),
        id_of(tmp_path / "a.npz", x=FEATURES[::-1], y=LABELS[::-1]),
        id_of(tmp_path / "a.npz", **parts),
    }
    assert len(ids) == 5


@pytest.mark.parametrize("classes", [2, 3, 20, 100])
def test_any_number_of_classes_resolves(classes, tmp_path):
    x, y = RNG.integers(0, 256, (400, 8, 8)), np.arange(400) % classes
    name, found = row(npz(tmp_path / "d.npz", x=x, y=y))
    chance = -(-400 // classes) / 400
    assert found.classes == classes and found.chance == chance == data.load(name).chance
    for model in ("mlp", "cnn", "resnet", "rnn", "encoder"):
        widths = (16,) if model == "encoder" else (16, 32)
        assert resolve({"data.name": name, "model.name": model, "model.widths": widths})


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"model.name": "cnn"}, "'cnn' takes images, d-"),
        ({"model.name": "encoder"}, "is features; use one of mlp, or other data"),
        ({"data.augment": "crop_flip"}, "crop_flip"),
        ({"data.batch": 32}, "data.batch = 32"),
    ],
)
def test_features_are_for_dense_networks(settings, words, tmp_path):
    name = add_data(npz(tmp_path / "d.npz", x=FEATURES, y=LABELS))
    assert resolve({"data.name": name, **SMALL})
    with pytest.raises(ConfigError, match=words):
        resolve({"data.name": name} | SMALL | settings)


def test_a_hard_set_of_many_classes_is_not_called_failed(tmp_path):
    """Failure is measured from chance: 45 % is far above it with 100 classes, not with 2."""
    for classes, failed in ((100, False), (2, True)):
        x, y = RNG.normal(size=(400, 2)), np.arange(400) % classes
        name, _ = row(npz(tmp_path / "d.npz", x=x, y=y))
        config, final = resolve({"data.name": name}).config, {"validation_accuracy": 0.45}
        for provenance in ({}, {"chance": 1 / classes}):
            record = Record("0", config, "trained", final, [], provenance=provenance)
            assert is_failed(record) == failed


def test_kept_examples_give_the_same_data_without_the_file(tmp_path):
    for arrays in (PARTS, {"x": IMAGES, "y": LABELS}):
        name, found = row(npz(tmp_path / "mine.npz", **arrays))
        before, store = data.load(name), Store(tmp_path / "results").open()
        del DATASETS[name]
        recall_data(store.root)
        after = data.load(name)
        assert after.sha256 == before.sha256 and np.array_equal(after.images, before.images)
        kept = store.root / "data" / f"{name}.npz"
        assert dataclasses.replace(found, kept=str(kept)) == DATASETS[name]
        assert add_data(str(kept)) == name  # it is a file of yours too
    assert not [f for f in examine(store.root) if f.kind in DAMAGE]
    np.savez(kept, x=IMAGES, y=LABELS[::-1])
    del DATASETS[name]
    recall_data(store.root)
    with pytest.raises(data.DataError, match="is not what was kept; give --data=FILE again"):
        data.load(name)
    kept.unlink()
    with pytest.raises(ConfigError, match="its examples are not in .*; give --data=FILE"):
        resolve({"data.name": name, **SMALL})
    assert resolve({"data.name": name, **SMALL}, needs_data=False)
    assert len([f for f in examine(store.root) if f.kind in DAMAGE]) == 1


def test_a_run_is_trained_and_found_again_without_the_file(tmp_path):
    file = text(tmp_path / "mine.csv", CSV)
    flags = [f"--config={ROOT / 'configs' / 'digits_mlp.py'}", "--config.model.widths=16"]
    flags += ["--config.train.steps=20", "--config.data.batch=16"]
    first = run_script("train", *flags, f"--data={file}", cwd=tmp_path)
    assert first.returncode == 0 and first.stderr == "", first.stderr
    name = first.stdout.partition(":")[0]
    assert f"{name}: 30 examples, 3 classes, 18 train, 6 validation, 6 test" in first.stdout
    (result,) = (tmp_path / "results" / "runs").glob("*/result.json")
    assert json.loads(result.read_text())["provenance"]["chance"] == pytest.approx(1 / 3)
    Path(file).unlink()
    again = run_script("train", *flags, f"--config.data.name={name}", cwd=tmp_path)
    assert again.returncode == 0 and f"run {result.parent.name} is finished" in again.stdout


def on(study: str, name: str, **facts: Any) -> Study:
    adapted = adapt(load_study(study), overrides={"data.name": name}, **facts)
    check_study(adapted, "quick")
    return adapted


def test_which_norm_is_asked_in_short_on_your_data(tmp_path):
    rng = np.random.default_rng(1)
    wide, tiny = rng.integers(0, 256, (200, 20, 20)), rng.integers(0, 256, (200, 3, 3))
    y = np.arange(200) % 4
    for x, base, stride, batch in (
        (FEATURES, "digits_mlp", 1, 16),
        (tiny, "digits_mlp", 1, 64),
        (IMAGES, "digits_cnn", 1, 16),
        (wide, "digits_cnn", 2, 64),
    ):
        file = npz(tmp_path / "mine.npz", x=x, y=y if len(x) == 200 else LABELS)
        study = on("which_norm", name := add_data(file))
        assert {s.base for s in study.all_setups} == {base} and [*study.setups] == ["quick"]
        for setup, size in zip(study.all_setups, (batch, 4), strict=True):
            config = load_config(setup.base) | setup.settings
            resolved = resolve(config | setup.arms[0].settings).config
            assert (resolved["data.name"], resolved["data.batch"]) == (name, size)
            assert resolved["model.stride"] == stride and name in setup.title
            assert {"none", "batch", "layer", "group", "rms"} <= {arm.name for arm in setup.arms}
        assert {r.setup for r in study.rankings} == {s.name for s in study.all_setups}
        assert not study.is_planned and study.planned and study.planned.on_data
        words = command(study, "quick").split()
        assert words[2:] == ["--study=which_norm", "--profile=quick", f"--data={file}"]


def test_a_study_leaves_out_what_cannot_run_on_your_data(tmp_path):
    name = add_data(npz(tmp_path / "mine.npz", x=FEATURES.repeat(4, 0), y=LABELS.repeat(4)))
    planned = load_study("convergence").setups["quick"]
    kept = on("convergence", name).setups["quick"]
    dense = [s.name for s in planned if load_config(s.base)["model.name"] == "mlp"]
    assert [s.name for s in kept] == dense and 0 < len(kept) < len(planned)
    few = add_data(npz(tmp_path / "few.npz", x=FEATURES, y=LABELS))
    batches = {arm.name for s in on("batch_size", few).setups["quick"] for arm in s.arms}
    every = {arm.name for s in load_study("batch_size").setups["quick"] for arm in s.arms}
    assert batches and batches < every
    with pytest.raises(ConfigError, match="model.name = '.*' takes images"):
        on("sequences", name)


def test_a_study_on_your_data_is_continued_without_the_file(tmp_path):
    file = npz(tmp_path / "mine.npz", x=FEATURES + 5 * LABELS[:, None], y=LABELS)
    flags = ["--study=which_norm", "--arms=none,batch", "--seeds=2", "--config.host.processes=1"]
    flags += ["--config.train.steps=60", "--config.train.eval_every=60"]
    flags += ["--setups=which-own-small"]
    run = run_script("study", *flags, f"--data={file}", cwd=tmp_path)
    assert run.returncode == 0 and run.stderr == "", run.stderr
    name = run.stdout.partition(":")[0]
    assert "test error, points" in run.stdout and " 0 runs trained" not in run.stdout
    (page,) = (tmp_path / "results" / "report-exploratory").glob("*/index.html")
    assert f"--data={file}" in page.read_text() and f"data.name={name}" in page.read_text()
    Path(file).unlink()
    again = run_script("study", *flags, f"--config.data.name={name}", cwd=tmp_path)
    assert again.returncode == 0 and "0 runs trained" in again.stdout, again.stderr
    data_flag = f"--data={ROOT / 'docs' / 'examples' / 'my_data.py'}"
    plan = run_script("study", "--study=all", data_flag, "--dry_run", cwd=tmp_path)
    assert plan.returncode == 0 and "note: convergence-cnn cannot run on " in plan.stdout
    assert "note: sequences cannot run on " in plan.stdout and "convergence-mlp" in plan.stdout
