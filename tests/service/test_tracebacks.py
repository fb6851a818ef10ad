"""Exceptions as text, with and without what they say."""

from __future__ import annotations

import traceback

import pytest

from service.tracebacks import WITHHELD, whole, without_messages

SECRET = "confidential"


class OddError(Exception):
    """One of ours."""


def fail(error: BaseException) -> None:
    raise error


def caught() -> BaseException:
    """With a cause, a context, a group and a note."""
    try:
        try:
            try:
                fail(KeyError(SECRET))
            except KeyError as error:
                raise OddError(SECRET) from error
        except OddError:
            fail(ExceptionGroup(SECRET, [ValueError(SECRET), OSError(SECRET)]))
    except ExceptionGroup as error:
        error.add_note(SECRET)
        return error
    raise AssertionError


def test_whole_is_as_python_writes_it() -> None:
    error = caught()
    assert f"{whole(error)}\n" == "".join(traceback.format_exception(error))


def test_without_messages_there_is_every_type_and_frame_and_no_message() -> None:
    written = without_messages(caught())
    assert SECRET not in written
    kinds = [line.removesuffix(f": {WITHHELD}") for line in written.splitlines() if line.endswith(WITHHELD)]
    assert kinds == ["KeyError", f"{__name__}.OddError", "ExceptionGroup", "ValueError", "OSError"]
    assert written.count("in caught") == 3
    assert written.count("in fail") == 2
    assert "direct cause" in written
    assert "another exception occurred" in written


def test_of_one_exception_all_but_the_message_is_as_python_writes_it() -> None:
    with pytest.raises(OddError) as found:
        fail(OddError(SECRET))
    assert without_messages(found.value) == whole(found.value).replace(SECRET, WITHHELD)


def test_exceptions_that_name_each_other_end() -> None:
    first, second = ValueError(SECRET), OSError(SECRET)
    first.__cause__, second.__cause__ = second, first
    assert without_messages(first).count(WITHHELD) == 2
