"""Where experiments, configurations and scripts are: in the repository, or in an installed package.

A wheel has them in normlab/files/, because its top level is shared with other packages.
"""

from __future__ import annotations

import re
from pathlib import Path

PACKAGES = Path(__file__).resolve().parents[1]
"""The folder from which normlab is imported."""
FILES = Path(__file__).resolve().parent / "files"
IS_INSTALLED = FILES.is_dir()
"""Whether this is a wheel, with a command `normlab` in place of scripts/."""
ROOT = FILES if IS_INSTALLED else PACKAGES
"""The folder of experiments/, configs/ and scripts/."""
COMMANDS = {
    "train": "train",
    "study": "study",
    "report": "report",
    "list": "list",
    "check": "check_norm",
    "data": "data",
    "export": "export",
    "fsck": "fsck",
    "which": "study",
    "demo": "study",
}
"""Word after `normlab` -> the script that it runs; the first word of a script is its own."""


def words_of(script: str, is_installed: bool = IS_INSTALLED) -> list[str]:
    """Return how a script is called here.

    >>> words_of("check_norm", False), words_of("check_norm", True)
    (['python', 'scripts/check_norm.py'], ['normlab', 'check'])
    """
    if not is_installed:
        return ["python", f"scripts/{script}.py"]
    return ["normlab", next(word for word, name in COMMANDS.items() if name == script)]


def as_called(text: str, is_installed: bool = IS_INSTALLED) -> str:
    """Return a text with scripts as they are called here.

    >>> as_called("run python scripts/study.py --study=all, or scripts/report.py", True)
    'run normlab study --study=all, or normlab report'
    """
    if not is_installed:
        return text
    names = "|".join(set(COMMANDS.values()))
    pattern = rf"(?:python )?scripts/({names})\.py"
    return re.sub(pattern, lambda found: " ".join(words_of(found[1], True)), text)


EXTRAS = {
    "data": ("tensorflow_datasets", "importlib_resources", "PIL", "array_record"),
    "tensorboard": ("tensorboardX",),
    "wandb": ("wandb",),
    "ray": ("ray",),
}
"""Extra of pyproject.toml -> the modules that it brings."""


def extra_of(module: str) -> str:
    """Return the extra that brings a module, "" where none does."""
    root = module.partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if root in modules), "")
