"""A docstring taken apart: the signature it may begin with, its first sentence, and the rest."""

from __future__ import annotations

import re
from dataclasses import dataclass

_CALL = r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(\(.*?\))"
_SIGNATURE_LINE = re.compile(rf"{_CALL}\s*(?:(?:-+|=+)>?\s*(?P<result>.*))?$")
_RETURN_TYPE = re.compile(r"[\w ]{1,24}[,.:]\s+(?=\S+ \S+ \S)")
_SENTENCE_END = re.compile(r"\n\s*\n|(?<!\.\w)(?<!\betc)(?<!\bvs)[.!?](?=\s+[A-Z\"'`*(\[]|\s*\n\s*\n|\s*$)")
_SINCE = re.compile(r"(?:versionadded::|\b[Nn]ew in|\bAdded in)\s+(?:Python |version )?(\d+\.\d+)")
_WRAP = re.compile(r"(?<=\S)\n(?=[\w`'\"(])")
_DESCRIPTION_WORDS = 4
"""What stands after the arrow of a signature is a type if shorter, else a description."""


@dataclass(frozen=True, slots=True)
class Docstring:
    """The parts of a docstring; ``signature`` is empty where it does not begin with one."""

    signature: str
    first: str
    """First sentence on one line, without its full stop."""
    rest: str


def take_apart(doc: str) -> Docstring:
    """Split ``doc``, which has been freed of its indentation.

    Compiled functions often begin with ``pop(key[, default]) -> value, remove the key and return its value``, sometimes in
    several variants. The first sentence is what comes after these.
    """
    signature, body = _split_signature(doc)
    end = _SENTENCE_END.search(body)
    stop = end.end() if end else len(body)
    first = " ".join(body[:stop].split()).rstrip(".!? ")
    return Docstring(signature, first, body[stop:].strip())


def since(doc: str) -> str | None:
    """The version in which the documented thing appeared, where its docstring says so."""
    found = _SINCE.search(doc)
    return found.group(1) if found else None


def unwrap(text: str) -> str:
    """``text`` with the lines of a paragraph joined; indented lines, list items and examples keep theirs."""
    return _WRAP.sub(" ", text)


def _split_signature(doc: str) -> tuple[str, str]:
    """The arguments of the first signature that ``doc`` begins with, and what follows all of them."""
    lines = doc.strip().split("\n")
    signature = result = ""
    used = 0
    while used < len(lines) and (found := _SIGNATURE_LINE.match(lines[used])):
        signature = signature or found.group(1)
        result = found["result"] or ""
        used += 1
    while used and used < len(lines) and result.count("(") > result.count(")"):  # a tuple over several lines
        result += lines[used]
        used += 1
    paragraph_goes_on = used < len(lines) and bool(lines[used].strip())
    rest = "\n".join(lines[used:]).strip()
    if used and (not rest or paragraph_goes_on):
        return signature, f"{_RETURN_TYPE.sub('', result, count=1)}\n{rest}".strip()
    if result.endswith(".") and len(result.split()) >= _DESCRIPTION_WORDS:
        return signature, f"{_RETURN_TYPE.sub('', result, count=1)}\n\n{rest}"
    return signature, rest
