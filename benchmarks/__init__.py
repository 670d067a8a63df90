"""Benchmarks: how exact the layers are, and how long they take, beside other libraries."""


class BadSelection(ValueError):
    """What was asked for is not there: a library, a scheme, a case, a size."""


def select(kind: str, wanted: list[str], known: list[str]) -> list[str]:
    """Return `wanted`, or all that is known where nothing is wanted; raises BadSelection."""
    for name in wanted:
        if name not in known:
            raise BadSelection(f"unknown {kind} {name!r} (known: {', '.join(known)})")
    return wanted or known
