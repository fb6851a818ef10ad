"""A tower without layers: a vector and a weight for each token, their mean, and a few residual layers on it.

Nothing is multiplied per token, so that encoding takes a few hundredths of a millisecond. It begins as what the teacher
gives for each token by itself (Model2Vec, minishlab, 2024), and is built of modules that sentence-transformers has: a BERT
of no layers, WordWeights, Pooling, Dense.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from tempfile import TemporaryDirectory

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer, WordWeights
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase

from offline.progress import track
from offline.towers import quiet, to_device, tower_dim
from snapshot.manifest import TextSpec

_BATCH = 512
_SMOOTHING = 1e-3
"""a of a / (a + p): how much a token weighs that makes up the share p of all (SIF, Arora et al., 2017)."""


def make_static(teacher: SentenceTransformer, spec: TextSpec, mixers: int, texts: Sequence[str]) -> SentenceTransformer:
    """A tower of the teacher's tokenizer and width.

    After the mean come ``mixers`` residual layers x + GELU(Wx + b), which begin as nearly nothing. How often the rendered texts
    have a token decides what it weighs at first.
    """
    tokenizer, dim = teacher.tokenizer, tower_dim(teacher)
    transformer = _embeddings(teacher, spec, dim)
    vocabulary = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    weights = WordWeights(vocabulary, {})
    weights.emb_layer.weight.data = _weights(teacher, texts)[:, None]
    layers = [_mixer(dim) for _ in range(mixers)]
    return SentenceTransformer(modules=[transformer, weights, Pooling(dim, "mean"), *layers, Normalize()])


def _embeddings(teacher: SentenceTransformer, spec: TextSpec, dim: int) -> Transformer:
    """A BERT of no layers whose word vectors are the teacher's vectors of single tokens; positions count for nothing."""
    tokenizer = teacher.tokenizer
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=dim,
        num_hidden_layers=0,
        num_attention_heads=1,
        intermediate_size=1,
        max_position_embeddings=spec.max_tokens,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = BertModel(config).eval()  # with its pooler, unused, which a model that loads it would else make up
    embeddings = model.embeddings
    for parameter in (embeddings.position_embeddings.weight, embeddings.token_type_embeddings.weight):
        torch.nn.init.zeros_(parameter)
    embeddings.word_embeddings.weight.data = _single_tokens(teacher, spec)
    return _as_transformer(model, tokenizer)


def _as_transformer(model: BertModel, tokenizer: PreTrainedTokenizerBase) -> Transformer:
    """sentence-transformers makes a Transformer of a folder only, so that it goes through one."""
    with TemporaryDirectory() as folder, quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return Transformer(folder)


def _single_tokens(teacher: SentenceTransformer, spec: TextSpec) -> Tensor:
    """The teacher's vector of each token of its vocabulary, within the special tokens of a text: float[v, dim]."""
    tokenizer = teacher.tokenizer
    empty, one = (tokenizer(text, add_special_tokens=spec.add_special_tokens)["input_ids"] for text in ("", "a"))
    before = next((i for i, (a, b) in enumerate(zip(empty, one, strict=False)) if a != b), min(len(empty), len(one) - 1))
    parts = []
    with torch.inference_mode():
        for start in track(range(0, len(tokenizer), _BATCH), "teacher, single tokens"):
            tokens = torch.arange(start, min(start + _BATCH, len(tokenizer)))
            around = torch.tensor(empty, dtype=torch.int64).expand(len(tokens), -1)
            ids = torch.cat([around[:, :before], tokens[:, None], around[:, before:]], dim=1)
            features = to_device({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, teacher.device)
            parts.append(teacher(features)["sentence_embedding"].float().cpu())
    return torch.cat(parts).clone()


def _weights(teacher: SentenceTransformer, texts: Sequence[str]) -> Tensor:
    """A weight for each token, float[v]: rare ones about 1, frequent ones less, special ones nearly nothing."""
    tokenizer = teacher.tokenizer
    counted: Counter[int] = Counter()
    for start in range(0, len(texts), _BATCH):
        for ids in tokenizer(list(texts[start : start + _BATCH]), add_special_tokens=False, verbose=False)["input_ids"]:
            counted.update(ids)
    shares = torch.tensor([counted[i] for i in range(len(tokenizer))], dtype=torch.float32) / max(1, counted.total())
    weights = _SMOOTHING / (_SMOOTHING + shares)
    weights[[i for i in tokenizer.all_special_ids if i < len(weights)]] = 0.01
    return weights


def _mixer(dim: int) -> Dense:
    return Dense(
        dim,
        dim,
        activation_function=torch.nn.GELU(),
        init_weight=torch.randn(dim, dim) * (0.1 / dim**0.5),
        init_bias=torch.zeros(dim),
        use_residual=True,
    )
