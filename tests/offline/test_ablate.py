"""Rows that a teacher of few layers cannot have, and what the page says of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import make_tiny_bert

from offline import ablate
from offline.ablate import load_grid
from offline.bootstrap import Interval
from offline.errors import RecipeError
from offline.grid import Grid
from offline.stages import Source


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    """Of a teacher of three layers; nothing is run."""
    backbone = make_tiny_bert(tmp_path / "bert")
    (tmp_path / "tiny.toml").write_text(f'name = "tiny"\n[train]\nbackbone = "{backbone}"\n[distill]\nlayers = [0, 2]\n')
    return Grid(tmp_path / "tiny.toml", (), Source(), tmp_path / "ablate")


def test_rows_of_a_group_that_the_teacher_cannot_have_are_left_out_and_told(
    grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, left_out = ablate._fitting(grid, load_grid(ablate.GRID, ["student"]))
    assert [row.name for row in rows] == ["default", "layers-1", "static", "seen-vocabulary"]
    assert left_out[0] == "layers-2 (distill.layers asks for layer 5 of a tower with 3 layers (0 to 2))"
    assert len(left_out) == 3
    assert "warning: row layers-3 is left out: distill.layers asks for layer 5" in capsys.readouterr().err
    row = ablate.Found(row=rows[0], layers=2, parameters=9, ndcg=Interval(0.5, 0.4, 0.6), difference=Interval(0.0, 0.0, 0.0))
    report = ablate.Report(
        recipe="tiny", overrides=(), split="dev", queries=9, terms=ablate.Terms(left_out=left_out), rows=(row,)
    )
    assert "\n\nLeft out: layers-2 (distill.layers asks for layer 5" in ablate.page(report)


def test_a_row_that_was_named_or_the_default_is_refused(grid: Grid) -> None:
    with pytest.raises(RecipeError, match=r"row layers-2: distill.layers asks for layer 5 .* with --rows"):
        ablate._fitting(grid, load_grid(ablate.GRID, ["student", "layers-2"]))
    deep = Grid(grid.recipe, ("distill.layers=[0, 5]",), grid.source, grid.folder)
    with pytest.raises(RecipeError, match=r"row default: distill.layers asks for layer 5"):
        ablate._fitting(deep, load_grid(ablate.GRID, ["loss"]))
