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


def info_nce_in_numpy(queries, documents, relation, temperature, margin=0.0):
    losses = []
    for query, line in zip(queries, relation, strict=True):
        scores = documents.astype(np.float64) @ query
        negatives = np.exp(scores[line == NEGATIVE] / temperature).sum()
        positives = np.exp((scores[line == POSITIVE] - margin) / temperature)
        if len(positives):
            losses.append(np.mean(-np.log(positives / (positives + negatives))))
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


def test_every_positive_of_a_query_is_contrasted_with_its_negatives_alone():
    queries, documents = unit(2), unit(4, seed=1)
    relation = np.array([[POSITIVE, POSITIVE, NEGATIVE, MASKED], [NEGATIVE, NEGATIVE, POSITIVE, NEGATIVE]])
    loss = info_nce(torch.tensor(queries), torch.tensor(documents), torch.tensor(relation), 0.1)
    assert loss.item() == pytest.approx(info_nce_in_numpy(queries, documents, relation, 0.1), rel=1e-5)


def test_symmetric_is_the_mean_of_both_ways_and_leaves_out_documents_without_a_query():
    queries, documents = unit(2), unit(3, seed=1)
    relation = np.array([[POSITIVE, NEGATIVE, NEGATIVE], [NEGATIVE, POSITIVE, NEGATIVE]])
    both = info_nce_in_numpy(queries, documents, relation, 0.1), info_nce_in_numpy(documents, queries, relation.T, 0.1)
    loss = info_nce(torch.tensor(queries), torch.tensor(documents), torch.tensor(relation), 0.1, symmetric=True)
    assert loss.item() == pytest.approx(np.mean(both), rel=1e-5)


def test_a_margin_is_taken_off_the_positives():
    queries, documents, relation = unit(3), unit(3, seed=1), np.eye(3, dtype=int)
    loss = info_nce(torch.tensor(queries), torch.tensor(documents), torch.tensor(relation), 0.1, margin=0.2)
    assert loss.item() == pytest.approx(info_nce_in_numpy(queries, documents, relation, 0.1, margin=0.2), rel=1e-5)


def test_the_guard_masks_what_scores_above_a_share_of_the_positive():
    queries = torch.tensor([[1.0, 0.0]])
    documents = torch.nn.functional.normalize(torch.tensor([[0.8, 0.6], [0.78, 0.626], [0.7, 0.714]]), dim=1)
    relation = torch.tensor([[POSITIVE, NEGATIVE, NEGATIVE]])
    guarded = info_nce(queries, documents, relation, 0.1, guard=0.95)
    expected = info_nce(queries, documents, torch.tensor([[POSITIVE, MASKED, NEGATIVE]]), 0.1)
    assert guarded.item() == pytest.approx(expected.item())


def test_where_all_is_masked_the_gradient_is_zero_and_not_nan():
    queries = torch.tensor(unit(2), requires_grad=True)
    relation = torch.tensor([[POSITIVE, MASKED], [MASKED, POSITIVE]])
    info_nce(queries, torch.tensor(unit(2, seed=1)), relation, 0.05, symmetric=True).backward()
    assert queries.grad is not None
    assert torch.equal(queries.grad, torch.zeros(2, 8))


def test_half_precision_vectors_are_compared_in_single():
    queries, documents = unit(4), unit(4, seed=1)
    relation = torch.eye(4, dtype=torch.int64)
    half = info_nce(torch.tensor(queries).bfloat16(), torch.tensor(documents).bfloat16(), relation, 0.05)
    assert half.dtype == torch.float32
    whole = info_nce(torch.tensor(queries), torch.tensor(documents), relation, 0.05)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(info_nce(torch.tensor(queries), torch.tensor(documents), relation, 0.05), whole)


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


@pytest.mark.parametrize("mini_batch", [1, 3, 64])
def test_mini_batches_with_dropout_give_the_loss_and_the_gradients_of_the_batch(tmp_path, mini_batch):
    tower = build_tower(str(make_tiny_bert(tmp_path))).train()
    texts = sorted(("word " * (1 + i % 5) for i in range(8)), key=len)
    features = tokenize(tower, TextSpec(max_tokens=64), texts)

    def gradients(compute):
        torch.manual_seed(3)
        tower.zero_grad()
        vectors = torch.cat(compute())
        loss = info_nce(vectors[:4], vectors[4:], torch.eye(4, dtype=torch.int64), 0.1)
        after = torch.rand(1)  # the random state moves on as if nothing were computed again
        loss.backward()
        return loss.item(), after, {name: p.grad.clone() for name, p in tower.named_parameters() if p.grad is not None}

    def plain():
        return [embed(tower, {k: v[i : i + mini_batch] for k, v in features.items()}) for i in range(0, 8, mini_batch)]

    expected = gradients(plain)
    found = gradients(lambda: [embed(tower, features, mini_batch=mini_batch)])
    assert found[:2] == expected[:2]
    assert found[2].keys() == expected[2].keys()
    for name, gradient in expected[2].items():
        torch.testing.assert_close(found[2][name], gradient)


def test_a_mini_batch_bounds_what_is_kept_for_the_gradient(tmp_path):
    tower = build_tower(str(make_tiny_bert(tmp_path))).train()
    features = tokenize(tower, TextSpec(max_tokens=64), ["word " * 9] * 32)

    def kept(mini_batch):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            embed(tower, features, mini_batch=mini_batch)
        return sum(sizes)

    assert kept(4) < kept(None) / 20


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
