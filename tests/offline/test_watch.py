import torch
from torch import nn
from transformers import TrainerState

from offline.watch import Average, Point, best_of, mix


def step(average, model, number, change):
    with torch.no_grad():
        model.weight.add_(change)
    average.on_step_end(None, TrainerState(global_step=number), None)


def test_the_average_follows_the_weights_and_can_be_put_in_their_place(tmp_path):
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = Average(0.5)
    average.resume(None)
    average.on_train_begin(model=model)
    step(average, model, 100, 1.0)
    step(average, model, 101, 1.0)
    with average.applied():
        assert model.weight.item() == 1.25  # 0, then 0.5 of the way to 1, then 0.5 of the way to 2
    assert model.weight.item() == 2.0

    average.save(tmp_path, 101)
    again = Average(0.5)
    again.resume(tmp_path)
    again.on_train_begin(model=model)
    with again.applied():
        assert model.weight.item() == 1.25


def test_the_average_is_quick_at_first():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = Average(0.999)
    average.resume(None)
    average.on_train_begin(model=model)
    step(average, model, 1, 11.0)
    with average.applied():
        assert model.weight.item() == 9.0  # a decay of 2 / 11


def test_the_first_of_equally_good_weights_is_the_best():
    curve = [Point(0, 0.0, 0.4), Point(8, 1.0, 0.5), Point(16, 2.0, 0.5)]
    assert best_of(curve) == curve[1]


def test_a_mixture_lies_between():
    mixed = mix({"a": torch.tensor([0.0, 2.0])}, {"a": torch.tensor([4.0, 2.0])}, 0.25)
    assert torch.equal(mixed["a"], torch.tensor([1.0, 2.0]))
