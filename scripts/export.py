"""Export the curves of finished runs for TensorBoard or Weights & Biases.

Examples:
  python scripts/export.py --tensorboard=events               # then: tensorboard --logdir=events
  python scripts/export.py --wandb=offline --only=norm.name=batch     # then: wandb sync
  python scripts/export.py --results=/big/disk/results --tensorboard=events

Nothing is sent anywhere. Both need their library: pip install 'normlab[tensorboard]' or
'normlab[wandb]'. scripts/train.py and scripts/study.py take the same two flags and write live.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # normlab need not be installed

from contextlib import closing

from absl import flags

from normlab import cli
from normlab.launch.trackers import add_run
from normlab.runs.errors import ConfigError, StorageError
from normlab.runs.kept_data import recall_data
from normlab.runs.kept_rows import recall_rows
from normlab.runs.store import Records, Store

flags.DEFINE_multi_string("only", [], "SETTING=VALUE: only runs that have it.")
cli.define_results()
cli.define_trackers()
FLAGS = flags.FLAGS


def main() -> int:
    store = Store(FLAGS.results)
    recall_data(store.root)
    recall_rows(store.root)
    wanted = cli.parse_settings(FLAGS.only).items()
    records = Records(store)
    chosen = [run for run in records.values() if wanted <= run.config.items()]
    if not chosen:
        among = f" among {len(records)}" if records else ""
        raise StorageError(f"no such run{among} in {FLAGS.results!r}; name others with --results")
    trackers = cli.make_trackers()
    if not trackers:
        raise ConfigError("nothing to export to; give --tensorboard=DIR or --wandb=DIR")
    for tracker in trackers:
        with closing(tracker):
            for run in chosen:
                add_run(tracker, run)
    print(f"{len(chosen)} runs in {', '.join(filter(None, (FLAGS.tensorboard, FLAGS.wandb)))}")
    return cli.OK


if __name__ == "__main__":
    cli.start(main)
