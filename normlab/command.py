"""`normlab train`, `normlab study` and so on: the scripts as one command of an installed package.

It imports nothing but the standard library, because the core installs only what layers need.
"""

from __future__ import annotations

import difflib
import runpy
import sys
from importlib.util import find_spec

from normlab.shipped import COMMANDS, ROOT
from normlab.version import VERSION

WHAT = {
    "demo": "a first verdict with its page, in seconds",
    "train": "train one run",
    "study": "run studies and report",
    "which": "which norm is to be taken, also for your data and your network",
    "report": "rebuild tables, figures and pages from finished runs",
    "list": "norms, networks, studies, settings, data sets",
    "check": "check a norm of your own",
    "data": "prepare a data set",
    "export": "curves for TensorBoard or Weights & Biases",
    "fsck": "examine a results directory",
}
MORE = {
    "which": ["--study=which_norm"],
    "demo": [f"--study={ROOT / 'docs' / 'examples' / 'demo.py'}", "--results=normlab-demo"],
}
NEEDED = ("absl", "ml_collections", "optax", "scipy", "matplotlib", "jinja2", "filelock")


def main() -> None:
    """Run the script of the first word with the flags that follow; leave with its exit code."""
    name, *flags = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help", "--helpfull"):
        print("normlab COMMAND --flag=value ...; normlab COMMAND --help says more\n")
        print("\n".join(f"  normlab {command:<8} {what}" for command, what in WHAT.items()))
        sys.exit(0)
    if name == "--version":
        print(f"normlab {VERSION}")
        sys.exit(0)
    if name not in WHAT:
        near = difflib.get_close_matches(name, WHAT, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        leave("usage", f"unknown command {name!r}{hint} (commands: {', '.join(WHAT)})")
    lacking = [library for library in NEEDED if find_spec(library) is None]
    if lacking:
        leave(
            "install",
            f"normlab {name} needs {', '.join(lacking)}; install the laboratory with "
            "pip install 'normlab[lab]'",
        )
    script = ROOT / "scripts" / f"{COMMANDS[name]}.py"
    sys.argv = [str(script), *MORE.get(name, []), *flags]
    runpy.run_path(str(script), run_name="__main__")


def leave(kind: str, message: str) -> None:
    print(f"normlab: error[{kind}]: {message}", file=sys.stderr)
    sys.exit(2)
