"""Real sealed snapshots, tiny and without torch: a bag-of-words tower over a random table, and numpy as its oracle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import onnx
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from snapshot.documents import document_field, write_documents
from snapshot.layout import Layout
from snapshot.manifest import (
    SPACE_KEY,
    Documents,
    Effort,
    FlatIndex,
    Golden,
    HnswIndex,
    Index,
    IvfPqIndex,
    QueryTower,
    Space,
    TextSpec,
)
from snapshot.seal import Draft, seal

Vectors = npt.NDArray[np.float32]

_WORD_LIST = (
    "apple bread chair drum eagle fork glass horse island jacket kettle lamp mirror needle orange paper queen river "
    "spoon table umbrella violin window yarn zebra amber basket candle dragon engine feather garden hammer ink jungle "
    "kite ladder magnet north ocean pencil quartz rabbit silver tiger urchin valley whistle yellow zinc"
)
WORDS = tuple(_WORD_LIST.split())
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
KINDS = ("book", "tool", "toy")
MAX_TOKENS = 12
_GOLDEN_QUERIES = 16
_GOLDEN_K = 5


def no_change(_: Layout) -> None:
    """What is done to the files of a snapshot that shall be intact."""


def same(draft: Draft) -> Draft:
    """What is done to the draft of a snapshot that shall be intact."""
    return draft


@dataclass(frozen=True)
class Oracle:
    """What a toy snapshot must answer, in numpy: the word table of its tower and the texts and vectors of its rows."""

    table: Vectors
    texts: list[str]
    documents: Vectors

    def encode(self, queries: Sequence[str]) -> Vectors:
        """float32[n, dim]: the normalised sum of the vectors of the words and of the two special tokens."""
        sums = np.stack([self.table[token_ids(query)].sum(axis=0) for query in queries])
        return (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)

    def rows(self, queries: Sequence[str], k: int) -> npt.NDArray[np.int64]:
        """int64[n, k] by exact search."""
        return np.argsort(-(self.encode(queries) @ self.documents.T), axis=1, kind="stable")[:, :k].astype(np.int64)


def token_ids(text: str) -> list[int]:
    """Ids of a text as the toy tokenizer gives them, without the tokenizer."""
    known = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    words = [known.get(word, known["[UNK]"]) for word in text.split()][: MAX_TOKENS - 2]
    return [known["[CLS]"], *words, known["[SEP]"]]


def make_oracle(rows: int = 200, dim: int = 16, seed: int = 0) -> Oracle:
    """The oracle of ``make_snapshot`` with the same arguments."""
    random = np.random.default_rng(seed)
    table = random.normal(size=(len(SPECIAL) + len(WORDS), dim)).astype(np.float32)
    texts = [" ".join(random.choice(WORDS, size=6, replace=False)) for _ in range(rows)]
    oracle = Oracle(table, texts, np.empty((0, dim), np.float32))
    return Oracle(table, texts, oracle.encode(texts))


def make_snapshot(
    folder: Path,
    rows: int = 200,
    dim: int = 16,
    kind: str = "flat",
    *,
    seed: int = 0,
    teacher: float | None = None,
    tamper: Callable[[Layout], None] = no_change,
    revise: Callable[[Draft], Draft] = same,
) -> Layout:
    """Seal a snapshot of ``rows`` toy documents as ``folder/<id>``, so that ``folder`` can be a registry.

    Args:
        folder: where to put it; made if missing.
        rows: number of documents.
        dim: width of the vectors.
        kind: flat, hnsw, ivfpq (which needs 16 rows to be trained), or sharded (several files from 241 rows on).
        seed: snapshots of one second differ only if their seeds do.
        teacher: if given, the teacher's query tower comes along, whose table differs by so much noise (0: it is the student).
        tamper: spoils the files before they are hashed and sealed.
        revise: changes what the manifest will say.
    """
    oracle = make_oracle(rows, dim, seed)
    staging = Layout(folder / f".staging-{seed}")
    shutil.rmtree(staging.root, ignore_errors=True)
    write_tower(staging, oracle.table, fingerprint(seed))
    columns = write_documents(documents_table(oracle.texts), staging.documents)
    described = _put_index(staging, oracle.documents, kind)
    golden = _write_golden(staging, oracle)
    tower = QueryTower(text=TextSpec(lowercase=True, max_tokens=MAX_TOKENS), precision="fp32", layers=0, parameters=0)
    if teacher is not None:
        write_tower(staging.teacher, teacher_table(oracle.table, teacher), fingerprint(seed))
    draft = Draft(
        name="toy",
        space=Space(fingerprint=fingerprint(seed), dim=dim),
        query_tower=tower,
        teacher_tower=None if teacher is None else tower,
        document_text=TextSpec(),
        index=described,
        documents=Documents(count=rows, columns=columns),
        golden=golden,
    )
    tamper(staging)
    return Layout(seal(staging.root, revise(draft)))


def teacher_table(table: Vectors, noise: float) -> Vectors:
    """The word table of a teacher that thinks otherwise by so much noise."""
    return (table + noise * np.random.default_rng(5).normal(size=table.shape)).astype(np.float32)


def fingerprint(seed: int) -> str:
    """The space that ``make_snapshot`` gives to the snapshots of a seed."""
    return f"{seed:064x}"


def write_tower(layout: Layout, table: Vectors, space: str) -> None:
    """Write graph and tokenizer: mean over the tokens of a row of ``table`` each, L2-normalised."""
    layout.model.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(_graph(table, space), str(layout.model))
    _tokenizer().save(str(layout.tokenizer))


def _graph(table: Vectors, space: str) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("Cast", ["attention_mask"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["column"]),
        helper.make_node("Mul", ["words", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["sum"], keepdims=0),
        helper.make_node("LpNormalization", ["sum"], ["sentence_embedding"], axis=-1, p=2),
    ]
    constants = {"table": table, "last": np.array([2]), "middle": np.array([1])}
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"]) for name in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["b", table.shape[1]])
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "toy", inputs, [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {SPACE_KEY: space})
    return model


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate((*SPECIAL, *WORDS))}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return tokenizer


def documents_table(texts: Sequence[str]) -> pa.Table:
    """Columns text (stored only), kind, number, price and sold (filterable; price is missing in every seventh row)."""
    count = len(texts)
    schema = pa.schema(
        [
            pa.field("id", pa.string()),
            document_field("text", "string", filterable=False),
            document_field("kind", "string", filterable=True),
            document_field("number", "integer", filterable=True),
            document_field("price", "number", filterable=True),
            document_field("sold", "boolean", filterable=True),
        ]
    )
    columns = {
        "id": [f"doc-{row}" for row in range(count)],
        "text": list(texts),
        "kind": [KINDS[row % len(KINDS)] for row in range(count)],
        "number": list(range(count)),
        "price": [None if row % 7 == 0 else row / 4 for row in range(count)],
        "sold": [row % 2 == 0 for row in range(count)],
    }
    return pa.table(columns, schema=schema)


def make_index(vectors: Vectors, kind: str) -> tuple[faiss.Index, Index]:
    """A FAISS index of ``vectors`` by inner product, and what the manifest says about it."""
    dim = vectors.shape[1]
    builders: dict[str, Callable[[], tuple[faiss.Index, Index]]] = {
        "flat": lambda: _flat(dim),
        "hnsw": lambda: _hnsw(dim),
        "ivfpq": lambda: _ivfpq(dim, len(vectors)),
    }
    index, described = builders[kind]()
    index.train(vectors)
    index.add(vectors)
    efforts = tuple(_measured(index, described, row, vectors) for row in described.efforts)
    return index, described.model_copy(update={"efforts": efforts})


def _measured(index: faiss.Index, described: Index, row: Effort, vectors: Vectors) -> Effort:
    """The row with the recall@10 of queries that are near the documents, as those of the golden set are."""
    k, some = min(10, len(vectors)), vectors[:64]
    queries = some + np.random.default_rng(1).normal(scale=0.1, size=some.shape).astype(np.float32)
    scores, _ = index.search(queries, k, params=_parameters(described, row.effort))
    floor = -np.sort(-(queries @ vectors.T), axis=1)[:, k - 1 : k]
    return row.model_copy(update={"recall_at_10": float((scores >= floor - 1e-4).mean())})


def _parameters(described: Index, effort: int) -> faiss.SearchParameters | None:
    match described:
        case FlatIndex():
            return None
        case HnswIndex():
            return faiss.SearchParametersHNSW(efSearch=effort)
        case IvfPqIndex():
            probes = faiss.SearchParametersIVF(nprobe=effort)
            return faiss.IndexRefineSearchParameters(k_factor=described.refine_factor, base_index_params=probes)


def _put_index(layout: Layout, vectors: Vectors, kind: str) -> Index:
    if kind == "sharded":
        from make_shards import make_shards  # here: it builds by means of offline

        described = make_shards(vectors, layout.index.parent)
        (layout.index.parent / "trained.faiss").unlink()
        return described
    index, described = make_index(vectors, kind)
    write_index(layout, index)
    return described


def write_index(layout: Layout, index: faiss.Index) -> None:
    """Write a FAISS index where the snapshot has it."""
    layout.index.parent.mkdir(parents=True, exist_ok=True)
    faiss.write_index(index, str(layout.index))


def _flat(dim: int) -> tuple[faiss.Index, Index]:
    return faiss.IndexFlatIP(dim), FlatIndex(reason="toy", default_effort=0, efforts=(_effort(0),))


def _hnsw(dim: int) -> tuple[faiss.Index, Index]:
    index = faiss.IndexHNSWFlat(dim, 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 100
    efforts = (_effort(16), _effort(64))
    return index, HnswIndex(reason="toy", default_effort=64, efforts=efforts, m=16, ef_construction=100)


def _ivfpq(dim: int, count: int) -> tuple[faiss.Index, Index]:
    nlist = max(1, count // 64)
    base = faiss.IndexIVFPQ(faiss.IndexFlatIP(dim), dim, nlist, dim // 2, 4, faiss.METRIC_INNER_PRODUCT)
    base.cp.min_points_per_centroid = base.pq.cp.min_points_per_centroid = 1
    index = faiss.IndexRefineFlat(base)
    described = IvfPqIndex(
        reason="toy",
        default_effort=nlist,
        efforts=tuple(_effort(probes) for probes in sorted({1, nlist})),
        nlist=nlist,
        pq_bytes=dim // 4,
        refine_factor=8,
    )
    return index, described


def _effort(effort: int) -> Effort:
    return Effort(effort=effort, recall_at_10=1.0, p50_ms=0.1, p99_ms=0.2)


def _write_golden(layout: Layout, oracle: Oracle) -> Golden:
    queries = [" ".join(text.split()[:3]).capitalize() for text in oracle.texts[:_GOLDEN_QUERIES]]
    lowered = [query.lower() for query in queries]
    k = min(_GOLDEN_K, len(oracle.texts))
    layout.golden.mkdir(parents=True, exist_ok=True)
    layout.golden_queries.write_text(json.dumps(queries), encoding="utf-8")
    np.save(layout.golden_vectors, oracle.encode(lowered))
    np.save(layout.golden_rows, oracle.rows(lowered, k))
    return Golden(queries=len(queries), k=k, max_cosine_distance=1e-5, min_recall=0.9)
