"""From raw fields to the string that a tokenizer sees. Training, encoding and serving all call this."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from snapshot.errors import TextError
from snapshot.manifest import TextSpec

_FIELD = re.compile(r"\{(\w+)\}")
_SPACE = re.compile(r"\s+")
_PLAIN = "{text}"


def render(spec: TextSpec, fields: Mapping[str, str]) -> str:
    """Fill ``spec.template`` from ``fields``, fold white space and, if asked, case.

    Braces inside values are left alone: values are never read as templates. Where a title is empty, the
    separator that the template puts after it goes too, so that "{title}. {text}" does not begin with ". ".

    Raises:
        TextError: the template names a field that is not in ``fields``.
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in fields:
            known = ", ".join(sorted(fields))
            raise TextError(f"template {spec.template!r} names the field {name!r}; there are: {known}")
        return fields[name]

    text = _SPACE.sub(" ", _FIELD.sub(value, _drop_empty(spec.template, fields))).strip()
    return text.lower() if spec.lowercase else text


def field_names(template: str) -> frozenset[str]:
    """The fields that a template names."""
    return frozenset(_FIELD.findall(template))


def render_query(spec: TextSpec, query: str) -> str:
    """Render a query, whose only field is ``text``."""
    if spec.template != _PLAIN:
        return render(spec, {"text": query})
    text = _SPACE.sub(" ", query).strip()  # the same, in a tenth of the time
    return text.lower() if spec.lowercase else text


def _drop_empty(template: str, fields: Mapping[str, str]) -> str:
    """Remove empty fields together with what separates them from the next field."""
    return "".join(part for part in _parts(template) if not _is_empty(part, fields))


@lru_cache(maxsize=16)
def _parts(template: str) -> tuple[str, ...]:
    """Each field with what separates it from the next; what stands before the first comes first."""
    return tuple(re.split(r"(?=\{\w+\})", template))


def _is_empty(part: str, fields: Mapping[str, str]) -> bool:
    match = _FIELD.match(part)
    return match is not None and match.group(1) in fields and not fields[match.group(1)].strip()
