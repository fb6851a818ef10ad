import pytest

from offline.data.docstrings import since, take_apart, unwrap


@pytest.mark.parametrize(
    ("doc", "signature", "first", "rest"),
    [
        ("Join two paths.", "", "Join two paths", ""),
        ("Join two\npaths. Empty parts\nare dropped.", "", "Join two paths", "Empty parts\nare dropped."),
        ("Join two paths\n\n  a: one path", "", "Join two paths", "a: one path"),
        ("Use e.g. this (a.k.a. that) for 3.5 things. Next.", "", "Use e.g. this (a.k.a. that) for 3.5 things", "Next."),
        ("Really?  Yes.", "", "Really", "Yes."),
        ("time() -> float\n\nReturn the time. In seconds.", "()", "Return the time", "In seconds."),
        (
            "D.pop(k[,d]) -> v, remove the key and return its value.\n\nOr d.",
            "(k[,d])",
            "remove the key and return its value",
            "Or d.",
        ),
        ("max(a, *, key) -> value\nmax(a, b) -> value\n\nThe biggest. Of all.", "(a, *, key)", "The biggest", "Of all."),
        ("S.extend(iterable) -- extend by appending elements", "(iterable)", "extend by appending elements", ""),
        ("D.clear() -> None.  Remove all items from D.", "()", "Remove all items from D", ""),
        (
            "log(z[, base]) -> the logarithm of z.\n\nNatural if no base.",
            "(z[, base])",
            "the logarithm of z",
            "Natural if no base.",
        ),
        ("n(ext)\nContinue until\nthe next line.", "(ext)", "Continue until the next line", ""),
        ("f() -> (a,\n        b)\n\nReturn both. Now.", "()", "Return both", "Now."),
    ],
)
def test_takes_docstrings_apart(doc, signature, first, rest):
    parts = take_apart(doc)
    assert (parts.signature, parts.first, parts.rest) == (signature, first, rest)


@pytest.mark.parametrize(
    ("doc", "version"),
    [
        ("A thing.\n\n.. versionadded:: 3.8", "3.8"),
        ("New in version 3.12: a thing.", "3.12"),
        ("This is new in Python 2.5, of course", "2.5"),
        ("Added in version 3.14.", "3.14"),
        ("Deprecated since Python 3.10", None),
        ("An error will be added in 3 places", None),
        ("Keys will be added in order. 3.5 times", None),
    ],
)
def test_says_since_when(doc, version):
    assert since(doc) == version


def test_unwrap_joins_the_lines_of_a_paragraph_only():
    doc = "Join two\npaths.\n\n- one\n- two\n\n    a: first\n    b: second\n\n>>> join()\nThen\n'all' (of\n(it))"
    assert unwrap(doc) == "Join two paths.\n\n- one\n- two\n\n    a: first\n    b: second\n\n>>> join() Then 'all' (of (it))"
