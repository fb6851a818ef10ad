"""Whether a text spec fits a tower: its tokens are among the backbone's positions, and its prompt leaves some to the text."""

from __future__ import annotations

from typing import Any

from sentence_transformers import SentenceTransformer

from offline.errors import RecipeError
from offline.towers import backbone_of, tokenize
from snapshot.manifest import TextSpec
from snapshot.text import render

_LEAST_TEXT = 8
"""Tokens: a short query."""
_MOST_PROMPT = 1024
"""Tokens above ``max_tokens`` from which on a prompt need not be counted."""


def check_length(tower: SentenceTransformer, spec: TextSpec, key: str) -> None:
    """Refuse a text spec that is longer than the backbone's positions, or a prompt that leaves hardly any of them to the text.

    ``key`` is the spec's place in the recipe.

    Raises:
        RecipeError: ``spec.max_tokens`` is above what the backbone was made for, or the template fills it by itself.
    """
    check_positions(backbone_of(tower).config, spec, key)
    _check_prompt(tower, spec, key)


def _check_prompt(tower: SentenceTransformer, spec: TextSpec, key: str) -> None:
    """Texts are cut at their end: behind a long prompt nothing of them would be read, and all their vectors would be the same."""
    prompt = render(spec, {"title": "", "text": ""})
    if not prompt:
        return
    uncut = spec.model_copy(update={"max_tokens": spec.max_tokens + _MOST_PROMPT})
    taken = int(tokenize(tower, uncut, [prompt])["input_ids"].shape[1])
    if spec.max_tokens - taken < _LEAST_TEXT:
        raise RecipeError(
            f"{key}.template takes {taken} tokens without any text, and {key}.max_tokens is {spec.max_tokens}; at least "
            f"{_LEAST_TEXT} must be left to the text: raise {key}.max_tokens, or shorten the template"
        )


def check_positions(config: Any, spec: TextSpec, key: str) -> None:
    """The same by the backbone's config alone."""
    limit = int(getattr(config, "max_position_embeddings", None) or spec.max_tokens)
    if spec.max_tokens > limit:
        raise RecipeError(f"{key}.max_tokens is {spec.max_tokens}, but the backbone reads at most {limit} tokens; lower it")
