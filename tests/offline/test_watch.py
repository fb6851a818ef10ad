import torch
from torch import nn
from transformers import TrainerControl, TrainerState

from offline.watch import Average, Point, Rules, Watch, best_of, load_weights, mix, read_curve


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


def watch_and_train(folder, values, start=0, rules=None):
    """A model whose weight is the step, measured by ``values``, from step ``start`` to 6 in epochs of three."""
    model = nn.Linear(1, 1, bias=False)
    watch = Watch(
        folder, rules or Rules(3, every_steps=2), lambda _, step: values[step], lambda each: each.state_dict(), name="what"
    )
    watch.resume(folder / f"checkpoint-{start}" if start else None)
    control = TrainerControl()
    state = TrainerState(global_step=start, max_steps=6)
    watch.on_train_begin(None, state, control, model)
    for state.global_step in range(start + 1, 7):
        nn.init.constant_(model.weight, state.global_step)
        watch.on_step_end(None, state, control, model)
        if control.should_training_stop:
            break
    watch.on_train_end()
    return read_curve(folder)


def test_every_so_many_steps_are_measured_and_the_best_weights_are_there(tmp_path, capsys):
    curve = watch_and_train(tmp_path, {0: 0.1, 2: 0.4, 4: 0.3, 6: 0.2})
    assert [(point.step, point.value) for point in curve] == [(0, 0.1), (2, 0.4), (4, 0.3), (6, 0.2)]
    assert load_weights(tmp_path, best_of(curve).step)["weight"].item() == 2.0
    assert "what 0.4000 after 0.6667 epochs" in capsys.readouterr().err


def test_what_came_after_the_last_checkpoint_is_measured_again_and_nothing_else(tmp_path):
    watch_and_train(tmp_path, {0: 0.1, 2: 0.4, 4: 0.9, 6: 0.2})
    curve = watch_and_train(tmp_path, {4: 0.3, 6: 0.2}, start=3)
    assert [(point.step, point.value) for point in curve] == [(0, 0.1), (2, 0.4), (4, 0.3), (6, 0.2)]


def test_without_a_new_best_it_stops(tmp_path):
    curve = watch_and_train(tmp_path, {0: 0.1, 2: 0.4, 4: 0.3}, rules=Rules(3, every_steps=2, patience=1))
    assert [point.step for point in curve] == [0, 2, 4]
