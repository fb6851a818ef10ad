import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny_models import WIDTH, make_tiny_bert, make_tiny_qwen
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer

from offline.errors import BackboneError, RecipeError
from offline.towers import (
    backbone_of,
    build_tower,
    encode,
    load_tower,
    multiplies_bf16,
    project,
    save_tower,
    space_fingerprint,
    take_layers,
    tokenize,
    tower_dim,
    training_attention,
)
from offline.trace import write_tokenizer
from snapshot.manifest import TextSpec

SPEC = TextSpec(max_tokens=16)
TEXTS = ["join two paths", "a", "remove white space from both ends of a string", "xyz " * 20, "copy a file"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make_tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return make_tiny_qwen(tmp_path_factory.mktemp("qwen"))


def by_hand(folder, texts, pooling, ends=False):
    """One text at a time through transformers alone, pooled in numpy; ``ends`` puts the end token behind what truncation left."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        ids = tokenizer(text).input_ids
        if ends:
            ids = [*ids[: SPEC.max_tokens - 1], tokenizer.eos_token_id]
        tokens = tokenizer(text, truncation=True, max_length=SPEC.max_tokens, return_tensors="pt")
        tokens = {"input_ids": torch.tensor([ids])} if ends else tokens
        with torch.inference_mode():
            hidden = model(**tokens).last_hidden_state[0].numpy()
        pooled = {"mean": hidden.mean(axis=0), "cls": hidden[0], "last": hidden[-1]}[pooling]
        rows.append(pooled / np.linalg.norm(pooled))
    return np.stack(rows)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_vectors_are_those_of_transformers_and_numpy(bert, pooling):
    vectors = encode(build_tower(str(bert), pooling), SPEC, TEXTS, batch_size=2)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, by_hand(bert, TEXTS, pooling), atol=1e-6)


def test_auto_pools_the_mean_of_an_encoder_and_the_last_token_of_a_language_model(bert, qwen):
    np.testing.assert_allclose(encode(build_tower(str(bert)), SPEC, TEXTS), by_hand(bert, TEXTS, "mean"), atol=1e-6)
    np.testing.assert_allclose(encode(build_tower(str(qwen)), SPEC, TEXTS), by_hand(qwen, TEXTS, "last", ends=True), atol=1e-6)


def test_auto_follows_what_the_backbone_declares(bert, tmp_path):
    save_tower(build_tower(str(bert), "cls"), tmp_path / "declares-cls", SPEC)
    np.testing.assert_allclose(
        encode(build_tower(str(tmp_path / "declares-cls")), SPEC, TEXTS), by_hand(bert, TEXTS, "cls"), atol=1e-6
    )


def test_the_side_of_the_padding_does_not_matter_to_a_language_model(qwen):
    tower = build_tower(str(qwen))
    right = encode(tower, SPEC, TEXTS)
    tower.tokenizer.padding_side = "left"
    np.testing.assert_allclose(encode(tower, SPEC, TEXTS), right, atol=1e-5)


def test_a_tokenizer_without_a_pad_token_gets_one(qwen, tmp_path):
    without = make_tiny_qwen(tmp_path, pad_token=False)
    tower = build_tower(str(without))
    assert tower.tokenizer.pad_token == "<|im_end|>"
    np.testing.assert_allclose(encode(tower, SPEC, TEXTS), by_hand(without, TEXTS, "last", ends=True), atol=1e-6)


def test_the_end_token_is_part_of_the_tokenizer_that_is_saved_exported_and_served(qwen, tmp_path):
    tower = build_tower(str(qwen))
    save_tower(tower, tmp_path / "tower", SPEC)
    write_tokenizer(load_tower(tmp_path / "tower"), tmp_path / "tokenizer.json")
    served = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    served.enable_truncation(SPEC.max_tokens)
    end = tower.tokenizer.eos_token_id
    for text in TEXTS:
        ids = served.encode(text).ids
        assert ids[-1] == end
        assert len(ids) <= SPEC.max_tokens
        assert ids == tokenize(load_tower(tmp_path / "tower"), SPEC, [text])["input_ids"][0].tolist()


def test_an_end_token_that_is_there_already_is_not_put_twice(qwen, tmp_path):
    save_tower(build_tower(str(qwen)), tmp_path / "tower", SPEC)
    tower = build_tower(str(tmp_path / "tower"))
    end = tower.tokenizer.eos_token_id
    assert tower.tokenizer("ab").input_ids.count(end) == 1


def test_a_saved_tower_is_a_plain_sentence_transformer(bert, tmp_path):
    tower = build_tower(str(bert))
    expected = encode(tower, SPEC, TEXTS)
    save_tower(tower, tmp_path / "tower", SPEC)
    np.testing.assert_allclose(encode(load_tower(tmp_path / "tower"), SPEC, TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path / "tower")).encode(TEXTS), expected, atol=1e-6)


def test_saving_replaces_what_was_there(bert, qwen, tmp_path):
    save_tower(build_tower(str(bert)), tmp_path / "tower", SPEC)
    (tmp_path / "tower" / "left-over").touch()
    save_tower(build_tower(str(qwen)), tmp_path / "tower", SPEC)
    assert not (tmp_path / "tower" / "left-over").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["tower"]


def test_special_tokens_are_left_out_when_the_spec_says_so(bert):
    tower = build_tower(str(bert))
    bare = TextSpec(max_tokens=16, add_special_tokens=False)
    assert not np.allclose(encode(tower, bare, TEXTS), encode(tower, SPEC, TEXTS), atol=1e-3)


def test_no_texts_give_no_rows(bert):
    assert encode(build_tower(str(bert)), SPEC, []).shape == (0, WIDTH)


@pytest.mark.parametrize("make", [make_tiny_bert, make_tiny_qwen])
def test_layers_of_a_student_are_those_of_the_teacher(make, tmp_path):
    teacher = build_tower(str(make(tmp_path / "teacher")))
    kept = dict(teacher.named_parameters())
    student = take_layers(teacher, (0, 2))
    for name, parameter in student.named_parameters():
        source = name.replace(".layer.1.", ".layer.2.").replace(".layers.1.", ".layers.2.")
        assert torch.equal(parameter, kept[source])
    save_tower(student, tmp_path / "student", SPEC)
    np.testing.assert_allclose(encode(load_tower(tmp_path / "student"), SPEC, TEXTS), encode(student, SPEC, TEXTS), atol=1e-6)


@pytest.mark.parametrize("make", [make_tiny_bert, make_tiny_qwen])
def test_all_layers_in_order_are_the_teacher(make, tmp_path):
    teacher = build_tower(str(make(tmp_path)))
    np.testing.assert_allclose(encode(take_layers(teacher, (0, 1, 2)), SPEC, TEXTS), encode(teacher, SPEC, TEXTS), atol=1e-6)


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ((0, 3), r"layer 3 of a tower with 3 layers \(0 to 2\)"),
        ((-1,), "layer -1"),
        ((1, 1), "each layer once"),
        ((), "at least one"),
    ],
)
def test_layers_that_the_teacher_lacks_are_refused(bert, layers, says):
    with pytest.raises(RecipeError, match=says):
        take_layers(build_tower(str(bert)), layers)


def test_a_projection_changes_the_width_and_is_saved(bert, tmp_path):
    tower = project(build_tower(str(bert)), 7)
    assert tower_dim(tower) == 7
    vectors = encode(tower, SPEC, TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    save_tower(tower, tmp_path / "tower", SPEC)
    np.testing.assert_allclose(encode(load_tower(tmp_path / "tower"), SPEC, TEXTS), vectors, atol=1e-6)


def test_the_fingerprint_names_the_weights_and_the_text_spec(tmp_path):
    for seed in (0, 1):
        save_tower(build_tower(str(make_tiny_bert(tmp_path / f"backbone{seed}", seed=seed))), tmp_path / str(seed), SPEC)
    save_tower(load_tower(tmp_path / "0"), tmp_path / "again", SPEC)
    fingerprint = space_fingerprint(tmp_path / "0", SPEC)
    assert fingerprint == space_fingerprint(tmp_path / "again", SPEC)
    assert fingerprint != space_fingerprint(tmp_path / "1", SPEC)
    assert fingerprint != space_fingerprint(tmp_path / "0", TextSpec(max_tokens=17))


def test_the_fingerprint_names_the_pooling_too(bert, tmp_path):
    for pooling in ("mean", "cls"):
        save_tower(build_tower(str(bert), pooling), tmp_path / pooling, SPEC)
    assert space_fingerprint(tmp_path / "mean", SPEC) != space_fingerprint(tmp_path / "cls", SPEC)


def test_a_damaged_tower_is_refused_by_name(bert, tmp_path):
    save_tower(build_tower(str(bert)), tmp_path / "tower", SPEC)
    weights = tmp_path / "tower" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(BackboneError, match=r"tower: no tower can be loaded"):
        load_tower(tmp_path / "tower")
    with pytest.raises(BackboneError, match=r"gone: no tower can be loaded"):
        load_tower(tmp_path / "gone")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"amx_bf16": True}, True), ({"amx_bf16": False, "avx512_bf16": True}, True), ({"avx512_f": True}, False), ({}, False)],
)
def test_a_cpu_says_itself_whether_it_multiplies_in_bf16(monkeypatch, capabilities, expected):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities, raising=False)
    assert multiplies_bf16() is expected


@pytest.mark.parametrize(
    ("has_it", "precision", "expected"), [(True, "auto", "eager"), (True, "fp32", "sdpa"), (False, "auto", "sdpa")]
)
def test_a_cpu_that_trains_in_bf16_has_plain_attention_meanwhile(bert, monkeypatch, has_it, precision, expected):
    monkeypatch.setattr("offline.towers.multiplies_bf16", lambda: has_it)
    tower = build_tower(str(bert))
    with training_attention(tower, precision):
        assert backbone_of(tower).config._attn_implementation == expected
        found = encode(tower, SPEC, TEXTS)
    assert backbone_of(tower).config._attn_implementation == "sdpa"
    np.testing.assert_allclose(found, encode(tower, SPEC, TEXTS), atol=1e-6)
