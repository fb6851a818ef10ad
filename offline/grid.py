"""Many variants of one recipe, each in a work folder of its own, which share the stages that they have in common.

A stage of a variant whose inputs are those of a finished stage anywhere among the folders is linked from there, so that
a grid trains each different thing once; and a grid that was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from offline.progress import say
from offline.recipe import Recipe, load_recipe
from offline.stages import Outcome, Source, Stage, run_stage, take_over
from offline.walk import stage_of

UNDISTILLED = "distill={layers = [0]}"
"""The override of a variant whose towers nobody distils: a student that each of them could have."""


@dataclass(frozen=True)
class Grid:
    """Where variants of a recipe work.

    Attributes:
        overrides: of the command line; those of a variant come after them.
        folder: holds a work folder a variant.
        donors: work folders of other runs whose finished stages may be linked.
    """

    recipe: Path
    overrides: tuple[str, ...]
    source: Source
    folder: Path
    donors: tuple[Path, ...] = ()

    def variant(self, name: str, overrides: Sequence[str] = ()) -> Variant:
        """One variant.

        Raises:
            RecipeError: the overrides do not fit the recipe.
        """
        return Variant(self, name, load_recipe(self.recipe, (*self.overrides, *overrides)))

    def others(self, name: str) -> Iterator[Path]:
        """Work folders to take stages from."""
        yield from self.donors
        if self.folder.is_dir():
            yield from (path for path in sorted(self.folder.iterdir()) if path.is_dir() and path.name != name)


@dataclass(frozen=True)
class Variant:
    """One recipe of a grid, in its own work folder."""

    grid: Grid
    name: str
    recipe: Recipe

    @property
    def work(self) -> Path:
        return self.grid.folder / self.name

    def run(self, stage: str | Stage) -> Outcome:
        """Run one stage, or link it from where it was run with the same inputs; errors as of ``run_stage``."""
        found = stage_of(stage) if isinstance(stage, str) else stage
        donor = take_over(found, self.work, self.recipe, self.grid.source, self.grid.others(self.name))
        outcome = run_stage(found, self.work, self.recipe, self.grid.source)
        how = f"linked from {donor}" if donor else "kept" if outcome.reused else f"done in {outcome.seconds:.0f} s"
        say(f"  {self.name}: {found.name} {how}")
        return outcome
