r"""Train one run: a population of one.

Examples:
  python scripts/train.py --config=configs/digits_mlp.py
  python scripts/train.py --config=configs/digits_cnn.py --config.norm.name=group \
      --config.norm.groups=8 --config.optim.lr=0.3
  python scripts/train.py --config=configs/mnist_mlp.py --config.seed=3
  python scripts/train.py --config=configs/digits_mlp.py --dry_run     # the resolved settings
  python scripts/train.py --config=configs/digits_mlp.py --profile_trace=trace   # where time goes
  python scripts/train.py --config=configs/digits_mlp.py --norms=docs/examples/my_norm.py \
      --config.norm.name=my_norm                                       # a norm of your own
  python scripts/train.py --config=configs/digits_mlp.py --data=docs/examples/my_data.py
  python scripts/train.py --config=configs/digits_cnn.py --model=docs/examples/my_network.py

--config.a.b=v overrides any setting; scripts/list.py settings has all of them with their reasons.
The run is in results/runs/<id>/, where <id> is the hash of its settings. A finished run is shown
and not repeated (--restart repeats it). A stopped run continues from its last checkpoint.

Exit codes:
  0    trained
  2    a mistake in the command
  3    the run diverged
  4    the run cannot continue, because its data or settings have changed
  5    its checkpoints are damaged; --restart trains it from step 0
  6    another process trains it
  7    results cannot be read or written
  75   SIGTERM, 130 Ctrl-C: saved, the same command continues; 75 also where another process of
       --distributed was lost
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack, closing, redirect_stdout
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # normlab need not be installed

from absl import flags

from normlab import cli
from normlab.launch.peers import Peers, divide_batch, find_peers
from normlab.launch.single import follow, format_value, release, train
from normlab.runs.checkpoints import tidy, unfinished
from normlab.runs.config import resolve, run_id
from normlab.runs.errors import ConfigError
from normlab.runs.kept_data import recall_data
from normlab.runs.params import is_unkept
from normlab.runs.record import Record
from normlab.runs.store import Store

flags.DEFINE_bool("restart", False, "Train from step 0 even if the run is finished or was stopped.")
flags.DEFINE_bool("dry_run", False, "Print the resolved settings and stop.")
flags.DEFINE_bool("distributed", False, "Train together with the other processes of the launcher.")
cli.define_path("profile_trace", None, "Directory for a profile of a few training steps.")
cli.define_results()
cli.define_data_dir()
cli.define_norms()
cli.define_data()
cli.define_model()
cli.define_keep_params()
cli.define_trackers()
cli.define_config_file()
FLAGS = flags.FLAGS


def make_trace_folder() -> None:
    """Create the directory of --profile_trace; raises ConfigError where nothing can be written."""
    folder = Path(FLAGS.profile_trace)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"profile_trace = {str(folder)!r} cannot be written ({error.strerror}); "
            "give a directory that can, --profile_trace=DIR"
        ) from error


def begin_again(store: Store, name: str) -> None:
    """Set the result of a run and its checkpoints aside; raises ConfigError where the checkpoints
    are those of other runs too."""
    for folder in unfinished(store):
        runs = folder.runs_if_known()
        if name in runs and len(runs) > 1 and not store.is_done(name):
            raise ConfigError(
                f"run {name} was stopped as one of {len(runs)} that train together; continue them "
                "without --restart, or add --restart to the command of their study"
            )
        if name in runs:
            folder.set_aside()
    if store.is_done(name):
        store.set_aside(name, "stale")


def print_result(store: Store, record: Record) -> None:
    """Print a run's final metrics: test before validation, running averages last."""
    if record.diverged_at is not None:
        print(f"diverged at step {record.diverged_at}: its loss or gradient was not finite")
    if record.final and "test_loss" not in record.final:
        print(f"stopped early at step {record.curve[-1]['step']}; test was not looked at")
    for name in sorted(record.final, key=lambda n: (n.startswith("running"), "validation" in n, n)):
        print(f"{name:<28} {format_value(name, record.final[name], 2)}")
    facts = record.provenance
    if "data_wait_seconds" in facts:
        wait, size = facts["data_wait_seconds"], facts["data_buffer_mb"]
        print(f"streamed {size} MB of images at a time, waited {wait:.1f} s for them")
    print(f"{record.seconds:.1f} s; {store.run_dir(record.run_id)}")


def given_peers() -> Peers | None:
    """Return the processes of --distributed, None where there is one; raises ConfigError."""
    if not FLAGS.distributed:
        return None
    if FLAGS.profile_trace:
        raise ConfigError("--profile_trace does not go with --distributed; leave one of them out")
    found = find_peers(os.environ)
    return found if found.processes > 1 else None


def train_quietly(peers: Peers) -> int:
    """Train as a process that is not the first: what it writes is in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(open(os.devnull, "w")):
        cli.load_norms()
        config, _ = resolve(cli.config_from_flags(), FLAGS.data_dir)
        store, shared = Store(folder).open(), divide_batch(config, peers)
        follow(store, run_id(config), shared, data_dir=FLAGS.data_dir, peers=peers)
    return cli.OK


def main() -> int:
    peers = given_peers()
    if peers and peers.number and not FLAGS.dry_run:
        return train_quietly(peers)
    cli.load_norms()
    store = Store(FLAGS.results)
    recall_data(store.root)
    config, notes = resolve(cli.config_from_flags(), FLAGS.data_dir)
    name = run_id(config)
    for note in notes:
        print(f"note: {note}")
    if FLAGS.dry_run:
        for setting, value in config.items():
            print(f"{setting:<24} {value}")
        print(f"run id {name}")
        return cli.OK
    if peers:
        config = divide_batch(config, peers)
    store.check()
    if FLAGS.profile_trace and (FLAGS.restart or not store.is_done(name)):
        make_trace_folder()
    store.open()
    tidy(store)
    if FLAGS.restart:
        begin_again(store, name)
    if store.is_done(name):
        untraced = ", so no profile of it is written" if FLAGS.profile_trace else ""
        unkept = is_unkept(store.read(name), config)
        unkept = ", its parameters were not kept" if unkept else ""
        print(f"run {name} is finished{untraced}{unkept}; --restart repeats it")
        if peers:
            release(store, peers)
    else:
        for doubt in store.doubts():
            cli.warn(doubt)
        print(f"run {name}: {config['data.name']} {config['model.name']} {config['norm.name']}")
        options = {"data_dir": FLAGS.data_dir, "profile_trace": FLAGS.profile_trace}
        options |= {"peers": peers}
        with ExitStack() as stack:
            trackers = [stack.enter_context(closing(t)) for t in cli.make_trackers()]
            train(store, name, config, trackers=trackers, **options)
    record = store.read(name)
    print_result(store, record)
    return cli.DIVERGED if record.diverged_at is not None else cli.OK


if __name__ == "__main__":
    cli.start(main)
