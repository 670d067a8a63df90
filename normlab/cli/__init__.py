"""What the command lines share: exit codes, one-line errors, the flags of a configuration."""

from __future__ import annotations

import errno
import math
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from normlab.cli.files import (
    USAGE,
    PathsParser,
    UsageError,
    define_data,
    define_data_dir,
    define_model,
    define_norms,
    define_path,
    define_paths,
    define_results,
    define_trackers,
    given_data,
    given_model,
    load_models,
    load_norms,
    make_trackers,
)
from normlab.cli.launch import define_launch, make_engine, one_command
from normlab.data import DataError
from normlab.launch.surroundings import STOPS, heed, prepare_process
from normlab.lookup import local_path
from normlab.runs.errors import ConfigError, LabError, Preempted, StorageError
from normlab.settings import SETTINGS, Config, defaults, flatten, nearest_setting, nest
from normlab.shipped import IS_INSTALLED, ROOT, as_called, extra_of, words_of
from normlab.studies.setup import config_names
from normlab.version import VERSION

__all__ = [
    "PathsParser",
    "UsageError",
    "define_data",
    "define_data_dir",
    "define_launch",
    "define_model",
    "define_norms",
    "define_path",
    "define_paths",
    "define_results",
    "define_trackers",
    "load_models",
    "load_norms",
    "make_engine",
    "make_trackers",
    "one_command",
]

OK, DIVERGED, INTERNAL, INTERRUPTED = 0, 3, 70, 130
"""Exit codes; runs/errors.py has those of errors."""

SETTINGS_HELP = as_called(
    "--config.a.b=v changes a setting: python scripts/list.py settings has all of them with their "
    "reasons."
)

TRUTH = {"true": True, "1": True, "false": False, "0": False}

ECHO = 0.5
"""Seconds within which a repeated signal is the same one."""

FLAGS = flags.FLAGS


def refuse_unknown_settings(argv: list[str]) -> None:
    """Exit with one line if `--config.x` names no setting.

    ml-collections reads the command line while it defines its flag. Without this check a typing
    error would give a traceback.
    """
    for argument in argv[1:]:
        name = argument.lstrip("-").partition("=")[0]
        if argument.startswith("-") and name.startswith("config."):
            setting = name.removeprefix("config.")
            if setting not in SETTINGS:
                leave(USAGE, "config", f"unknown setting {setting!r}{nearest_setting(setting)}")


def define_overrides() -> None:
    """Define `--config.a.b=v` for every setting, without a configuration file."""
    refuse_unknown_settings(sys.argv)
    config_flags.DEFINE_config_dict("config", ConfigDict(nest(defaults())), SETTINGS_HELP)
    FLAGS["config"].default_as_str = None  # --help would print all settings


def define_config_file() -> None:
    """Define `--config=FILE` and `--config.a.b=v`."""
    refuse_unknown_settings(sys.argv)
    text = f"Configuration: a file, or its name in configs/. {SETTINGS_HELP}"
    config_flags.DEFINE_config_file("config", None, text)
    FLAGS["config"].default_as_str = None
    parser: Any = FLAGS["config"].parser
    load = parser.parse
    parser.parse = lambda path: complete(load(path))


def define_keep_params() -> None:
    """Define `--keep_params`."""
    text = "Keep the parameters of each run that reports: params.safetensors in its folder."
    flags.DEFINE_bool("keep_params", False, text)


def kept_params() -> Config:
    return {"host.keep_params": True} if "keep_params" in FLAGS and FLAGS.keep_params else {}


def complete(config: Any) -> Any:
    """Return a configuration with every setting, so that each can be overridden."""
    try:
        given = flatten(ConfigDict(config).to_dict())
    except Exception:  # it is no configuration: config_from_flags says so
        return config
    for name, value in given.items():
        if name in SETTINGS and isinstance(SETTINGS[name].default, float) and type(value) is int:
            given[name] = float(value)
    return ConfigDict(nest(defaults() | given))


def overrides(has_models: bool = False) -> Config:
    """Return the settings that the command line gives, those of --data and --model included.

    `has_models`: for a study that names networks itself. --model then chooses none.
    """
    given = dict(config_flags.get_override_values(FLAGS["config"])) | given_data() | kept_params()
    return given if has_models else given | given_model()


def config_from_flags() -> Config:
    """Return the configuration of `--config=FILE` with its overrides."""
    if FLAGS["config"].value is None and not FLAGS["config"].present:
        raise ConfigError("no configuration; give one with --config=configs/digits_mlp.py")
    try:
        config = flatten(FLAGS.config.to_dict())
    except Exception as error:  # the file is Python: it can raise anything
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"the configuration file cannot be loaded ({reason})") from error
    return config | given_data() | given_model() | kept_params()


def find_config(argv: list[str]) -> list[str]:
    """Return argv with `--config=NAME` as the path of a file; exit with one line if none exists.

    NAME is a path, a path below the repository, or the name of a file in configs/. It may follow
    as a word of its own.
    """
    argv = [*argv]
    while "--config" in argv[:-1]:
        place = argv.index("--config")
        argv[place : place + 2] = [f"--config={argv[place + 1]}"]

    def find(argument: str) -> str:
        flag, _, name = argument.partition("=")
        if flag.lstrip("-") != "config" or not argument.startswith("-"):
            return argument
        try:
            name = local_path(name) if name else name
        except ValueError as error:
            leave(USAGE, "usage", f"--config: {error}")
        for path in (Path(name), ROOT / name, ROOT / "configs" / f"{name}.py"):
            if path.is_file():
                return f"{flag}={path}"
        names = ", ".join(config_names())
        leave(USAGE, "config", f"no configuration file {name!r} (in configs/: {names})")

    return [find(argument) for argument in argv]


def parse_settings(pairs: list[str]) -> Config:
    """Return NAME=VALUE pairs as settings with the types of their defaults; raises ConfigError."""
    out: Config = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        if name not in SETTINGS:
            raise ConfigError(f"unknown setting {name!r}{nearest_setting(name)}")
        kind = type(SETTINGS[name].default)
        try:
            items = text.strip("() ").split(",")
            read = TRUTH[text.lower()] if kind is bool else kind(text)
            out[name] = tuple(int(i) for i in items if i) if kind is tuple else read
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{name} = {text!r} is not of type {kind.__name__}") from error
    return out


def leave(code: int, kind: str, message: str) -> NoReturn:
    """Print one line and exit with `code`."""
    line = as_called(" ".join(str(message).split()))
    print(f"normlab: error[{kind}]: {line}", file=sys.stderr)
    sys.exit(code)


def parse(argv: list[str]) -> list[str]:
    """Parse the flags and return the other words: bad usage is one line and exit code 2, --help
    exit code 0."""
    if "--version" in argv[1:]:
        print(f"normlab {VERSION}")
        sys.exit(OK)
    try:
        return FLAGS(find_config(argv))
    except flags.Error as error:
        leave(USAGE, "usage", f"{error}; see --help")
    except SystemExit as done:
        sys.exit(OK if done.code == 1 else done.code)  # absl leaves --help with 1
    except BrokenPipeError:
        leave_unread()
    except Exception as error:  # ml-collections reads the configuration file while it parses
        leave(USAGE, "config", f"{error}; see --help")


def start(main: Callable[..., int], takes_words: bool = False) -> None:
    """Run a command. `main()` returns its exit code; errors become one line (--debug: all).

    `takes_words`: main gets the words of the command line that are no flags.
    """
    left_out = prepare_process()
    script = sys.modules["__main__"]
    script.__doc__ = as_called(script.__doc__ or "")  # --help shows it
    flags.DEFINE_bool("debug", False, "Show tracebacks.")
    flags.DEFINE_bool("version", False, "Print the version and stop.")
    own = ("", ".files", ".launch")
    for module in (f"{__name__}{end}" for end in own):  # --help shows those of the script itself
        for flag in FLAGS.get_flags_for_module(module):
            FLAGS.register_key_flag_for_module(sys.argv[0], flag)

    def guarded(argv: list[str]) -> None:
        words = argv[1:]
        logging.set_verbosity(logging.WARNING)
        try:
            heed_signals()
            if words and not takes_words:
                problem = f"unexpected argument {words[0]!r}; everything is a flag: see --help"
                leave(USAGE, "usage", problem)
            if left_out:
                warn(f"{', '.join(left_out)}: left out, as settings of JAX that change results")
            code = main(words) if takes_words else main()
            sys.stdout.flush()
        except BrokenPipeError:
            leave_unread()
        except KeyboardInterrupt as stop:
            is_preempted = isinstance(stop, Preempted)
            word = "preempted" if is_preempted else "interrupted"
            print(f"\n{word}; the same command continues: {this_command()}", file=sys.stderr)
            sys.exit(Preempted.code if is_preempted else INTERRUPTED)
        except Exception as error:
            if FLAGS.debug:
                raise
            explain(error)
        else:
            sys.exit(code)

    app.run(guarded, flags_parser=parse)


def leave_unread() -> NoReturn:
    """Exit with the code of a preemption where the reader of the output is gone, as of `| head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    try:
        print(f"normlab: nobody reads the output; to continue: {this_command()}", file=sys.stderr)
    except BrokenPipeError:
        os.dup2(sys.stdout.fileno(), sys.stderr.fileno())
    sys.exit(Preempted.code)


def this_command() -> str:
    """Return the command line of this process, for a shell."""
    if IS_INSTALLED:
        return shlex.join([*words_of(Path(sys.argv[0]).stem), *sys.argv[1:]])
    found = shutil.which("python")
    is_found = found is not None and Path(found).resolve() == Path(sys.executable).resolve()
    return shlex.join(["python" if is_found else sys.executable, *sys.argv])


def heed_signals() -> None:
    """Let signals of schedulers and terminals end the command as Ctrl-C does, with another code.

    The code is that of a preemption, after which schedulers start the same command again. Launchers
    often send a signal to a process and to its group. A signal within ECHO seconds of the first is
    therefore the same signal.
    """
    heard = -math.inf

    def leave_soon(number: int, _: object) -> None:
        nonlocal heard
        now = time.monotonic()
        if now - heard >= ECHO:
            heard = now
            raise KeyboardInterrupt if number == signal.SIGINT else Preempted

    heed(leave_soon, ("SIGINT", *STOPS))


def warn(message: str) -> None:
    """Print one line of warning."""
    print(f"normlab: warning: {' '.join(message.split())}", file=sys.stderr, flush=True)


def explain(error: Exception) -> NoReturn:
    """Exit with the line and the code of an error."""
    if isinstance(error, LabError):
        leave(error.code, error.kind, str(error))
    if isinstance(error, DataError):
        leave(USAGE, "data", str(error))
    if isinstance(error, OSError):
        way_out = "choose another --results or free some space"
        if error.errno in (errno.EMFILE, errno.ENFILE):
            way_out = "raise the limit, as with ulimit -n 1024"
        message = f"{error}; {way_out}"
        leave(StorageError.code, StorageError.kind, message)
    if isinstance(error, ModuleNotFoundError) and (extra := extra_of(str(error.name))):
        way_out = f"install it with pip install 'normlab[{extra}]'"
        leave(USAGE, "install", f"{error.name} is needed for this; {way_out}")
    leave(INTERNAL, "internal", f"{type(error).__name__}: {error}; --debug shows where")
