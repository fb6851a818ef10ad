from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_snapshot import MAX_TOKENS, SPECIAL, WORDS, fingerprint, make_oracle, make_snapshot, token_ids, write_tower
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from service.batching import BatchPlan, BatchSize
from service.encoder import Encoder, Tokens
from snapshot.errors import IntegrityError, SpaceMismatchError
from snapshot.layout import Layout
from snapshot.manifest import QueryTower, Space, TextSpec

SPACE = Space(fingerprint=fingerprint(0), dim=16)
ORACLE = make_oracle()
QUERIES = ["apple", "river spoon table", "zebra " * 9, "lamp mirror"]


@cache
def wordpiece():
    """As BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    return trained(tokenizer, trainers.WordPieceTrainer(vocab_size=150, special_tokens=list(SPECIAL), show_progress=False))


@cache
def bytes_in_pairs():
    """As those of Qwen and GPT."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"special_tokens": list(SPECIAL), "initial_alphabet": alphabet, "show_progress": False}
    return trained(tokenizer, trainers.BpeTrainer(vocab_size=400, **options))


@cache
def unigram():
    """As that of XLM-R."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    options = {"special_tokens": list(SPECIAL), "unk_token": "[UNK]", "show_progress": False}
    return trained(tokenizer, trainers.UnigramTrainer(vocab_size=120, **options))


def trained(tokenizer, trainer):
    tokenizer.train_from_iterator([*WORDS, "don't look, it's 3.5 kB"], trainer)
    ends = [("[CLS]", SPECIAL.index("[CLS]")), ("[SEP]", SPECIAL.index("[SEP]"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


TOKENIZERS = {"wordpiece": wordpiece, "bytes in pairs": bytes_in_pairs, "unigram": unigram}


def tower(**text: object) -> QueryTower:
    return QueryTower(text=TextSpec(max_tokens=MAX_TOKENS, **text), precision="fp32", layers=0, parameters=0)


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> Layout:
    return make_snapshot(tmp_path_factory.mktemp("registry"), rows=20)


@pytest.fixture
def encoder(layout: Layout) -> Encoder:
    return Encoder.open(layout, tower(), SPACE, threads=1)


def test_vectors_are_those_of_the_oracle(encoder):
    vectors = encoder.encode(QUERIES)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, ORACLE.encode(QUERIES), atol=1e-6)


def read(encoder, *queries):
    return encoder.tokenize([encoder.render(query) for query in queries])


def test_tokens_are_those_of_the_oracle(encoder):
    tokens = read(encoder, "apple", "river spoon table")
    assert [each.ids for each in tokens] == [token_ids("apple"), token_ids("river spoon table")]
    assert [each.truncated for each in tokens] == [False, False]


@pytest.mark.parametrize(("words", "truncated"), [(MAX_TOKENS - 2, False), (MAX_TOKENS - 1, True), (5000, True)])
def test_what_was_cut_is_said(encoder, words, truncated):
    [tokens] = read(encoder, " ".join((WORDS * 200)[:words]))
    assert len(tokens.ids) == MAX_TOKENS
    assert tokens.truncated == truncated


class Recorded:
    """A tokenizer, and the characters that it was given at a time."""

    def __init__(self, inner):
        self._inner, self.characters = inner, []

    def encode_batch_fast(self, texts, **options):
        self.characters.append(sum(map(len, texts)))
        return self._inner.encode_batch_fast(texts, **options)


def test_what_the_tower_does_not_read_of_a_long_text_is_not_tokenized(encoder):
    encoder._tokenizer = recorded = Recorded(encoder._tokenizer)
    [tokens] = read(encoder, " ".join(WORDS * 100))
    assert tokens == Tokens(token_ids(" ".join(WORDS)), truncated=True)
    assert max(recorded.characters) <= 32 * MAX_TOKENS


@pytest.mark.parametrize("text", ["x" * 1000, f"apple {'x' * 1000} bread", "apple " + "x" * 1000, f"{'x' * 380} apple " * 2])
def test_a_long_text_of_few_words_is_read_to_its_end(encoder, text):
    assert read(encoder, "zebra", text)[1] == Tokens(token_ids(text), truncated=False)


LONG = st.lists(
    st.one_of(st.sampled_from([*WORDS, "[SEP]", "文書検索", "e\u0301a", "don't", "x" * 150]), st.text(max_size=12)), max_size=150
)


@given(words=LONG, max_tokens=st.sampled_from([2, 3, 8]), special=st.booleans())
@settings(max_examples=50, deadline=None)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_head_of_a_text_gives_the_tokens_of_the_whole(kind, words, max_tokens, special):
    tokenizer, text = TOKENIZERS[kind](), TextSpec(max_tokens=max_tokens, add_special_tokens=special)
    tokenizer.enable_truncation(max_tokens)
    encoder = Encoder(tokenizer, None, QueryTower(text=text, precision="fp32", layers=0, parameters=0), 16)
    rendered = encoder.render(" ".join(words))
    whole = tokenizer.encode(rendered, add_special_tokens=special)
    assert encoder.tokenize([rendered]) == [Tokens(whole.ids, len(whole.ids) >= max_tokens and bool(whole.overflowing))]


def test_queries_are_rendered_as_the_manifest_says(layout):
    encoder = Encoder.open(layout, tower(template="river {text} lamp", lowercase=True), SPACE, threads=1)
    [tokens] = read(encoder, "  APPLE\n Zebra ")
    assert tokens.ids == token_ids("river apple zebra lamp")


def test_special_tokens_are_left_out_where_the_manifest_says_so(layout):
    encoder = Encoder.open(layout, tower(add_special_tokens=False), SPACE, threads=1)
    short, long, nothing = read(encoder, "apple", "apple " * 50, "")
    assert short.ids == token_ids("apple")[1:-1]
    assert len(long.ids) == MAX_TOKENS
    assert nothing.ids == []
    assert encoder.encode([""]).shape == (1, 16)


def test_settings_inside_the_tokenizer_file_do_not_count(layout, tmp_path):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(layout.tokenizer))
    tokenizer.enable_padding(length=40, pad_id=9)
    tokenizer.enable_truncation(3)
    own = Layout(tmp_path)
    write_tower(own, ORACLE.table, SPACE.fingerprint)
    tokenizer.save(str(own.tokenizer))
    [tokens] = Encoder.open(own, tower(), SPACE, threads=1).tokenize(["apple bread chair"])
    assert tokens.ids == token_ids("apple bread chair")


def test_company_in_the_batch_does_not_change_a_vector(encoder):
    together = encoder.encode(QUERIES)
    alone = [encoder.encode([query])[0] for query in QUERIES]
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 32, 101])
def test_any_number_of_queries_in_any_batches(encoder, count, rows):
    encoder.batching = BatchPlan((BatchSize(tokens=64, rows=rows, gain=2.0),))
    queries = [" ".join(WORDS[n % 40 : n % 40 + 1 + n % 7]) for n in range(count)]
    vectors = encoder.encode(queries)
    assert vectors.shape == (count, 16)
    if count:
        np.testing.assert_allclose(vectors, ORACLE.encode(queries), atol=1e-6)


def test_threads_share_an_encoder(encoder):
    queries = [f"{first} {second}" for first in WORDS[:20] for second in WORDS[20:30]]
    with ThreadPoolExecutor(4) as pool:
        vectors = list(pool.map(lambda query: encoder.encode([query])[0], queries))
    np.testing.assert_allclose(vectors, ORACLE.encode(queries), atol=1e-6)


def test_another_space_of_the_same_width_is_refused_by_name(layout):
    other = Space(fingerprint="ab" * 32, dim=16)
    with pytest.raises(SpaceMismatchError, match=r"space 000000000000.* space abababababab"):
        Encoder.open(layout, tower(), other, threads=1)


def test_a_graph_that_names_no_space_is_refused(tmp_path):
    write_tower(Layout(tmp_path), ORACLE.table, "")
    with pytest.raises(SpaceMismatchError, match=r"\(none named\)"):
        Encoder.open(Layout(tmp_path), tower(), SPACE, threads=1)


def test_another_width_is_refused(layout):
    with pytest.raises(SpaceMismatchError, match=r"16 dimensions.* 32"):
        Encoder.open(layout, tower(), Space(fingerprint=SPACE.fingerprint, dim=32), threads=1)


def test_another_signature_is_refused(tmp_path):
    import onnx

    write_tower(Layout(tmp_path), ORACLE.table, SPACE.fingerprint)
    model = onnx.load(Layout(tmp_path).model)
    model.graph.node[-1].output[0] = model.graph.output[0].name = "last_hidden_state"
    onnx.save(model, Layout(tmp_path).model)
    with pytest.raises(IntegrityError, match=r"last_hidden_state.*sentence_embedding"):
        Encoder.open(Layout(tmp_path), tower(), SPACE, threads=1)


@pytest.mark.parametrize("name", ["model", "tokenizer"])
@pytest.mark.parametrize("content", [b"", b"{}", b"no such format"])
def test_unreadable_files_are_refused_by_path(tmp_path: Path, name, content):
    layout = Layout(tmp_path)
    write_tower(layout, ORACLE.table, SPACE.fingerprint)
    path: Path = getattr(layout, name)
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=path.name):
        Encoder.open(layout, tower(), SPACE, threads=1)


def test_closing_twice_is_closing(encoder):
    encoder.close()
    encoder.close()


def test_a_tokenizer_that_has_no_business_to_be_so_large_is_not_parsed(tmp_path):
    own = Layout(tmp_path)
    write_tower(own, ORACLE.table, SPACE.fingerprint)
    with own.tokenizer.open("r+b") as handle:
        handle.truncate((256 << 20) + 1)  # sparse
    with pytest.raises(IntegrityError, match="a tokenizer has at most"):
        Encoder.open(own, tower(), SPACE, threads=1)
