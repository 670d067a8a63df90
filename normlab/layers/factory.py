"""A class with some of its arguments, as a value: equal, hashable and picklable."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Factory:
    """factory(**more) = make(**arguments, **more).

    It is equal to one with the same content, as functools.partial is not. A network that holds
    factories can be a static argument of jit: one program serves equal networks.
    """

    make: Callable[..., Any]
    arguments: tuple[tuple[str, Any], ...] = ()

    def __call__(self, *given: Any, **more: Any) -> Any:
        return self.make(*given, **{**dict(self.arguments), **more})

    @property
    def __signature__(self) -> inspect.Signature:
        """For help(): the options that are left, with these arguments as their defaults."""
        return inspect.signature(functools.partial(self.make, **dict(self.arguments)))


def factory(make: Callable[..., Any], **arguments: Any) -> Factory:
    """Return the factory of a class with these arguments.

    >>> factory(dict, a=1) == factory(dict, a=1), factory(dict, a=1)(b=2)
    (True, {'a': 1, 'b': 2})
    """
    return Factory(make, tuple(arguments.items()))
