import json

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tiny_models import LETTERS, make_tiny_bert
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from offline.errors import BackboneError
from offline.towers import backbone_of, build_tower, encode, load_tower, save_tower
from offline.vocabulary import keep_seen
from snapshot.manifest import TextSpec

SPEC = TextSpec(max_tokens=32)
SEEN = ["join two paths together", "remove white space", "paths of a string"]
CORPUS = [*SEEN, *("copying files elsewhere; nothing remains unread" for _ in range(9)), f"{LETTERS} x y z"]
NAMES = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
AROUND = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])


def train_tokenizer(kind):
    special = list(NAMES.values())
    if kind == "WordPiece":
        core, trainer = (
            Tokenizer(models.WordPiece(unk_token="[UNK]")),
            trainers.WordPieceTrainer(vocab_size=150, special_tokens=special),
        )
    elif kind == "BPE":
        core = Tokenizer(models.BPE(unk_token="[UNK]"))
        trainer = trainers.BpeTrainer(vocab_size=160, special_tokens=special, show_progress=False)
    else:
        core = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="[UNK]", show_progress=False)
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.train_from_iterator(CORPUS, trainer)
    core.post_processor = AROUND
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=64, **NAMES)


@pytest.fixture(params=["WordPiece", "BPE", "Unigram"])
def tower(request, tmp_path):
    tokenizer = train_tokenizer(request.param)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    transformer = Transformer(str(tmp_path / "model"))
    return SentenceTransformer(modules=[transformer, Pooling(16, "mean"), Normalize()])


def test_texts_that_were_seen_have_the_same_vectors(tower, tmp_path):
    small = keep_seen(tower, SPEC, SEEN)
    assert len(small.tokenizer) < len(tower.tokenizer)
    assert (
        backbone_of(small).config.vocab_size == backbone_of(small).get_input_embeddings().num_embeddings == len(small.tokenizer)
    )
    for text in SEEN:
        assert small.tokenizer.tokenize(text) == tower.tokenizer.tokenize(text)
    np.testing.assert_allclose(encode(small, SPEC, SEEN), encode(tower, SPEC, SEEN), atol=1e-6)
    save_tower(small, tmp_path / "small", SPEC)
    np.testing.assert_allclose(encode(load_tower(tmp_path / "small"), SPEC, SEEN), encode(tower, SPEC, SEEN), atol=1e-6)


def test_words_that_were_not_seen_are_made_of_pieces(tower):
    small = keep_seen(tower, SPEC, SEEN)
    tokens = small.tokenizer.tokenize("elsewhere files")
    assert "[UNK]" not in tokens
    assert "".join(token.removeprefix("##") for token in tokens) == "elsewherefiles"
    assert len(tokens) >= len(tower.tokenizer.tokenize("elsewhere files"))


def test_special_tokens_are_where_they_were(tower):
    small = keep_seen(tower, SPEC, SEEN)
    ids = small.tokenizer("join")["input_ids"]
    assert small.tokenizer.convert_ids_to_tokens([ids[0], ids[-1]]) == ["[CLS]", "[SEP]"]
    assert small.tokenizer.convert_ids_to_tokens(small.tokenizer.pad_token_id) == "[PAD]"
    assert backbone_of(small).config.pad_token_id == small.tokenizer.pad_token_id


def test_the_tower_itself_does_not_change(tower):
    before = encode(tower, SPEC, CORPUS)
    keep_seen(tower, SPEC, SEEN)
    assert np.array_equal(encode(tower, SPEC, CORPUS), before)


def test_a_tokenizer_of_whole_words_only_is_refused(tmp_path):
    bert = build_tower(str(make_tiny_bert(tmp_path / "bert")))
    content = json.loads(bert.tokenizer.backend_tokenizer.to_str())
    content["model"] = {"type": "WordLevel", "vocab": content["model"]["vocab"], "unk_token": "[UNK]"}
    bert[0].processor = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)), **NAMES)
    with pytest.raises(BackboneError, match="a WordLevel tokenizer cannot be cut"):
        keep_seen(bert, SPEC, SEEN)
