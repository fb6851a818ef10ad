"""The figures that a plan is made from: each with its range, how it came about, and which end of the range is the bad one."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date as Date  # noqa: N812 - a field below has the name
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from offline.errors import PlanError
from offline.plan.times import Measured

OURS = Path(__file__).with_name("figures.toml")
End = Literal["good", "likely", "bad"]
"""Of all ranges at once: nothing says that figures are bad together, so the ends of a plan are wide."""
MAY_BE_NOTHING = frozenset(
    (
        *("front_ms", "beside_ms", "private_gb", "hnsw_growth", "ivf_growth", "file_list_us", "milvus_ms", "milvus_other_boxes"),
        *("core_hour", "gb_hour", "disk_gb_month"),
    )
)
"""Formulas divide by others, and take logarithms of them."""
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Figure(BaseModel):
    """One figure.

    Attributes:
        mid: the likely one.
        low: the least that was seen; ``mid`` where there was one measurement.
        high: the greatest.
        worse: which end costs more.
        kind: measured here, documented by others, or assumed.
        source: the command or the page.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mid: Amount
    low: Amount | None = None
    high: Amount | None = None
    worse: Literal["low", "high"] = "high"
    unit: str
    kind: Literal["measured", "documented", "assumed"]
    date: Date | None = None
    source: str

    @model_validator(mode="after")
    def _in_order(self) -> Figure:
        if not self.least <= self.mid <= self.greatest:
            raise ValueError(f"low, mid and high are not in order: {self.least:g}, {self.mid:g}, {self.greatest:g}")
        if self.worse == "low" and not self.least:
            raise ValueError("what is worse the less there is of it must be above 0")
        return self

    @property
    def least(self) -> float:
        return self.mid if self.low is None else self.low

    @property
    def greatest(self) -> float:
        return self.mid if self.high is None else self.high

    def at(self, end: End) -> float:
        if end == "likely":
            return self.mid
        return self.greatest if (end == "bad") == (self.worse == "high") else self.least


class Shape(BaseModel):
    """How times of single requests are spread when nothing waits: quantiles in any unit, only their proportions count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shares: tuple[Amount, ...] = Field(min_length=2)
    quantiles_ms: tuple[Amount, ...] = Field(min_length=2)
    source: str

    @model_validator(mode="after")
    def _is_distribution(self) -> Shape:
        ascending = all(list(each) == sorted(each) for each in (self.shares, self.quantiles_ms))
        ends = (self.shares[0], self.shares[-1])
        if len(self.shares) != len(self.quantiles_ms) or not ascending or ends != (0.0, 1.0) or not self.quantiles_ms[-1]:
            raise ValueError("shares ascend from 0 to 1, with a quantile for each that is not below the one before")
        return self


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    figures: dict[str, Figure] = Field(default_factory=dict)
    shape: Shape | None = None


@dataclass(frozen=True)
class Figures:
    """All of them by name, and the shape of service times."""

    by_name: Mapping[str, Figure]
    shape: Shape

    def at(self, end: End) -> dict[str, float]:
        """The numbers at one end of every range."""
        return {name: figure.at(end) for name, figure in self.by_name.items()}

    def times(self) -> Measured:
        return Measured(self.shape.shares, self.shape.quantiles_ms)

    def override(self, figures: Mapping[str, Figure], shape: Shape | None) -> Figures:
        return Figures({**self.by_name, **figures}, shape or self.shape)


def load_figures(path: Path | None = None) -> Figures:
    """Ours, with what ``path`` says in their place: TOML in the form of ours, or JSON that ``make bench`` wrote.

    Raises:
        PlanError: the file cannot be read, or says something that is no figure of ours.
    """
    ours = _read(OURS)
    assert ours.shape is not None  # noqa: S101 - of our own file
    found = Figures(ours.figures, ours.shape)
    if path is None:
        return found
    theirs = _read_bench(path) if path.suffix == ".json" else _read(path)
    unknown = sorted(theirs.figures.keys() - found.by_name.keys())
    if unknown:
        raise PlanError(f"{path}: figures.{unknown[0]}: there is no such figure; those there are stand in {OURS}")
    if nothing := [name for name, each in theirs.figures.items() if not each.least and name not in MAY_BE_NOTHING]:
        raise PlanError(f"{path}: figures.{nothing[0]}: must be above 0, its low end too")
    if any(figure.mid < 1 for name, figure in theirs.figures.items() if name == "replica_cores"):
        raise PlanError(f"{path}: figures.replica_cores: a process has a core at least")
    return found.override(theirs.figures, theirs.shape)


def _read(path: Path) -> _File:
    try:
        return _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise PlanError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: is no TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise PlanError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _read_bench(path: Path) -> _File:
    from offline.plan.bench import BenchFormatError, figures_of

    try:
        figures, shape = figures_of(json.loads(path.read_text(encoding="utf-8-sig")), path.name)
    except OSError as error:
        raise PlanError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: is no JSON: {error}") from error
    except (BenchFormatError, ValidationError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise PlanError(f"{path}: {said}; give work/bench/result.json of a whole make bench") from error
    return _File(figures=figures, shape=shape)


def significant(value: float, digits: int = 3) -> float:
    """Rounded to so many digits that count."""
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))
