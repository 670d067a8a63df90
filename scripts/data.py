"""Prepare a data set once on this machine, or list all of them.

Examples:
  python scripts/data.py                                     # which data sets, prepared or not
  python scripts/data.py --prepare=mnist --manual_dir=DIR    # DIR holds the four original files
  python scripts/data.py --prepare=cifar10 --manual_dir=DIR  # ... cifar-10-binary.tar.gz
  python scripts/data.py --prepare=fashion_mnist --download  # fetches what it needs
  python scripts/data.py --prepare=mnist --download --data_dir=/big/disk

Prepared copies are tensorflow-datasets', in $TFDS_DATA_DIR or ~/tensorflow_datasets unless
--data_dir says otherwise. digits and synthetic need no preparing.
"""

from __future__ import annotations

import sys
import time

from absl import app, flags, logging

from normlab import data

USAGE, STORAGE, INTERRUPTED = 2, 7, 130  # exit codes

FLAGS = flags.FLAGS
flags.DEFINE_string("prepare", None, "Data set to prepare.")
flags.DEFINE_string("manual_dir", None, "Directory that holds the original files.")
flags.DEFINE_bool("download", False, "Fetch the original files.")
flags.DEFINE_string("data_dir", None, "Directory of prepared data sets.")
flags.DEFINE_bool("debug", False, "Show tracebacks.")


def list_datasets(data_dir: str | None) -> None:
    """Prints one line per data set: sizes, shape, classes and whether it can be loaded here."""
    heads = ("train", "valid.", "test", "shape", "classes", "state")
    print("{:<14}{:>7}{:>7}{:>7}  {:<10}{:>7}  {:<13}".format("name", *heads) + "licence")
    for name, row in data.DATASETS.items():
        shape = "x".join(map(str, row.shape))
        sizes = f"{row.train:>7}{row.validation:>7}{row.test:>7}"
        facts = f"{shape:<10}{row.classes:>7}  {state(name, data_dir):<13}{row.licence}"
        print(f"{name:<14}{sizes}  {facts}")
    print(f"prepared data sets lie in {data.data_root(data_dir)}")


def state(name: str, data_dir: str | None) -> str:
    """built in, prepared or not prepared."""
    if not data.DATASETS[name].prepared:
        return "built in"
    try:
        data.check(name, data_dir)
    except data.DataUnavailable:
        return "not prepared"
    return "prepared"


def prepare(name: str, manual_dir: str | None, download: bool, data_dir: str | None) -> None:
    """Prepares a data set, then reads it back, which also writes the cache."""
    start = time.perf_counter()
    folder = data.prepare(name, manual_dir, download, data_dir)
    print(f"{name}: prepared in {folder} ({time.perf_counter() - start:.1f} s)", flush=True)
    start = time.perf_counter()
    dataset = data.load(name, data_dir)
    seconds = time.perf_counter() - start
    print(f"{name}: read back {len(dataset.labels):,} examples ({seconds:.1f} s)")
    print(f"{name}: sha256 {dataset.sha256}")


def refuse_bad_usage(argv: list[str]) -> None:
    """Raises DataError for arguments that mean nothing together."""
    if len(argv) > 1:
        raise data.DataError(f"unexpected argument {argv[1]!r}; settings are flags: see --help")
    if not FLAGS.prepare and (FLAGS.manual_dir or FLAGS.download):
        raise data.DataError("--manual_dir and --download need --prepare=NAME")


def run(argv: list[str]) -> None:
    """Does what the flags say."""
    refuse_bad_usage(argv)
    if FLAGS.prepare:
        prepare(FLAGS.prepare, FLAGS.manual_dir, FLAGS.download, FLAGS.data_dir)
    else:
        list_datasets(FLAGS.data_dir)


def explain(error: BaseException) -> tuple[int, str]:
    """Exit code and the one line for stderr."""
    if isinstance(error, data.DataError):
        return USAGE, f"error[data]: {error}"
    if isinstance(error, OSError):
        return STORAGE, f"error[storage]: {error}; free some space or choose another --data_dir"
    return INTERRUPTED, "interrupted; nothing half-written is left"


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # tfds logs a dozen lines
    try:
        run(argv)
    except (data.DataError, OSError, KeyboardInterrupt) as e:
        if FLAGS.debug:
            raise
        code, line = explain(e)
        print(f"normlab: {line}", file=sys.stderr)
        sys.exit(code)


def parse(argv: list[str]) -> list[str]:
    """absl's parser leaves with 1 on an unknown flag and on --help; here these are 2 and 0."""
    try:
        return FLAGS(argv)
    except flags.Error as e:
        print(f"normlab: error[usage]: {e}; see --help", file=sys.stderr)
        sys.exit(USAGE)
    except SystemExit:
        sys.exit(0)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
