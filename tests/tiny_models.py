"""Tiny, randomly initialised backbones in transformers' format, made in under a second, for tests of every stage."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?()[]{}<>+-*/=_'\"#@&%$|\\~^"
WIDTH = 32
LAYERS = 3


def make_tiny_bert(folder: Path, layers: int = LAYERS, width: int = WIDTH, seed: int = 0) -> Path:
    """A BERT that reads letters as word pieces, with [CLS] and [SEP] put around by the tokenizer."""
    tokenizer = _letters_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tiny_qwen(folder: Path, layers: int = LAYERS, width: int = WIDTH, pad_token: bool = True, seed: int = 0) -> Path:
    """A Qwen3 (decoder-only, rotary positions, grouped heads) that reads bytes; without a pad token if so asked."""
    tokenizer = _bytes_tokenizer(pad_token)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=width // 2,
        intermediate_size=2 * width,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(seed)
    Qwen3Model(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _letters_tokenizer() -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = [*special, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    core = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    core.decoder = decoders.WordPiece()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=128, **names)


def _bytes_tokenizer(pad_token: bool) -> PreTrainedTokenizerFast:
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    names = {"eos_token": "<|im_end|>"} | ({"pad_token": "<|endoftext|>"} if pad_token else {})
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=256, **names)
