import numpy as np
import pytest
import torch
from tiny_models import make_tiny_bert

from offline.losses import MASKED, NEGATIVE, POSITIVE, distillation, embed, info_nce, over_widths
from offline.towers import build_tower, tokenize
from snapshot.manifest import TextSpec


def unit(rows, dim=8, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def info_nce_in_numpy(queries, documents, relation, temperature):
    losses = []
    for query, line in zip(queries, relation, strict=True):
        weights = np.exp(documents.astype(np.float64) @ query / temperature)
        losses.append(-np.log(weights[line == POSITIVE].sum() / weights[line != MASKED].sum()))
    return np.mean(losses)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_info_nce_is_the_formula(temperature):
    queries, documents = unit(3), unit(4, seed=1)
    relation = np.full((3, 4), NEGATIVE)
    relation[[0, 1, 2], [0, 3, 3]] = POSITIVE
    relation[0, 1] = relation[2, 0] = MASKED
    loss = info_nce(torch.tensor(queries), torch.tensor(documents), torch.tensor(relation), temperature)
    assert loss.item() == pytest.approx(info_nce_in_numpy(queries, documents, relation, temperature), rel=1e-5)


def test_a_masked_document_has_no_influence_and_no_gradient():
    queries, documents = torch.tensor(unit(2)), torch.tensor(unit(3, seed=1), requires_grad=True)
    relation = torch.tensor([[POSITIVE, NEGATIVE, MASKED], [NEGATIVE, POSITIVE, MASKED]])
    loss = info_nce(queries, documents, relation, 0.1)
    loss.backward()
    assert documents.grad is not None
    assert torch.equal(documents.grad[2], torch.zeros(8))
    assert loss.item() == pytest.approx(info_nce(queries, documents[:2], relation[:, :2], 0.1).item())


def test_half_precision_vectors_are_compared_in_single():
    queries, documents = unit(4), unit(4, seed=1)
    relation = torch.eye(4, dtype=torch.int64)
    half = info_nce(torch.tensor(queries).bfloat16(), torch.tensor(documents).bfloat16(), relation, 0.05)
    assert half.dtype == torch.float32


@pytest.mark.parametrize(("mse", "cosine"), [(1.0, 0.0), (0.0, 1.0), (0.7, 2.0)])
def test_distillation_is_the_formula(mse, cosine):
    student, teacher = 3 * unit(5), unit(5, seed=1)
    squared = np.mean(np.sum((student - teacher) ** 2, axis=1))
    similarity = np.mean(np.sum(student * teacher, axis=1) / np.linalg.norm(student, axis=1))
    loss = distillation(torch.tensor(student), torch.tensor(teacher), mse, cosine)
    assert loss.item() == pytest.approx(mse * squared + cosine * (1 - similarity), rel=1e-5)


def test_between_unit_vectors_the_squared_error_does_not_depend_on_the_width():
    for dim in (2, 64):
        student, teacher = unit(5, dim), unit(5, dim, seed=1)
        squared = distillation(torch.tensor(student), torch.tensor(teacher), 1.0, 0.0).item()
        cosine = distillation(torch.tensor(student), torch.tensor(teacher), 0.0, 1.0).item()
        assert squared == pytest.approx(2 * cosine, rel=1e-5)


def test_a_perfect_student_loses_nothing():
    vectors = torch.tensor(unit(5))
    assert distillation(vectors, vectors, 1.0, 1.0).item() == pytest.approx(0.0, abs=1e-6)


def test_embedding_in_pieces_gives_what_the_padded_batch_gives(tmp_path):
    tower = build_tower(str(make_tiny_bert(tmp_path))).eval()
    texts = sorted(("word " * (1 + i % 9) for i in range(150)), key=len)
    features = tokenize(tower, TextSpec(max_tokens=64), texts)
    with torch.inference_mode():
        whole = tower(dict(features))["sentence_embedding"]
        np.testing.assert_allclose(embed(tower, features).numpy(), whole.numpy(), atol=1e-6)


def test_a_matryoshka_loss_is_the_mean_over_normalised_prefixes():
    left, right = unit(3), unit(3, seed=1)
    relation = torch.eye(3, dtype=torch.int64)

    def loss(a, b):
        return info_nce(a, b, relation, 0.1)

    expected = []
    for width in (8, 4, 2):
        parts = [side[:, :width] / np.linalg.norm(side[:, :width], axis=1, keepdims=True) for side in (left, right)]
        expected.append(info_nce_in_numpy(*parts, np.eye(3, dtype=int), 0.1))
    assert over_widths(loss, (4, 2), torch.tensor(left), torch.tensor(right)).item() == pytest.approx(np.mean(expected), rel=1e-5)
    assert over_widths(loss, (), torch.tensor(left), torch.tensor(right)).item() == pytest.approx(expected[0], rel=1e-5)
