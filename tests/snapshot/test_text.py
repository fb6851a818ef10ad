"""Rendering is the one place where training and serving could drift apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshot.errors import TextError
from snapshot.manifest import TextSpec
from snapshot.text import render, render_query

DOCUMENT = TextSpec(template="{title}. {text}")


@pytest.mark.parametrize(
    ("spec", "fields", "expected"),
    [
        (DOCUMENT, {"title": "A", "text": "b"}, "A. b"),
        (DOCUMENT, {"title": "", "text": "b"}, "b"),
        (DOCUMENT, {"title": "A", "text": ""}, "A."),
        (DOCUMENT, {"title": "A {text}", "text": "b"}, "A {text}. b"),
        (TextSpec(template="query: {text}"), {"text": " two\t words\n"}, "query: two words"),
        (TextSpec(template="{text}", lowercase=True), {"text": "ÄB"}, "äb"),
        (TextSpec(template="constant"), {}, "constant"),
    ],
)
def test_render(spec: TextSpec, fields: dict[str, str], expected: str) -> None:
    assert render(spec, fields) == expected


def test_a_template_with_an_unknown_field_names_it_and_what_there_is() -> None:
    with pytest.raises(TextError, match=r"'body'.*text, title"):
        render(TextSpec(template="{body}"), {"title": "A", "text": "b"})


@given(st.text())
def test_values_are_never_read_as_templates(text: str) -> None:
    assert render_query(TextSpec(), text) == render(TextSpec(template="{title}"), {"title": text})
    assert render_query(TextSpec(), text) == render_query(TextSpec(), render_query(TextSpec(), text))


@given(st.text(), st.booleans())
def test_a_plain_query_is_rendered_like_any_other(query: str, lowercase: bool) -> None:
    spec = TextSpec(lowercase=lowercase)
    assert render_query(spec, query) == render(spec, {"text": query})
