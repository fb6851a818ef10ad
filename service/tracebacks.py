"""Exceptions as text: types and frames always, messages only where queries may be seen, as a message may quote one."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

WITHHELD = "message withheld: it may quote a query"
_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


def whole(error: BaseException) -> str:
    """As Python writes it."""
    return "".join(traceback.format_exception(error)).removesuffix("\n")


def without_messages(error: BaseException) -> str:
    """As Python writes it, but for the messages: of this exception, of those behind it, and of those in a group."""
    return "".join(_parts(error, set())).removesuffix("\n")


def _parts(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen:
        yield from _parts(before, seen)
        yield _CONTEXT if error.__cause__ is None else _CAUSE
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(error.__traceback__)
    yield f"{_name(type(error))}: {WITHHELD}\n"
    for each in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        if id(each) not in seen:
            yield from _parts(each, seen)


def _name(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
