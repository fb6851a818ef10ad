"""One loaded snapshot: verify, open, prove on the golden set, warm; closed as one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from service.costs import Costs, Remembered
from service.encoder import Encoder, Tokenizers
from service.engines import Engine, MilvusServer, open_engine
from service.engines.base import Shared
from service.gate import Inspector, NullInspector
from service.golden import GoldenSet, Proof, ask, prove, read_golden, require
from service.memory import let_go_of_pages
from service.plan import Planner
from service.stamps import Stamps
from snapshot.documents import Documents, open_documents
from snapshot.errors import CountMismatchError
from snapshot.layout import QUERY_TOWER, Layout
from snapshot.leases import Lease, hold
from snapshot.manifest import Manifest
from snapshot.verify import verify

Verify = Callable[[Path], Manifest]
Step = Literal["verifying", "opening", "proving", "warming", "shadowing"]
STEPS: tuple[Step, ...] = get_args(Step)

_WARM_TOKENS = (4, 8, 16, 32, 64, 128, 256, 512)
_WARM_K = 10
_UNPROVEN = Proof(0, 0, math.nan, math.nan)
_WARM_QUERIES = 64
_NO_GOLDEN = GoldenSet([], np.empty((0, 0), np.float32), np.empty((0, 0), np.int64))
_NOWHERE = Layout(Path())
_WARM_FLOATS = 1 << 26
"""Larger indexes (268 MB of vectors) are read as they are used: all of one may be more than the memory."""


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How a snapshot is loaded.

    Attributes:
        encoder_threads: threads that one call of the ONNX graph uses.
        batching: whether queries may go through the graph together.
        filter_cache_bytes: most memory for what filters have selected.
        milvus: where the vectors are that no file holds.
        search_threads: threads that one search of an index in several files uses.
    """

    encoder_threads: int = 1
    batching: bool = True
    filter_cache_bytes: int = 0
    milvus: MilvusServer = field(default_factory=MilvusServer)
    search_threads: int = 1


@dataclass(frozen=True, slots=True)
class Generation:
    """One snapshot, ready to serve; its parts are only ever used together.

    Attributes:
        costs: what its stages take here, learned from its requests.
        planner: chooses efforts by them.
        tower: digest of all that a query's vector depends on besides the query.
        load_seconds: by step, as far as loading has come.
        golden: to prove it again by.
        layout: where its files are.
        stamps: of its files when they were verified.
        lease: keeps others from removing the snapshot.
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
    golden: GoldenSet = _NO_GOLDEN
    layout: Layout = _NOWHERE
    stamps: Stamps = field(default_factory=Stamps)
    lease: Lease | None = None

    @property
    def id(self) -> str:
        return self.manifest.id

    def prove(self) -> Proof:
        """Prove it again: the files that were verified, the rows that a server keeps, and the golden answers.

        Raises:
            SnapshotError: a file or a row has changed since, or it does not reproduce its golden set any more.
        """
        self.stamps.check(self.layout, self.manifest)
        if isinstance(self.engine, Shared):
            self.engine.check()
        return prove(self.golden, self.manifest, self.encoder, self.engine)

    def read_on(self) -> None:
        """Read a part of its files again, the next one at each call; SnapshotError where one is not what was sealed."""
        self.stamps.read_on(self.layout, self.manifest)

    def hold_on(self) -> None:
        """Keep its lease on the snapshot's folder, whose manifest may have been mended since."""
        if self.lease is not None:
            self.lease.renew(self.layout.root)

    def close(self) -> None:
        """Close every part; a second call does nothing. May take tens of milliseconds: never on an event loop."""
        self.encoder.close()
        if self.layout is not _NOWHERE:
            let_go_of_pages([*self.layout.index_files(self.manifest.index.files), *self.layout.documents.glob("*.arrow")])
        self.engine.close()
        if self.lease is not None:
            self.lease.close()


@dataclass(frozen=True, slots=True)
class Beside:
    """What a snapshot is loaded beside.

    Attributes:
        before: the generation that serves: what it has learned about the machine is used again.
        recent: queries of users, the latest first, to warm up with.
        tokenizers: those that need not be parsed again.
        inspector: hears what is established, and may refuse.
        pace: called between two pieces of work; may raise to give up.
    """

    before: Generation | None = None
    recent: Sequence[str] = ()
    tokenizers: Tokenizers = field(default_factory=Tokenizers)
    inspector: Inspector = field(default_factory=NullInspector)
    pace: Callable[[], None] = lambda: None


_ALONE = Beside()


def open_generation(
    layout: Layout,
    options: GenerationOptions,
    on_state: Callable[[Step], None],
    beside: Beside = _ALONE,
    verify: Verify = verify,
) -> Generation:
    """Load the snapshot at ``layout``.

    Whatever was opened is closed again where a later step fails.

    Args:
        layout: of the snapshot.
        options: how it is loaded.
        on_state: hears each step as it begins, and may raise to give up.
        beside: what it is loaded beside.
        verify: reads the manifest and checks every file.

    Raises:
        SnapshotError: the snapshot is damaged, of another space, does not reproduce its golden set, or was refused.
    """
    watch, inspector = _Watch(on_state), beside.inspector
    with ExitStack() as opened:
        with watch.step("verifying"):
            stamps = Stamps.of(layout)
            manifest = verify(layout.root)
            lease = opened.enter_context(hold(layout.root))
            inspector.sealed(layout, manifest)
        with watch.step("opening"):
            generation = replace(_open(layout, manifest, options, beside, watch.seconds), stamps=stamps, lease=lease)
            opened.callback(generation.close)
            inspector.opened()
        measuring = opened.enter_context(ThreadPoolExecutor(1, "measure"))  # left, whatever happens, before its encoder closes
        longest = manifest.query_tower.text.max_tokens
        measured = measuring.submit(generation.encoder.measure_batches, longest) if options.batching else None
        with watch.step("proving"):
            answers = ask(generation.golden, manifest, generation.encoder, generation.engine)
            inspector.asked(answers.proof)
            require(answers, generation.golden, manifest)
            generation = replace(generation, proof=answers.proof)
            inspector.judge(generation)
        with watch.step("warming"):
            _warm(generation, beside.recent, beside.pace)
            if measured is not None:
                measured.result()
        measuring.shutdown()
        opened.pop_all()
    return generation


def _open(
    layout: Layout,
    manifest: Manifest,
    options: GenerationOptions,
    beside: Beside,
    seconds: Mapping[Step, float],
) -> Generation:
    """Open every part, or none."""
    with ExitStack() as opened:
        encoder = Encoder.open(layout, manifest.query_tower, manifest.space, options.encoder_threads, beside.tokenizers)
        opened.callback(encoder.close)
        engine = open_engine(manifest, layout, options.milvus, options.search_threads)
        opened.callback(engine.close)
        documents = open_documents(layout.documents, options.filter_cache_bytes)
        _check_counts(manifest, engine, documents, layout)
        golden = read_golden(layout, manifest)
        opened.pop_all()
    costs = Costs(manifest.index, time.monotonic, None if beside.before is None else beside.before.costs)
    planner = Planner(manifest.index, costs, time.monotonic, Remembered(costs))
    tower, now = _tower_digest(manifest), datetime.now(UTC)
    return Generation(manifest, encoder, engine, documents, _UNPROVEN, costs, planner, tower, now, seconds, golden, layout)


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


def _warm(generation: Generation, recent: Sequence[str], pace: Callable[[], None]) -> None:
    """Take the slow first times (arenas that grow, pages not yet mapped) before a request does."""
    manifest, encoder, engine = generation.manifest, generation.encoder, generation.engine
    golden, effort = generation.golden, manifest.index.default_effort
    [tokens] = encoder.tokenize([encoder.render(golden.queries[0])])
    longest = manifest.query_tower.text.max_tokens
    for length in (*(length for length in _WARM_TOKENS if length < longest), longest):
        pace()
        encoder.embed([np.resize(tokens.ids or [0], length).tolist()])
    k = min(_WARM_K, engine.count)
    if engine.count * engine.dim <= _WARM_FLOATS:
        engine.exact(golden.vectors[:1], k)  # touches every vector
    for query in [*recent, *golden.queries][:_WARM_QUERIES]:
        pace()
        rows = engine.search(encoder.encode([query]), k, effort).rows[0]
        generation.documents.ids(rows)
        generation.documents.fields(rows)
