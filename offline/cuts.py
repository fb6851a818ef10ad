"""How many texts are longer than their tower reads, and how many tokens it does not know: what they say is never searched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sentence_transformers import SentenceTransformer

from offline.data.prepared import Prepared
from offline.findings import Cut
from offline.probes import probe_queries, spread
from offline.recipe import Recipe
from snapshot.manifest import TextSpec
from snapshot.text import render, render_query

_SAMPLE = 2_000
_CHARACTERS_PER_TOKEN = 32  # far above what any tokenizer takes for one: the rest of a long text need not be read to count


def count_cuts(prepared: Prepared, recipe: Recipe, query: SentenceTransformer, document: SentenceTransformer) -> tuple[Cut, ...]:
    """Of the documents and of the queries, each at even distances where there are more than a sample holds."""
    specs = recipe.text
    table = prepared.tower_texts
    rows = spread(range(table.num_rows), _SAMPLE)
    documents = [render(specs.document, fields) for fields in table.take(rows).to_pylist()]
    queries = [render_query(specs.query, text) for text in probe_queries(prepared, _SAMPLE)]
    return (_count("documents", document, specs.document, documents), _count("queries", query, specs.query, queries))


def _count(texts: Literal["documents", "queries"], tower: SentenceTransformer, spec: TextSpec, sample: Sequence[str]) -> Cut:
    heads = [text[: _CHARACTERS_PER_TOKEN * spec.max_tokens] for text in sample]
    tokenizer = tower.tokenizer
    found = tokenizer(heads, add_special_tokens=spec.add_special_tokens, verbose=False)["input_ids"] if heads else []
    added = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    unknown = {tokenizer.unk_token_id} - added  # models of bytes know everything, and may name their end token here
    return Cut(
        texts=texts,
        max_tokens=spec.max_tokens,
        sample=len(heads),
        cut=sum(len(tokens) > spec.max_tokens for tokens in found),
        tokens=sum(token not in added for tokens in found for token in tokens),
        unknown=sum(token in unknown for tokens in found for token in tokens),
    )
