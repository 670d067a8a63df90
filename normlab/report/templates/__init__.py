"""The templates of the pages, and what renders them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def render(
    name: str, filters: dict[str, Callable], finalize: Callable | None = None, **facts: Any
) -> str:
    """Return the page. HTML is escaped by Jinja; other formats by `finalize`, whatever is shown."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=finalize is None,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(filters)
    return environment.get_template(name).render(**facts)
