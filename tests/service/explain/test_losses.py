"""What each step lost, on lists made by hand and by chance."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.explain.losses import Moved, Stand, Step, losses, whole_loss

STEPS: tuple[Step, ...] = ("teacher", "encoder", "int8", "quantisation", "ann", "budget", "filter")


def stand(step: Step, *rows: int, ranks: dict[int, int] | None = None, comparable: bool = True) -> Stand:
    """Rows with scores that fall by a tenth."""
    return Stand(step, rows, tuple(1 - place / 10 for place in range(len(rows))), ranks or {}, comparable)


def test_a_row_is_lost_where_it_goes_and_won_where_it_comes_back() -> None:
    chain = [stand("teacher", 1, 2, 3, 4), stand("encoder", 2, 1, 9, 8, ranks={3: 5}), stand("ann", 2, 1, 3, 7)]
    encoder, ann = losses(chain)
    assert (encoder.points, encoder.overlap) == (0.5, 0.5)
    assert [(moved.row, moved.before, moved.after) for moved in encoder.lost] == [(3, 3, 5), (4, 4, None)]
    assert (ann.points, ann.overlap, ann.lost) == (-0.25, 0.75, ())
    assert ann.won == (Moved(3, None, 3, 0.8),)
    assert whole_loss(chain) == 0.25


def test_what_is_not_in_the_reference_cannot_be_lost() -> None:
    [encoder, ann] = losses([stand("teacher", 1), stand("encoder", 5), stand("ann", 6)])
    assert (encoder.points, ann.points, ann.lost) == (1.0, 0.0, ())


def test_an_equal_score_in_its_place_is_a_tie() -> None:
    before, after = Stand("encoder", (1, 2), (0.9, 0.5)), Stand("ann", (1, 3), (0.9, 0.5))
    [ann] = losses([before, after])
    assert [moved.tied for moved in ann.lost] == [True]
    [ann] = losses([before, Stand("ann", (1, 3), (0.9, 0.4))])
    assert [moved.tied for moved in ann.lost] == [False]
    [ann] = losses([before, Stand("ann", (1, 3), (0.9, 0.5), comparable=False)])
    assert [moved.tied for moved in ann.lost] == [False]
    [ann] = losses([before, Stand("ann", (1,), (0.5,))])
    assert [moved.tied for moved in ann.lost] == [False]


def test_nothing_can_be_lost_where_nothing_is_eligible() -> None:
    chain = [stand("teacher"), stand("encoder")]
    assert (losses(chain), whole_loss(chain)) == ([], 0.0)


@given(st.lists(st.lists(st.integers(0, 12), max_size=8, unique=True), min_size=1, max_size=len(STEPS)))
def test_the_losses_of_all_steps_are_the_whole_loss(lists: list[list[int]]) -> None:
    chain = [stand(step, *rows) for step, rows in zip(STEPS, lists, strict=False)]
    found = losses(chain)
    assert abs(sum(loss.points for loss in found) - whole_loss(chain)) < 1e-9
    assert all(0 <= loss.overlap <= 1 for loss in found)
