"""For notebooks and programs: run, study, load_runs, with the results of the command lines.

import normlab

run = normlab.run("digits_mlp", norm="group", lr=0.3)
run.curve, run.final
normlab.study("convergence", arms=["none", "batch"], seeds=3)
normlab.load_runs("results", norm="group")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from normlab import cli
from normlab.data import DATASETS, add_data
from normlab.launch import single
from normlab.launch.failures import raise_lost
from normlab.launch.sweep import Job
from normlab.lookup import did_you_mean, local_path
from normlab.models.outside import add_models, outside_models
from normlab.norms.outside import add_norms, outside_norms
from normlab.outside import OutsideRow
from normlab.runs.checkpoints import tidy
from normlab.runs.config import resolve, run_id
from normlab.runs.errors import ConfigError
from normlab.runs.kept_data import recall_data
from normlab.runs.params import load_params
from normlab.runs.record import Record
from normlab.runs.store import Records, Store
from normlab.settings import SETTINGS, Config, flatten, from_json
from normlab.studies.checks import check_study
from normlab.studies.decisions import Verdict
from normlab.studies.setup import config_names, load_config
from normlab.studies.study import Study, adapt, load_studies

FILES = (".py", ".npz", ".csv", ".tsv")
GROUPS = ("data", "model", "norm", "optim")
"""Groups that are named by their name: norm="group" is norm.name."""


@dataclass(frozen=True)
class Run(Record):
    """A finished run: `config`, `curve` (one dict an evaluation), `final`, `status`, `seconds`."""

    folder: Path = field(default_factory=Path)

    def variables(self) -> dict[str, Any]:
        """Return the parameters and statistics after the last step, as Flax takes them. Raises
        StorageError where they were not kept (`keep_params`)."""
        return load_params(self.folder, self)

    def network(self) -> Any:
        """Return the Linen module that was trained: `net.apply(variables, x, train=False)`."""
        from normlab.models.build import build_model

        classes = DATASETS[self.config["data.name"]].classes
        return build_model(self.config, classes, self.provenance["conv"])

    def examples(self, part: str = "test", data_dir: str | None = None) -> tuple[Any, Any]:
        """Return the inputs of the network and the labels of train, validation or test."""
        from normlab.training.batches import load_data
        from normlab.training.program import Resident, input_shape

        data, config = load_data(self.config, data_dir), self.config
        sizes = config["data.train_examples"], config["data.validation_examples"]
        rows = getattr(data.split(config["seed"], *sizes), part)
        x = Resident(data.images, input_shape(config, data.shape)).gather(rows)
        return x, data.labels[rows]

    def __repr__(self) -> str:
        parts = [self.config[f"{group}.name"] for group in ("data", "model", "norm")]
        score = self.final.get("test_accuracy")
        ends = self.status if score is None else f"test accuracy {100 * score:.2f} %"
        return f"<Run {self.run_id}: {' '.join(parts)}, {ends}>"


@dataclass(frozen=True)
class StudyResult:
    """A study that was carried out."""

    text: str
    """Its verdicts in words."""
    page: Path
    verdicts: Mapping[str, Verdict]
    """Contrast -> its verdict: word, estimate with its interval, n."""
    runs: list[Run]

    def __repr__(self) -> str:
        return f"{self.text}\npage: {self.page}"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(self.text)}</pre><a href='{escape(str(self.page))}'>page</a>"


def settings_of(short: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> Config:
    """Return keyword arguments as settings. `lr` is optim.lr, `norm` is norm.name. A last word that
    several settings share is refused; `settings` takes whole names. Raises ConfigError."""
    found: Config = dict(settings or {})
    for name, value in short.items():
        whole = [name] if name in SETTINGS else [f"{name}.name"] if name in GROUPS else []
        whole = whole or [s for s in SETTINGS if name == s.rpartition(".")[2]]
        if len(whole) != 1:
            words = [*GROUPS, *(s.rpartition(".")[2] for s in SETTINGS)]
            hint = f" (it may be {', '.join(whole)}: use settings={{...}})" if whole else ""
            raise ConfigError(f"unknown setting {name!r}{hint or did_you_mean(name, words)}")
        found[whole[0]] = value
    return from_json(found)


def is_file(value: Any) -> bool:
    return isinstance(value, Path) or (
        isinstance(value, str) and (value.endswith(FILES) or "/" in value)
    )


def with_files(given: Config, norms: Sequence[str | Path]) -> tuple[Config, list[str]]:
    """Return the settings with files of data and networks read and named, and the names of the
    norms of these files. A file that was read before is not added again, unless it has changed."""
    given = dict(given)
    names_of_norms = [
        name for file in norms for name in _known(outside_norms(), file) or add_norms([str(file)])
    ]
    if is_file(given.get("data.name")):
        given["data.name"] = add_data(local_path(str(given["data.name"])))
    if is_file(given.get("model.name")):
        file = local_path(str(given["model.name"]))
        names = _known(outside_models(), file) or add_models([file])
        if len(names) > 1:
            raise ConfigError(
                f"model file {file!r} has {', '.join(names)}; name one, as in model={names[0]!r}"
            )
        given["model.name"] = names[0]
    return given, names_of_norms


def _known(rows: Mapping[str, OutsideRow], file: str | Path) -> list[str]:
    """Return the names of the rows that came from this file with the content that it has now."""
    place = Path(file).resolve()
    own = {name: row for name, row in rows.items() if row.file == str(place)}
    content = place.read_bytes() if own and place.is_file() else b""
    return [name for name, row in own.items() if row.code.encode() == content]


def run(
    config: str | Mapping[str, Any] = "digits_mlp",
    *,
    results: str | Path = "results",
    norms: Sequence[str | Path] = (),
    data_dir: str | None = None,
    keep_params: bool = False,
    settings: Mapping[str, Any] | None = None,
    **short: Any,
) -> Run:
    """Train one run, unless it is finished, and return it. An interrupted run continues.

    `config`: a name in configs/, or settings. `short`: settings by their last word, such as lr=0.1,
    steps=300, seed=3; norm, data, model and optim by name. `data` and `model` may be files, as
    `norms` are (docs/your_own_data.md, docs/your_own_network.md, docs/your_own_norm.md).
    `keep_params`: keep the parameters for `Run.variables`.
    Raises ConfigError for settings that make no run, StorageError, and what ended the run.
    """
    if isinstance(config, str) and config not in config_names():
        names = ", ".join(config_names())
        raise ConfigError(f"unknown configuration {config!r} (in configs/: {names})")
    base = load_config(config) if isinstance(config, str) else flatten(dict(config))
    store = Store(results)
    store.check()
    recall_data(store.root)
    chosen, _ = with_files(settings_of(short, settings), norms)
    kept = {"host.keep_params": keep_params}
    full, notes = resolve(base | chosen | kept, data_dir)
    for note in notes:
        print(f"note: {note}")
    name = run_id(full)
    if not store.is_done(name):
        store.open()
        tidy(store)
        single.train(store, name, full, data_dir=data_dir)
    return _run(store, store.read(name))


def load_runs(results: str | Path = "results", **short: Any) -> list[Run]:
    """Return the finished runs of a results directory with these settings, such as norm="batch"."""
    store, wanted = Store(results), settings_of(short)
    found = (record for record in Records(store).values())
    return [_run(store, r) for r in found if wanted.items() <= r.config.items()]


def _run(store: Store, record: Record) -> Run:
    return Run(**vars(record), folder=store.run_dir(record.run_id))


def study(
    name: str | Path | Sequence[str],
    *,
    profile: str = "quick",
    arms: Sequence[str] = (),
    seeds: int | None = None,
    setups: Sequence[str] = (),
    results: str | Path = "results",
    norms: Sequence[str | Path] = (),
    data_dir: str | None = None,
    keep_params: bool = False,
    settings: Mapping[str, Any] | None = None,
    **short: Any,
) -> StudyResult:
    """Train what a study lacks, write its page and return its verdicts. An interrupted study
    continues where it stopped.

    `name`: a study, a file, or several of them. The other arguments are those of scripts/study.py;
    `short` and `settings` override what the study does not vary, as in `run`.
    Raises ConfigError, StorageError, and an error for runs that could not be finished.
    """
    from normlab.report.job import write_job
    from normlab.report.terminal import headline

    store = Store(results)
    store.check()
    recall_data(store.root)
    chosen, joined = with_files(settings_of(short, settings), norms)
    chosen |= {"host.keep_params": True} if keep_params else {}
    options: dict[str, Any] = {"overrides": chosen, "arms": tuple(arms), "seeds": seeds}
    names = [str(name)] if isinstance(name, (str, Path)) else list(name)
    studies: list[Study] = [adapt(s, **options, norms=joined) for s in load_studies(names)]
    for each in studies:
        check_study(each, profile, data_dir)
    job = Job(studies, profile, store, data_dir=data_dir, setups=setups, warn=cli.warn)
    store.open()
    if job.is_planned:
        job.write_rules()
    job.prepare()
    processes = chosen.get("host.processes", 0)
    failures = job.run(processes=processes, on_timing=(lambda: None) if job.is_planned else None)
    reports, page = write_job(job)
    raise_lost(failures, store)
    verdicts = {v.contrast.id: v for report in reports for v in report.verdicts}
    done = [job.records[n] for n in job.required() if n in job.records]
    return StudyResult(headline(reports), page, verdicts, [_run(store, r) for r in done])
