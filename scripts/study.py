r"""Run studies: find the runs that are missing, train them, report.

Examples:
  python scripts/study.py --study=all                                  # every study, quick profile
  python scripts/study.py --study=convergence --arms=none,batch --seeds=3          # a first look
  python scripts/study.py --study=convergence --arms=none,batch,layer,group,rms    # with more norms
  python scripts/study.py --study=batch_size --profile=standard        # MNIST, Fashion-MNIST
  python scripts/study.py --study=batch_size --config.optim.momentum=0.8     # a variant of it
  python scripts/study.py --study=learning_rate --only=optim.lr=0.1    # only these runs
  python scripts/study.py --study=all --dry_run                        # say what would run
  python scripts/study.py --study=all --launch=slurm --launch.partition=cpu   # jobs of Slurm
  python scripts/study.py --study=all --launch=ray --launch.slots=40   # on a Ray cluster
  python scripts/study.py --study=convergence --norms=docs/examples/my_norm.py \
      --arms=none,batch,my_norm                                        # with a norm of your own
  python scripts/study.py --study=which_norm --data=docs/examples/my_data.py   # on your own data
  python scripts/study.py --study=which_norm --model=docs/examples/my_network.py   # in your network

--config.a.b=v overrides any setting that the study does not vary; scripts/list.py settings has all.
Norms of --norms join each setup that they can run in as screening arms, on a page of their own.
With --data every setup that can run on your data set does, on a page of its own. --model puts a
network of your own in the place of each setup's.
Finished runs are never repeated. A second call continues what was stopped, trains what is missing
and reports. Several commands may work on one --results at the same time.

Exit codes:
  0    all is done
  2    a mistake in the command
  4    a stopped run cannot continue, because its data or settings have changed
  5    a stopped run has no usable checkpoint
  6    another command works on these results, on a network disk or with Slurm
  7    results cannot be read or written
  70   some runs failed
  75   SIGTERM, 130 Ctrl-C: saved, the same command continues
"""

from __future__ import annotations

import functools
import math
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # normlab need not be installed

from absl import flags

from normlab import cli
from normlab.launch.batching import stopped_populations
from normlab.launch.engines.engine import Engine
from normlab.launch.failures import Failure, raise_lost
from normlab.launch.progress import clock
from normlab.launch.sweep import Job
from normlab.launch.trackers import Tracker, add_run
from normlab.report.claims import claim_order
from normlab.runs.errors import ConfigError
from normlab.runs.kept_data import recall_data
from normlab.runs.store import Store
from normlab.settings import Config
from normlab.studies.checks import check_study
from normlab.studies.decisions import decide
from normlab.studies.looks import StudyRuns
from normlab.studies.study import PROFILES, Study, adapt, load_studies, study_names

cli.define_paths("study", "Studies by name, or files; 'all' for every one but the extra ones.")
flags.DEFINE_enum("profile", "quick", PROFILES, "Data and sizes.")
flags.DEFINE_list(
    "arms", [], "Only these arms, on a page of their own; any scheme of list.py norms can join."
)
flags.DEFINE_list("setups", [], "Only these setups (a network and its data), by name.")
flags.DEFINE_integer(
    "seeds", None, "Reporting seeds of every arm, at least 2; a page of its own.", 2
)
flags.DEFINE_multi_string("only", [], "SETTING=VALUE: train only runs that have it.")
flags.DEFINE_integer("retries", 1, "How often a population that broke is tried again.", 0)
flags.DEFINE_enum(
    "rerun", "none", ("none", "stale"), "stale: repeat runs of an older training version."
)
flags.DEFINE_bool("restart", False, "Begin populations that were stopped again from step 0.")
flags.DEFINE_bool("dry_run", False, "Print the plan and stop.")
cli.define_results()
cli.define_data_dir()
cli.define_norms()
cli.define_data()
cli.define_model()
cli.define_keep_params()
cli.define_trackers()
cli.define_launch()
cli.define_overrides()
FLAGS = flags.FLAGS


def chosen_studies() -> list[Study]:
    """Return the studies that the flags name, adapted and checked."""
    if not FLAGS.study:
        raise ConfigError(f"no study; give --study=NAME (studies: {', '.join(study_names())}, all)")
    norms = cli.load_norms()
    cli.load_models()
    studies = load_studies(FLAGS.study)
    if "all" in FLAGS.study:
        studies = sorted((s for s in studies if FLAGS.profile in s.setups), key=first_claim)
        studies = [s for s in studies if not cli.given_data() or can_run(s)]
    studies = with_norms(studies, norms)
    for study in studies:
        check_study(study, FLAGS.profile, FLAGS.data_dir)
    for name in FLAGS.setups:
        known = [setup.name for study in studies for setup in study.setups[FLAGS.profile]]
        if name not in known:
            raise ConfigError(f"unknown setup {name!r} (setups: {', '.join(known)})")
    return studies


def overrides_of(study: Study) -> Config:
    """Return the settings of the command line that a study takes."""
    places = [
        part for s in study.all_setups for part in (s.settings, *(a.settings for a in s.arms))
    ]
    return cli.overrides(any(place.get("model.name") in cli.load_models() for place in places))


def can_run(study: Study) -> bool:
    """Return whether a study can run on the data of --data; print why it cannot."""
    try:
        check_study(adapt(study, overrides=overrides_of(study)), FLAGS.profile, FLAGS.data_dir)
    except ConfigError as error:
        print(f"note: {study.name} cannot run on {FLAGS.data} ({error})")
        return False
    return True


def first_claim(study: Study) -> tuple[float, str]:
    """Return the place of a study in the headline; those without a claim come last."""
    return min((claim_order(claim.claim) for claim in study.claims), default=(math.inf, ""))


def with_norms(studies: list[Study], norms: Sequence[str]) -> list[Study]:
    """Return the studies as the flags adapt them, each with those of `norms` that can run in it.

    Raises ConfigError for a norm that can run in none.
    """
    able: dict[str, list[str]] = {study.name: [] for study in studies}
    for norm in norms:
        refusals: list[ConfigError] = []
        for study in studies:
            try:
                adapt(study, overrides=overrides_of(study), norms=[norm])
                able[study.name].append(norm)
            except ConfigError as error:
                refusals.append(error)
        if len(refusals) == len(studies):
            raise refusals[0]
    options = {"arms": tuple(FLAGS.arms), "seeds": FLAGS.seeds}
    return [
        adapt(study, overrides=overrides_of(study), **options, norms=able[study.name])
        for study in studies
    ]


def print_plan(job: Job) -> None:
    """Print which runs are known to be required by now; later stages depend on their results."""
    required, missing = job.required(), job.missing()
    stages = {name: (f"{run.setup}, {run.arm}", run.stage) for name, run in required.items()}
    left = Counter(stages[name] for name in missing if name in stages)
    for (arm, stage), count in Counter(stages.values()).items():
        print(f"{arm:<40} {stage:<32} {count:>5} runs, {count - left[arm, stage]:>5} done")
    stopped = stopped_populations(job.store, missing)
    if stopped:
        count = sum(len(population.configs) for population in stopped)
        print(f"{len(stopped)} populations of {count} runs continue from their checkpoints")
    steps = sum(config["train.steps"] for config in missing.values())
    print(
        f"{len(required)} runs known by now, {len(missing)} to train ({steps:,} run-steps); "
        "the runs of later stages follow from these"
    )


def print_left_out(studies: Sequence[Study]) -> None:
    """Print which norms and which data of yours cannot run where."""
    for study in studies:
        names = {setup.name for setup in study.setups[FLAGS.profile]}
        for setup in (study.planned or study).setups[FLAGS.profile] if cli.given_data() else ():
            if setup.name not in names and not (study.planned or study).on_data:
                print(f"note: {setup.name} cannot run on {FLAGS.data}")
        for setup in study.setups[FLAGS.profile]:
            for norm in study.norms:
                if not setup.arm(norm):
                    print(f"note: {norm} cannot run in {setup.name}")


def main() -> int:
    began = time.monotonic()
    store = Store(FLAGS.results)
    store.check()
    recall_data(store.root)
    studies = chosen_studies()
    print_left_out(studies)
    options = {"data_dir": FLAGS.data_dir, "setups": FLAGS.setups, "warn": cli.warn}
    options |= {"only": cli.parse_settings(FLAGS.only), "on_settled": print_settled}
    job = Job(studies, FLAGS.profile, store, **options)
    if FLAGS.dry_run:
        print_plan(job)
        return cli.OK
    engine = cli.make_engine(store, FLAGS.data_dir)
    with ExitStack() as stack:
        trackers = [stack.enter_context(closing(t)) for t in cli.make_trackers()]
        job.on_done = functools.partial(add_runs, store, trackers)
        failures = train(job, engine)
    print(f"{job.trained:,} runs trained in {clock(time.monotonic() - began)}", flush=True)
    report(job)
    for failure in failures:
        print(f"{failure.status}: {failure.population.label}: {failure.message}", file=sys.stderr)
    raise_lost(failures, store)
    return cli.OK


def add_runs(store: Store, trackers: Sequence[Tracker], ids: Sequence[str]) -> None:
    """Add finished runs to trackers."""
    for name in ids if trackers else ():
        for tracker in trackers:
            add_run(tracker, store.read(name))


def print_settled(study: Study, runs: StudyRuns, claims: Collection[str]) -> None:
    """Print the verdicts of claims of a study."""
    from normlab.report.model import StudyReport
    from normlab.report.terminal import verdict_lines

    verdicts = [decide(path) for path in runs.paths if path[-1].id in claims]
    known = [verdict for verdict in verdicts if verdict.is_decided]
    if known:
        report = StudyReport(study, FLAGS.profile, runs.setups, known)
        print("\n".join(verdict_lines([report], sys.stdout.isatty())), flush=True)


def train(job: Job, engine: Engine | None) -> list[Failure]:
    """Train what is missing; studies as planned keep their rule first."""
    if FLAGS.rerun == "stale":
        print(f"{job.set_stale_aside()} runs of an older training version are repeated")
    job.store.open()
    with cli.one_command(job.store):
        if job.is_planned:
            job.write_rules()
        job.prepare(FLAGS.restart)
        return job.run(
            processes=cli.overrides().get("host.processes", 0),
            retries=FLAGS.retries,
            engine=engine,
            on_timing=tell_timing if job.is_planned else None,
        )


def tell_timing() -> None:
    print("measuring single steps ...", flush=True)


def report(job: Job) -> None:
    """Write the report and print its headline."""
    from normlab.report.job import write_job  # matplotlib takes a while
    from normlab.report.terminal import headline

    print(headline(*write_job(job), sys.stdout.isatty()))


if __name__ == "__main__":
    cli.start(main)
