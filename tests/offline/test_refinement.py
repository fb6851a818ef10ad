"""Oracles: the formulas written out in numpy."""

import numpy as np
import pytest
import torch

from offline.config import RefineConfig
from offline.refinement import RefinementLoss, Targets, contrast, listwise_kl
from offline.shortlists import Shortlists
from offline.vectors import Vectors

T = 0.1


@pytest.fixture
def scores():
    return torch.tensor([[0.9, 0.5, 0.1, -0.2], [0.0, 0.3, 0.2, 0.8]], requires_grad=True)


def softmax(values):
    shares = np.exp(values - values.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def test_listwise_kl_is_the_sum_over_documents(scores):
    teacher = torch.tensor([[0.1, 0.6, 0.2, 0.0], [0.2, 0.2, 0.4, 0.9]])
    p, q = softmax(teacher.numpy() / T), softmax(scores.detach().numpy() / T)
    expected = float(np.mean(np.sum(p * np.log(p / q), axis=1)))
    assert float(listwise_kl(scores.detach(), teacher, T)) == pytest.approx(expected, rel=1e-4)
    assert float(listwise_kl(teacher, teacher, T)) == pytest.approx(0, abs=1e-7)


def test_contrast_holds_each_positive_against_the_negatives_alone(scores):
    positives = torch.tensor([[True, True, False, False], [False, False, False, True]])
    negatives = torch.tensor([[False, False, True, True], [True, True, False, False]])  # one of the second text is neither
    weights = torch.tensor([1.0, 0.5])
    s = np.exp(scores.detach().numpy() / T)
    first = np.mean([-np.log(s[0, j] / (s[0, j] + s[0, 2] + s[0, 3])) for j in (0, 1)])
    second = -np.log(s[1, 3] / (s[1, 3] + s[1, 0] + s[1, 1]))
    found = contrast(scores.detach(), positives, negatives, weights, T)
    assert float(found) == pytest.approx((first + 0.5 * second) / 2, rel=1e-5)


@pytest.mark.parametrize("count", [0, 4])
def test_texts_without_positives_or_without_negatives_add_nothing(scores, count):
    positives = torch.zeros(2, 4, dtype=torch.bool)
    positives[:, :count] = True
    loss = contrast(scores, positives, torch.zeros(2, 4, dtype=torch.bool), torch.ones(2), T)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(scores.grad, torch.zeros(2, 4))


@pytest.fixture
def targets(tmp_path):
    """Five documents along the axes; the teacher of text 0 sees 0, then 1 close behind; that of text 1 sees 2."""
    np.save(tmp_path / "00000.npy", np.eye(5, dtype=np.float32))
    vectors = np.array([[0.71, 0.70, 0, 0, 0.08], [0, 0, 0.9, 0.43, 0]], np.float32)
    rows = np.array([[0, 1, -1], [2, 3, 0]])
    shortlists = Shortlists(vectors, rows, np.take_along_axis(vectors, np.maximum(rows, 0), axis=1))
    config = RefineConfig(random_candidates=0, guard=0.95)
    return Targets(Vectors(tmp_path), shortlists, {0: np.array([0]), 1: np.array([4])}, np.array([1, 0.25], np.float32), config)


def test_a_batch_shares_its_candidates_and_labels(targets):
    scene = targets.scene(np.array([0, 1]))
    assert torch.equal(scene.documents, torch.eye(5))
    assert scene.positives.tolist() == [[True, False, False, False, False], [False, False, False, False, True]]
    assert scene.weights.tolist() == [1.0, 0.25]
    assert torch.equal(scene.teacher, torch.from_numpy(targets.shortlists.vectors))


def test_what_the_teacher_takes_for_as_good_as_a_positive_is_no_negative(targets):
    negatives = targets.scene(np.array([0, 1])).negatives
    assert negatives[0].tolist() == [False, False, True, True, True]  # 0.70 is above 95% of 0.71
    assert negatives[1].tolist() == [True, True, False, False, False]  # its positive scores 0 as two others do
    assert targets.scene(np.array([0])).documents.tolist() == np.eye(5)[:2].tolist()


def test_random_candidates_follow_from_the_batch(targets):
    drawn = Targets(**{**vars(targets), "config": RefineConfig(random_candidates=3, seed=2)})
    first, again = (drawn.scene(np.array([0])).documents for _ in range(2))
    assert torch.equal(first, again)
    assert len(first) > 2


def test_confidence_is_the_share_of_the_first(targets):
    shares = softmax(np.array([0.9, 0.43, 0.0]) / T)
    found = targets.shortlists.confidence(1, T)
    assert found[1] == pytest.approx(shares[0], rel=1e-5)
    assert found[0] == pytest.approx(softmax(np.array([0.71, 0.70]) / T)[0], rel=1e-5)  # -1 fills up and counts for nothing
    assert targets.shortlists.confidence(3, T) == pytest.approx([1, 1])


class Answers(torch.nn.Module):
    """A tower whose vectors are known: row ``input_ids`` of a table."""

    def __init__(self, vectors):
        super().__init__()
        self.vectors = vectors

    def forward(self, features):
        return {"sentence_embedding": self.vectors[features["input_ids"][:, 0]]}


def loss_of(vectors, targets, widths=()):
    tokens = torch.arange(2)[:, None]
    features = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    return RefinementLoss(Answers(vectors), targets, widths)([features], torch.arange(2)).item()


def test_the_first_numbers_learn_what_the_whole_vectors_do(targets):
    """Matryoshka: the mean of the loss and of that between vectors cut short, which change neither labels nor candidates."""
    vectors = torch.nn.functional.normalize(torch.tensor([[0.6, 0.5, 0.1, 0.3, 0.2], [0.3, 0.2, 0.7, 0.1, 0.4]]), dim=1)
    scene = targets.scene(np.array([0, 1]))
    short = torch.nn.functional.normalize(vectors[:, :3], dim=1)
    teacher, documents = (torch.nn.functional.normalize(each[:, :3], dim=1) for each in (scene.teacher, scene.documents))
    config = targets.config
    contrasted = contrast(short @ documents.T, scene.positives, scene.negatives, scene.weights, config.temperature)
    distance = 3 * (1 - (short * teacher).sum(dim=1)).mean()
    expected = (loss_of(vectors, targets) + (contrasted + distance).item()) / 2
    assert loss_of(vectors, targets, (3,)) == pytest.approx(expected, rel=1e-5)
