"""What a recipe may say of ``offline scaling``; its section is ``scaling``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from offline.config import Config, PositiveInt


class TowerSize(Config):
    """A backbone of ``offline scaling``: whole, cut to its first ``layers``, or of so many fresh layers of a ``width``."""

    backbone: str
    layers: PositiveInt | None = None
    width: PositiveInt | None = None


class ScalingConfig(Config):
    """``offline scaling``: which towers and how much data the laws are fitted to, and what is measured."""

    backbones: Annotated[tuple[str | TowerSize, ...], Field(strict=False)] = ()
    """From small to large: hub ids, folders, ``package:NAME``, or tables {backbone, layers, width}. Empty: two
    fresh layers of each of ``widths`` over the word vectors of ``train.backbone``."""
    widths: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = (32, 64, 96, 128, 192, 256)
    fresh_learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    """For fresh layers; others learn at ``train.learning_rate``."""
    epochs: Annotated[float, Field(gt=0.0)] = 3.0
    """In place of ``train.epochs``."""
    data_shares: Annotated[tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], Field(strict=False, min_length=4)] = (
        0.125,
        0.25,
        0.5,
        1.0,
    )
    """Shares of the training pairs. Each trains for as many steps as the whole, on the same pairs again and again."""
    data_tower: Annotated[int, Field(ge=0)] | None = None
    """Which of the sizes, from 0, the law of data is measured with; None: the middle one."""
    negatives: PositiveInt = 256
    """Contrastive entropy contrasts the relevant document with so many others (arXiv 2403.18684)."""
    split: Literal["dev", "test"] = "dev"
    """Whose queries are measured on, or the other's where it has none; each tower's weights were chosen by those of dev."""
    max_queries: PositiveInt = 1000
    max_documents: PositiveInt = 2000
    """nDCG@10 is measured among the relevant documents of the queries and a random sample of others up to this number."""
    bootstrap: PositiveInt = 200
    seed: int = 17
