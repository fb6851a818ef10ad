"""One loaded snapshot: verify, open, prove on the golden set, warm; closed as one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np

from service.costs import Costs
from service.encoder import Encoder
from service.engines import Engine, open_engine
from service.golden import GoldenSet, Proof, prove, read_golden
from service.plan import Planner
from snapshot.documents import Documents, open_documents
from snapshot.errors import CountMismatchError
from snapshot.layout import QUERY_TOWER, Layout
from snapshot.manifest import Manifest
from snapshot.verify import verify

Verify = Callable[[Path], Manifest]
Step = Literal["verifying", "opening", "proving", "warming"]

_WARM_TOKENS = (4, 8, 16, 32, 64, 128, 256, 512)
_WARM_K = 10
_WARM_FLOATS = 1 << 26
"""Larger indexes (268 MB of vectors) are read as they are used: all of one may be more than the memory."""


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How a snapshot is loaded.

    Attributes:
        encoder_threads: threads that one call of the ONNX graph uses.
        batching: whether queries may go through the graph together.
        filter_cache_bytes: most memory for what filters have selected.
    """

    encoder_threads: int = 1
    batching: bool = True
    filter_cache_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """One snapshot, ready to serve; its parts are only ever used together.

    Attributes:
        costs: what its stages take here, learned from its requests.
        planner: chooses efforts by them.
        tower: digest of all that a query's vector depends on besides the query.
    """

    manifest: Manifest
    encoder: Encoder
    engine: Engine
    documents: Documents
    proof: Proof
    costs: Costs
    planner: Planner
    tower: str
    opened_at: datetime
    load_seconds: Mapping[Step, float]

    @property
    def id(self) -> str:
        return self.manifest.id

    def close(self) -> None:
        """Close every part; a second call does nothing. May take tens of milliseconds: never on an event loop."""
        self.encoder.close()
        self.engine.close()


def open_generation(
    layout: Layout,
    options: GenerationOptions,
    on_state: Callable[[Step], None],
    before: Generation | None = None,
    verify: Verify = verify,
) -> Generation:
    """Load the snapshot at ``layout``.

    Whatever was opened is closed again where a later step fails.

    Args:
        layout: of the snapshot.
        options: how it is loaded.
        on_state: hears each step as it begins, and may raise to give up.
        before: what this generation has learned about the machine is kept.
        verify: reads the manifest and checks every file.

    Raises:
        SnapshotError: the snapshot is damaged, of another space, or does not reproduce its golden set.
    """
    watch = _Watch(on_state)
    with ExitStack() as opened:
        with watch.step("verifying"):
            manifest = verify(layout.root)
        with watch.step("opening"):
            encoder = Encoder.open(layout, manifest.query_tower, manifest.space, options.encoder_threads)
            opened.callback(encoder.close)
            engine = open_engine(manifest, layout)
            opened.callback(engine.close)
            documents = open_documents(layout.documents, options.filter_cache_bytes)
            _check_counts(manifest, engine, documents, layout)
        with watch.step("proving"):
            golden = read_golden(layout, manifest)
            proof = prove(golden, manifest, encoder, engine)
        with watch.step("warming"):
            _warm(golden, manifest, encoder, engine, documents)
            if options.batching:
                encoder.measure_batches(manifest.query_tower.text.max_tokens)
        opened.pop_all()
    costs = Costs(manifest.index, time.monotonic, None if before is None else before.costs)
    planner = Planner(manifest.index, costs, time.monotonic)
    tower, now = _tower_digest(manifest), datetime.now(UTC)
    return Generation(manifest, encoder, engine, documents, proof, costs, planner, tower, now, watch.seconds)


def _tower_digest(manifest: Manifest) -> str:
    """Of the graph, the tokenizer, and how they are used."""
    files = [entry.sha256 for path, entry in sorted(manifest.files.items()) if path.startswith(f"{QUERY_TOWER}/")]
    return sha256("\n".join([manifest.query_tower.model_dump_json(), *files]).encode()).hexdigest()


class _Watch:
    """Announces steps and measures them."""

    def __init__(self, on_state: Callable[[Step], None]) -> None:
        self._on_state = on_state
        self.seconds: dict[Step, float] = {}

    @contextmanager
    def step(self, name: Step) -> Iterator[None]:
        self._on_state(name)
        begun = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begun


def _check_counts(manifest: Manifest, engine: Engine, documents: Documents, layout: Layout) -> None:
    """Row i of the index is row i of the documents, so both must be as many as the manifest says."""
    if not engine.count == documents.count == manifest.documents.count:
        raise CountMismatchError(
            f"{layout.root}: {engine.count} rows in the index, {documents.count} documents, the manifest says "
            f"{manifest.documents.count}; publish the snapshot again, or activate another one"
        )


def _warm(golden: GoldenSet, manifest: Manifest, encoder: Encoder, engine: Engine, documents: Documents) -> None:
    """Take the slow first times (arenas that grow, pages not yet mapped) before a request does."""
    [tokens] = encoder.tokenize([encoder.render(golden.queries[0])])
    longest = manifest.query_tower.text.max_tokens
    for length in (*(length for length in _WARM_TOKENS if length < longest), longest):
        encoder.embed([np.resize(tokens.ids or [0], length).tolist()])
    queries = golden.vectors[:1]
    found = engine.search(queries, min(_WARM_K, engine.count), manifest.index.default_effort)
    if engine.count * engine.dim <= _WARM_FLOATS:
        found = engine.exact(queries, min(_WARM_K, engine.count))  # touches every vector
    rows_found = found.rows[0]
    documents.ids(rows_found)
    documents.fields(rows_found)
