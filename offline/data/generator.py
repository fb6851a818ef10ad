"""Queries written by a language model that reads the documents (doc2query, Nogueira et al., arXiv 1904.08375)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offline.backbones import resolve_backbone
from offline.config import GeneratorConfig, SourceName
from offline.data.corpus import Corpus
from offline.errors import BackboneError
from offline.progress import track

_TOP_K = 10
"""doc2query samples among so many tokens: what beam search writes is alike for all documents."""


@dataclass(frozen=True)
class Generator:
    """Samples queries from a sequence-to-sequence or causal language model, seeded."""

    config: GeneratorConfig
    source: SourceName = "generated"

    def mine(self, corpus: Corpus) -> Iterator[str]:
        """Queries of a random sample of the documents.

        Raises:
            BackboneError: the model cannot be found or loaded, or is no language model that writes.
        """
        import torch  # with transformers: seconds to import, for an option

        model, tokenizer = _load(self.config)
        torch.manual_seed(self.config.seed)
        rows = np.random.default_rng(self.config.seed).permutation(len(corpus.titles))[: self.config.max_documents].tolist()
        prompts = [self.config.prompt.format(title=corpus.titles[row], text=corpus.texts[row]) for row in rows]
        size = self.config.batch_size
        for start in track(range(0, len(prompts), size), "queries written, batches"):
            yield from self._write(model, tokenizer, prompts[start : start + size])

    def _write(self, model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[str]:
        import torch

        limit = self.config.max_prompt_tokens
        tokens = tokenizer(list(prompts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        with torch.inference_mode():
            written = model.generate(
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
                do_sample=True,
                top_k=_TOP_K,
                max_new_tokens=self.config.max_query_tokens,
                num_return_sequences=self.config.per_document,
                pad_token_id=tokenizer.pad_token_id,
            )
        begin = 0 if model.config.is_encoder_decoder else tokens["input_ids"].shape[1]
        answers = tokenizer.batch_decode(written[:, begin:], skip_special_tokens=True)
        return [answer.strip().partition("\n")[0] for answer in answers]


def _load(config: GeneratorConfig) -> tuple[Any, Any]:
    """The model, and its tokenizer with padding on the side that it does not write on."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    folder = str(resolve_backbone(config.model))
    try:
        is_pair = AutoConfig.from_pretrained(folder).is_encoder_decoder
        kind = AutoModelForSeq2SeqLM if is_pair else AutoModelForCausalLM
        model, tokenizer = kind.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise BackboneError(f"data.generator.model {config.model!r}: writes no text ({error}); name a language model") from error
    if not is_pair:
        tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return model, tokenizer
