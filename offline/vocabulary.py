"""A tower without the tokens that nobody uses. What texts are made of does not change: only what they never touch goes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from offline.errors import BackboneError
from offline.towers import backbone_of
from snapshot.manifest import TextSpec

_BATCH = 1024
_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id", "unk_token_id")
_NAMES = ("pad_token", "bos_token", "eos_token", "cls_token", "sep_token", "mask_token", "unk_token")


def keep_seen(tower: SentenceTransformer, spec: TextSpec, texts: Sequence[str]) -> SentenceTransformer:
    """A copy of the tower with the tokens of the rendered ``texts``, special tokens and single characters; ids are numbered anew.

    The texts have the same tokens as before, so the same vectors. Words that were not seen are made of shorter pieces, down to
    single characters, so that none becomes unknown that was known.

    Raises:
        BackboneError: the tokenizer is of a kind whose tokens cannot be taken away.
    """
    tokenizer = tower.tokenizer
    content = json.loads(_backend(tower).to_str())
    used = _used(tokenizer, spec, texts) | {entry["id"] for entry in content["added_tokens"]}
    kept = sorted(_closure(content["model"], used))
    numbers = {old: new for new, old in enumerate(kept)}
    student = copy.deepcopy(tower)
    _cut_embeddings(backbone_of(student), kept, numbers)
    student[0].processor = _renumbered(tokenizer, content, numbers)
    return student


def _backend(tower: SentenceTransformer) -> Tokenizer:
    fast = getattr(tower.tokenizer, "backend_tokenizer", None)
    if not isinstance(fast, Tokenizer):
        raise BackboneError('distill.vocabulary = "seen" needs a tokenizer with a tokenizer.json; leave it at "whole"')
    return fast


def _used(tokenizer: PreTrainedTokenizerFast, spec: TextSpec, texts: Sequence[str]) -> set[int]:
    """Ids of the tokens of the texts, whole: what training cuts off, serving may not."""
    used: set[int] = set()
    for start in range(0, len(texts), _BATCH):
        batch = list(texts[start : start + _BATCH])
        for ids in tokenizer(batch, add_special_tokens=spec.add_special_tokens, verbose=False)["input_ids"]:
            used.update(ids)
    return used


def _closure(model: Mapping[str, Any], used: Set[int]) -> set[int]:
    """``used``, and what is needed to make those tokens and any other text."""
    match model["type"]:
        case "WordPiece":
            prefix = model["continuing_subword_prefix"]
            single = (i for token, i in model["vocab"].items() if len(token.removeprefix(prefix)) == 1)
            return {*used, *single, model["vocab"][model["unk_token"]]}
        case "Unigram":
            single = (i for i, (token, _) in enumerate(model["vocab"]) if len(token) == 1 or _is_byte(token))
            return {*used, *single, *(() if model["unk_id"] is None else (model["unk_id"],))}
        case "BPE":
            return _with_parts(model, used)
    raise BackboneError(f'distill.vocabulary = "seen": a {model["type"]} tokenizer cannot be cut; leave it at "whole"')


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x")


def _with_parts(model: Mapping[str, Any], used: Set[int]) -> set[int]:
    """With every token that a merge on the way to a used one makes: else the merges before it would be missing."""
    vocabulary: Mapping[str, int] = model["vocab"]
    parts: dict[str, list[tuple[str, str]]] = {}
    for pair in map(_pair, model["merges"]):
        parts.setdefault("".join(pair), []).append(pair)
    kept = {i for token, i in vocabulary.items() if len(token) == 1 or _is_byte(token) or token == model.get("unk_token")}
    names = {i: token for token, i in vocabulary.items()}
    waiting = [names[i] for i in used if i in names]
    kept.update(used)
    while waiting:
        for part in (part for pair in parts.get(waiting.pop(), ()) for part in pair):
            if vocabulary[part] not in kept:
                kept.add(vocabulary[part])
                waiting.append(part)
    return kept


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _cut_embeddings(model: Any, kept: Sequence[int], numbers: Mapping[int, int]) -> None:
    before = model.get_input_embeddings()
    rows = [old for old in kept if old < before.num_embeddings]
    padding = numbers.get(before.padding_idx) if before.padding_idx is not None else None
    after = torch.nn.Embedding(len(rows), before.embedding_dim, padding_idx=padding)
    after.weight.data = before.weight.data[rows].clone()
    model.set_input_embeddings(after)
    model.config.vocab_size = len(rows)
    for name in _IDS:
        value = getattr(model.config, name, None)
        if isinstance(value, int):
            setattr(model.config, name, numbers.get(value))


def _renumbered(
    tokenizer: PreTrainedTokenizerFast, content: dict[str, Any], numbers: Mapping[int, int]
) -> PreTrainedTokenizerFast:
    model = content["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [entry for old, entry in enumerate(model["vocab"]) if old in numbers]
        model["unk_id"] = None if model["unk_id"] is None else numbers[model["unk_id"]]
    else:
        model["vocab"] = {token: numbers[old] for token, old in model["vocab"].items() if old in numbers}
    if model["type"] == "BPE":
        known = model["vocab"]
        model["merges"] = [merge for merge in model["merges"] if _is_whole(_pair(merge), known)]
    for entry in content["added_tokens"]:
        entry["id"] = numbers[entry["id"]]
    _renumber_processor(content.get("post_processor"), numbers)
    names = {name: getattr(tokenizer, name) for name in _NAMES if getattr(tokenizer, name, None) is not None}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        padding_side=tokenizer.padding_side,
        **names,
    )


def _is_whole(pair: tuple[str, str], known: Mapping[str, int]) -> bool:
    return all(token in known for token in (*pair, "".join(pair)))


def _renumber_processor(processor: dict[str, Any] | None, numbers: Mapping[int, int]) -> None:
    """The tokens that are put around a text, in each of the three forms in which tokenizers writes them."""
    if processor is None:
        return
    for part in processor.get("processors", ()):
        _renumber_processor(part, numbers)
    for entry in _specials(processor):
        entry["ids"] = [numbers[i] for i in entry["ids"]]
    for name in ("sep", "cls"):
        if name in processor:
            processor[name][1] = numbers[processor[name][1]]


def _specials(processor: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    special = processor.get("special_tokens", {})
    return special.values() if isinstance(special, dict) else ()
