"""Each kind of student on a tiny teacher: what it keeps, that anybody can load it, and that its graph is what torch computes."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny_models import LAYERS, WIDTH, make_tiny_bert, make_tiny_qwen

from offline.config import DistillConfig
from offline.errors import BackboneError, RecipeError
from offline.graph import Graph, cosine_distance
from offline.quantize import int8_per_token, observe, static_int8
from offline.recipe import Recipe
from offline.students import align, check_student, make_student, ridge
from offline.towers import backbone_of, build_tower, encode, load_tower, save_tower, tokenize, tower_dim
from offline.trace import to_onnx, write_graph, write_tokenizer
from snapshot.manifest import TextSpec

SPEC = TextSpec(max_tokens=16)
TEXTS = ["join two paths", "a", "remove white space from both ends of a string", "copy a file", "zip", "list all files"]
KINDS = {
    "layers": {"layers": (0, 2)},
    "narrow": {"student": "narrow", "layers": (0, 2), "width": WIDTH // 2},
    "thin": {"student": "narrow", "layers": (1,), "ffn": 8},
    "static": {"student": "static"},
    "seen": {"layers": (2,), "vocabulary": "seen"},
    "static, seen": {"student": "static", "mixers": 0, "vocabulary": "seen"},
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return build_tower(str(make_tiny_bert(tmp_path_factory.mktemp("teacher"))))


@pytest.fixture(scope="module")
def vectors(teacher):
    return encode(teacher, SPEC, TEXTS)


def make(teacher, kind, **changes):
    torch.manual_seed(0)
    return make_student(teacher, DistillConfig(**{**KINDS[kind], **changes}), SPEC, WIDTH, TEXTS)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_saved_in_a_form_that_anybody_loads(teacher, vectors, kind, tmp_path):
    student = align(make(teacher, kind), SPEC, TEXTS, vectors)
    save_tower(student, tmp_path / "student", SPEC)
    expected = encode(student, SPEC, TEXTS)
    np.testing.assert_allclose(encode(load_tower(tmp_path / "student"), SPEC, TEXTS), expected, atol=1e-5)
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path / "student")).encode(TEXTS), expected, atol=1e-5)
    assert tower_dim(student) == WIDTH


@pytest.mark.parametrize("kind", ["static, seen"])
def test_its_graphs_are_what_torch_computes(teacher, vectors, kind, tmp_path):
    student = align(make(teacher, kind), SPEC, TEXTS, vectors).eval()
    expected, model = encode(student, SPEC, TEXTS), to_onnx(student)
    write_tokenizer(student, tmp_path / "tokenizer.json")
    fp32 = open_graph(model, tmp_path / "fp32.onnx", student)
    assert cosine_distance(fp32.encode(TEXTS, 4), expected).max() < 1e-6
    ranges = observe(model, (fp32.feed([text]) for text in TEXTS))
    for make_int8 in (static_int8, int8_per_token):
        int8 = open_graph(make_int8(model, ranges), tmp_path / "int8.onnx", student)
        assert cosine_distance(int8.encode(TEXTS, 4), expected).max() < 0.05


def open_graph(model, path, student):
    write_graph(model, "", path)
    return Graph.open(path, path.parent / "tokenizer.json", SPEC, pad_token_id=student.tokenizer.pad_token_id)


def test_a_static_student_begins_as_the_teachers_vectors_of_single_tokens(teacher):
    student = make(teacher, "static", mixers=0)
    student[1].emb_layer.weight.data[student.tokenizer.all_special_ids] = 0
    texts = ["a", "b", "z"]
    assert cosine_distance(encode(student, SPEC, texts), encode(teacher, SPEC, texts)).max() < 0.1  # but for their mean
    assert backbone_of(student).config.num_hidden_layers == 0


def test_a_static_student_is_of_a_language_models_tokens_too(tmp_path):
    qwen = build_tower(str(make_tiny_qwen(tmp_path / "qwen")))
    student = make_student(qwen, DistillConfig(student="static"), SPEC, WIDTH, TEXTS)
    assert encode(student, SPEC, TEXTS).shape == (len(TEXTS), WIDTH)


def test_a_narrow_student_keeps_what_weighs_most(tmp_path):
    teacher = build_tower(str(make_tiny_bert(tmp_path / "bert")))
    layer = backbone_of(teacher).encoder.layer[1]
    with torch.no_grad():
        layer.intermediate.dense.weight[::2] *= 100
    thin = make_student(teacher, DistillConfig(student="narrow", layers=(1,), ffn=WIDTH), SPEC, WIDTH)
    kept = backbone_of(thin).encoder.layer[0].intermediate.dense.weight
    assert torch.equal(kept, layer.intermediate.dense.weight[::2])
    assert backbone_of(thin).config.intermediate_size == WIDTH


def test_a_narrow_student_of_the_teachers_own_size_is_the_teacher(teacher):
    layers = tuple(range(LAYERS))
    same = make_student(teacher, DistillConfig(student="narrow", layers=layers, width=WIDTH, ffn=2 * WIDTH), SPEC, WIDTH)
    np.testing.assert_allclose(encode(same, SPEC, TEXTS), encode(teacher, SPEC, TEXTS), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 24}, "must be a multiple of 16, at most 32"),
        ({"width": 64}, "at most 32"),
        ({"ffn": 65}, "feed-forward layers have 64 neurons"),
    ],
)
def test_more_than_the_teacher_has_is_refused(teacher, changes, message):
    with pytest.raises(RecipeError, match=message):
        make_student(teacher, DistillConfig(student="narrow", layers=(0,), **changes), SPEC, WIDTH)


def test_what_is_not_built_as_bert_is_cannot_be_narrowed(tmp_path):
    qwen = build_tower(str(make_tiny_qwen(tmp_path / "qwen")))
    with pytest.raises(BackboneError, match=r"qwen3 cannot be made narrower here.*distill\.layers"):
        make_student(qwen, DistillConfig(student="narrow", layers=(0,), width=16), SPEC, WIDTH)


def test_aligning_is_least_squares():
    random = np.random.default_rng(0)
    inputs, weight, bias = random.normal(size=(500, 5)), random.normal(size=(3, 5)), random.normal(size=3)
    found, offset = ridge(inputs.astype(np.float32), (inputs @ weight.T + bias).astype(np.float32))
    np.testing.assert_allclose(found, weight, atol=0.01)
    np.testing.assert_allclose(offset, bias, atol=0.01)


def test_aligned_the_student_begins_nearer_to_the_teacher(teacher):
    texts = [f"{a} {b} {i}" for i, a in enumerate(TEXTS * 20) for b in TEXTS[:3]]
    vectors, student = encode(teacher, SPEC, texts), make(teacher, "layers")
    before = np.mean(cosine_distance(encode(student, SPEC, texts), vectors))
    assert np.mean(cosine_distance(encode(align(student, SPEC, texts, vectors), SPEC, texts), vectors)) < before / 2


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    root = tmp_path_factory.mktemp("backbones")
    return {"bert": str(make_tiny_bert(root / "bert")), "qwen": str(make_tiny_qwen(root / "qwen"))}


def recipe(backbones, distill, **train):
    settings = {"backbone": backbones[train.pop("backbone", "bert")], **train}
    return Recipe.model_validate({"name": "tiny", "train": settings, "distill": distill})


@pytest.mark.parametrize(
    ("distill", "train"),
    [
        ({"layers": [0, 2]}, {}),
        ({"layers": [0, 2]}, {"backbone": "qwen"}),
        ({"layers": [0, 1]}, {"query_layers": [0, 2]}),
        ({"student": "static"}, {"query_layers": [2]}),
        ({"student": "narrow", "layers": [0], "width": 16}, {}),
    ],
)
def test_a_student_that_can_be_made_is_let_through(backbones, distill, train):
    check_student(recipe(backbones, distill, **train))


@pytest.mark.parametrize(
    ("distill", "train", "error", "said"),
    [
        ({"layers": [0, 5]}, {}, RecipeError, r"asks for layer 5 of a tower with 3 layers \(0 to 2\)"),
        ({"layers": [0, 2]}, {"query_layers": [0, 2]}, RecipeError, r"distill.layers asks for layer 2 of a tower with 2 layers"),
        ({"layers": [0]}, {"query_layers": [3]}, RecipeError, r"train.query_layers asks for layer 3"),
        ({"layers": [0]}, {"document_layers": [3]}, RecipeError, r"train.document_layers asks for layer 3"),
        ({"student": "narrow", "layers": [0], "width": 7}, {}, RecipeError, r"distill.width is 7; it must be a multiple of 16"),
        (
            {"student": "narrow", "layers": [0], "width": 16},
            {"backbone": "qwen"},
            BackboneError,
            r"qwen3 cannot be made narrower",
        ),
        ({"backbone": "/nope"}, {}, BackboneError, r"/nope"),
    ],
)
def test_a_student_that_cannot_be_made_is_told_before_there_is_a_teacher(backbones, distill, train, error, said):
    with pytest.raises(error, match=said):
        check_student(recipe(backbones, distill, **train))


def test_padding_does_not_matter_to_a_static_student(teacher):
    student = make(teacher, "static").eval()
    alone = [student(tokenize(student, SPEC, [text]))["sentence_embedding"].detach().numpy()[0] for text in TEXTS]
    np.testing.assert_allclose(encode(student, SPEC, TEXTS, batch_size=6), alone, atol=1e-6)
