"""List schemes, kernels, networks, studies, settings, diagnostics, configurations or data sets.

Examples:
  python scripts/list.py norms
  python scripts/list.py norms --norms=docs/examples/my_norm.py         # with one of your own
  python scripts/list.py data --data=docs/examples/my_data.py       # with data of your own
  python scripts/list.py studies
  python scripts/list.py settings          # each with its default, its values and its reason
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # normlab need not be installed

from absl import flags

from normlab import cli
from normlab.data import DATASETS, DataUnavailable, OutsideData, check
from normlab.diagnostics.names import NAMES
from normlab.layers.table import KERNELS
from normlab.models.table import MODELS
from normlab.norms.table import COMMON, NORMS
from normlab.report.tables import Table
from normlab.settings import SETTINGS
from normlab.shipped import ROOT
from normlab.studies.setup import config_names
from normlab.studies.study import load_study, study_names

flags.DEFINE_bool("markdown", False, "norms: print docs/norms.md.")
cli.define_data_dir()
cli.define_norms()
cli.define_data()
cli.define_model()
FLAGS = flags.FLAGS

Rows = list[Sequence[str]]


def norm_rows() -> Rows:
    rows: Rows = [("name", "title", "statistics over", "options", "source")]
    for name, row in NORMS.items():
        over, options = ",".join(row.over) or "-", ",".join(row.options) or "-"
        rows.append((name, row.title, over, options, row.source or "-"))
    return rows


def kernel_rows() -> Rows:
    rows: Rows = [("name", "title", "parameters", "source")]
    for name, row in KERNELS.items():
        rows.append((name, row.title, ",".join(row.parameters) or "-", row.source or "-"))
    return rows


def model_rows() -> Rows:
    rows: Rows = [("name", "options", "title")]
    return rows + [(name, ",".join(m.options), m.title) for name, m in MODELS.items()]


def study_rows() -> Rows:
    rows: Rows = [("name", "profiles", "in all", "question")]
    for name in study_names():
        study = load_study(name)
        in_all = "no" if study.is_extra else "yes"
        rows.append((name, ",".join(study.setups), in_all, study.question))
    return rows


def setting_rows() -> Rows:
    rows: Rows = [("name", "default", "values", "meaning")]
    for name, setting in SETTINGS.items():
        unit = f" [{setting.unit}]" if setting.unit else ""
        rows.append((name, repr(setting.default), values_of(name), setting.why + unit))
    return rows


def values_of(name: str) -> str:
    """Return the values that a setting may have; "" where any of its type may be."""
    lists = {"data.name": "data", "eval.probes": "probes", "model.name": "models"}
    lists |= {"norm.name": "norms", "norm.kernel": "kernels"}
    if name in lists:
        return f"see list.py {lists[name]}"
    setting = SETTINGS[name]
    if setting.low is None:
        return ", ".join(setting.choices)
    low = f"{'above' if setting.is_open else 'from'} {setting.low:g}"
    return low + ("" if setting.high is None else f" to {setting.high:g}")


def probe_rows() -> Rows:
    rows: Rows = [("name", "what it measures")]
    return [*rows, *NAMES.items()]


def config_rows() -> Rows:
    rows: Rows = [("name", "what it is")]
    for name in config_names():
        text = (ROOT / "configs" / f"{name}.py").read_text(encoding="utf-8")
        rows.append((name, (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]))
    return rows


def data_rows() -> Rows:
    rows: Rows = [("name", "train", "valid.", "test", "shape", "state", "licence", "title")]
    for name, row in DATASETS.items():
        shape = "x".join(map(str, row.shape))
        sizes = (str(row.train), str(row.validation), str(row.test))
        rows.append((name, *sizes, shape, state(name), row.licence, row.title))
    return rows


def state(name: str) -> str:
    """Return built in, prepared or not prepared."""
    if not DATASETS[name].prepared:
        return "read from its file" if isinstance(DATASETS[name], OutsideData) else "built in"
    try:
        check(name, FLAGS.data_dir)
    except DataUnavailable:
        return "not prepared"
    return "prepared"


LISTS: dict[str, Callable[[], Rows]] = {
    "norms": norm_rows,
    "kernels": kernel_rows,
    "models": model_rows,
    "studies": study_rows,
    "settings": setting_rows,
    "probes": probe_rows,
    "configs": config_rows,
    "data": data_rows,
}


def code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def computed() -> Rows:
    head = ("name", "scheme", "over", "coupled", "parameters", "state", "invariant to", "exact")
    rows: Rows = [head]
    for name, row in NORMS.items():
        title = f"{row.title}; on [N, C] the same as {row.equals}" if row.equals else row.title
        coupled = "no" if row.is_per_sample else "yes"
        state = "running" if row.running_statistics else ""
        felt, exact = ", ".join(row.invariant), "yes" if row.exact else ""
        cells = (title, ", ".join(row.over), coupled, code(row.parameters), state, felt, exact)
        rows.append((f"`{name}`", *cells))
    return rows


def taken() -> Rows:
    rows: Rows = [("name", "options", "arguments", "activation", "passes over x", "source")]
    for name, row in NORMS.items():
        act = f"`{row.act.rpartition(':')[2]}`" if row.act else ""
        cells = (code(row.options), code(row.arguments), act, row.cost, row.source)
        rows.append((f"`{name}`", *cells))
    return rows


def options() -> Rows:
    """The options that any scheme takes, in the order of the settings."""
    rows: Rows = [("option", "default", "values", "meaning")]
    legal = {*COMMON, *(option for row in NORMS.values() for option in row.options)}
    for name, setting in SETTINGS.items():
        room, _, option = name.partition(".")
        if room != "norm" or option not in legal:
            continue
        names = KERNELS if option == "kernel" else setting.choices
        values = code(names) or values_of(name)
        unit = f" [{setting.unit}]" if setting.unit else ""
        rows.append((f"`{option}`", f"`{setting.default!r}`", values, setting.why + unit))
    return rows


def kernels() -> Rows:
    rows: Rows = [("name", "scheme", "parameters", "state", "invariant to", "source")]
    for name, row in KERNELS.items():
        state, felt = "`norm_state`" if row.has_state else "", ", ".join(row.invariant)
        rows.append((f"`{name}`", row.title, code(row.parameters), state, felt, row.source))
    return rows


PAGE = {
    "What they compute": computed,
    "What they take": taken,
    "Options": options,
    "Kernel schemes": kernels,
}
"""Heading in docs/norms.md -> the table below it."""


def norms_page() -> str:
    """Return docs/norms.md with its tables written anew; the text is that of the file."""
    introduction, *sections = (ROOT / "docs" / "norms.md").read_text("utf-8").split("\n## ")
    for section in sections:
        heading, _, text = section.partition("\n")
        table = markdown(PAGE[heading]())
        introduction += f"\n## {heading}\n{text.partition('| ')[0]}{table}\n"
    return introduction


def markdown(rows: Rows) -> str:
    """Return rows as a Markdown table; an empty cell is a dash."""
    head, *body = rows
    lines = [head, ["---"] * len(head)]
    lines += [[cell.replace("|", "\\|") or "-" for cell in row] for row in body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(words: list[str]) -> int:
    if len(words) != 1 or words[0] not in LISTS:
        given = f"{' '.join(words)!r} is no list" if words else "no list named"
        raise cli.UsageError(f"{given}; use python scripts/list.py {'|'.join(LISTS)}")
    cli.load_norms()
    cli.given_data()
    cli.load_models()
    is_page = FLAGS.markdown and words[0] == "norms"
    head, *rows = LISTS[words[0]]()
    print(norms_page() if is_page else Table("", head, rows).to_text() + "\n", end="")
    return cli.OK


if __name__ == "__main__":
    cli.start(main, takes_words=True)
