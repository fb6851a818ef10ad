import numpy as np
import pytest
from tiny_models import make_tiny_bert

from offline.errors import RecipeError
from offline.lengths import check_length
from offline.towers import build_tower, encode
from snapshot.manifest import TextSpec
from snapshot.text import render_query

PROMPT = "Instruct: find what answers the question of the user. Query: {text}"


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    return build_tower(str(make_tiny_bert(tmp_path_factory.mktemp("bert"))))


def tokens_of(tower, prompt):
    return len(tower.tokenizer(prompt.removesuffix(" {text}"))["input_ids"])


def test_texts_longer_than_the_positions_are_refused(tower):
    with pytest.raises(RecipeError, match=r"text\.document\.max_tokens is 129, but the backbone reads at most 128"):
        check_length(tower, TextSpec(max_tokens=129), "text.document")


def test_a_prompt_that_leaves_nothing_to_the_text_is_refused(tower):
    taken = tokens_of(tower, PROMPT)
    full = TextSpec(template=PROMPT, max_tokens=taken)
    vectors = encode(tower, full, [render_query(full, query) for query in ("flu in children", "broken leg")])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    for room in (0, 7):
        spec = TextSpec(template=PROMPT, max_tokens=taken + room)
        said = rf"text\.query\.template takes {taken} tokens without any text, and text\.query\.max_tokens is {taken + room};"
        with pytest.raises(RecipeError, match=said):
            check_length(tower, spec, "text.query")
    check_length(tower, TextSpec(template=PROMPT, max_tokens=taken + 8), "text.query")


@pytest.mark.parametrize("template", ["{text}", "{title}. {text}", "{text} and what stands behind it may be as long as it likes"])
def test_without_a_prompt_texts_may_be_as_short_as_is_asked_for(tower, template):
    check_length(tower, TextSpec(template=template, max_tokens=4), "text.query")
