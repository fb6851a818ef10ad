"""Finished folders of prepare, train and distill, tiny and untrained, for tests of the stages after them."""

from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import pyarrow as pa
import torch
from make_snapshot import make_oracle
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from tiny_models import WIDTH, make_tiny_bert, make_tiny_qwen

from offline.data.prepared import PAIRS, QRELS, QUERIES, TEXTS, TOWER_TEXTS, write_table
from offline.towers import backbone_of, load_tower
from offline.trace import to_onnx
from snapshot.documents import document_field


def make_prepared(folder: Path, rows: int = 60, splits: Sequence[str] = ("train", "dev", "test")) -> Path:
    """Documents of six random words; the query of each is its first three, in one of ``splits`` by turns."""
    texts = make_oracle(rows).texts
    queries = [" ".join(text.split()[:3]) for text in texts]
    ids, numbers = [f"q{row}" for row in range(rows)], list(range(rows))
    of_query = [splits[row % len(splits)] for row in range(rows)] if splits else []
    judged = len(of_query)
    schema = pa.schema([pa.field("id", pa.string()), document_field("title", "string", filterable=False)])
    tables = {
        "documents": pa.table({"id": [f"d{row}" for row in numbers], "title": texts}, schema=schema),
        "tower_texts": pa.table({"title": [""] * rows, "text": texts}, schema=TOWER_TEXTS),
        "pairs": pa.table({"query": queries, "title": [""] * rows, "text": texts, "row": numbers}, schema=PAIRS),
        "queries": pa.table({"id": ids[:judged], "text": queries[:judged], "split": of_query}, schema=QUERIES),
        "qrels": pa.table(
            {"split": of_query, "query_id": ids[:judged], "row": numbers[:judged], "score": [1] * judged}, schema=QRELS
        ),
        "texts": pa.table({"text": queries, "source": ["title"] * rows}, schema=TEXTS),
    }
    for name, table in tables.items():
        write_table(table, folder / f"{name}.arrow")
    return folder


def make_towers(folder: Path) -> Path:
    """A folder of ``train``: an untrained BERT of three layers as query and as document tower."""
    tower = assemble(make_tiny_bert(folder / "backbone"), "mean")
    for name in ("query_tower", "document_tower"):
        tower.save_pretrained(str(folder / name))
    return folder


def make_student(folder: Path, kind: str = "bert") -> Path:
    """A folder of ``distill``: ``bert``, ``dense`` (narrower and projected) or ``qwen`` (decoder-only), of one layer."""
    makers = {
        "bert": lambda backbone: assemble(make_tiny_bert(backbone, layers=1), "mean"),
        "dense": lambda backbone: assemble(make_tiny_bert(backbone, layers=1, width=WIDTH // 2), "mean", project=True),
        "qwen": lambda backbone: assemble(make_tiny_qwen(backbone, layers=1), "lasttoken"),
    }
    makers[kind](folder / "backbone").save_pretrained(str(folder / "student"))
    return folder


def assemble(backbone: Path, pooling: str, project: bool = False) -> SentenceTransformer:
    """Transformer, Pooling, perhaps a projection to ``WIDTH``, Normalize."""
    transformer = Transformer(str(backbone))
    width = transformer.get_embedding_dimension()
    dense = [Dense(width, WIDTH, bias=False, activation_function=torch.nn.Identity())] if project else []
    return SentenceTransformer(modules=[transformer, Pooling(width, pooling), *dense, Normalize()], device="cpu")


@cache
def trace_student() -> bytes:
    """The ONNX graph of ``make_student(folder)``, the same each time; made once a session, since it takes seconds."""
    with TemporaryDirectory() as folder:
        return traced(load_tower(make_student(Path(folder)) / "student")).SerializeToString()


_TRACED: dict[str, bytes] = {}


def traced(tower: SentenceTransformer) -> onnx.ModelProto:
    """What ``to_onnx`` gives, which is asked once a session for towers that are the same to the last bit."""
    content = sha256(f"{tower}{backbone_of(tower).config}".encode())
    for name, weights in tower.state_dict().items():
        content.update(name.encode() + weights.numpy().tobytes())
    key = content.hexdigest()
    if key not in _TRACED:
        _TRACED[key] = to_onnx(tower).SerializeToString()
    return onnx.load_from_string(_TRACED[key])
