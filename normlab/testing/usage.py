"""How people use a layer outside of one compiled training step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import jax

from normlab.testing.layer import LayerUnderTest, draw
from normlab.testing.result import Result, held


def compilations(call: Callable[[], Any]) -> int:
    """Return how many programs jax compiles during a call."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, handler = logging.getLogger("jax"), Keep()
    is_shared, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            call()
    finally:
        logger.removeHandler(handler)
        logger.propagate = is_shared
    return sum("Finished XLA compilation" in message for message in messages)


def check_eager(subject: LayerUnderTest) -> list[Result]:
    """Called outside jit, a layer compiles its programs at the first call only."""
    x = draw(mean=0.5)
    subject.forward(subject.variables, x)
    again = compilations(lambda: subject.forward(subject.variables, x))
    return [held("a second eager call compiles nothing", not again, f"{again} programs")]
