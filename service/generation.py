"""One loaded snapshot: verify, open, prove on the golden set, warm; closed as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from service.encoder import Encoder
from service.engines.base import Engine
from snapshot.documents import Documents
from snapshot.layout import Layout
from snapshot.manifest import Manifest

Step = Literal["verifying", "opening", "proving", "warming"]


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How a snapshot is loaded.

    Attributes:
        encoder_threads: threads that one call of the ONNX graph uses.
        warm_batch: largest batch that the graph is warmed with.
    """

    encoder_threads: int = 1
    warm_batch: int = 8


@dataclass(frozen=True, slots=True)
class Proof:
    """What the golden set showed.

    Attributes:
        queries: probes asked.
        k: hits compared per probe.
        max_cosine_distance: worst 1 - cosine between the served and the torch vector.
        recall: mean share of exact search's k best that the served search found at the default effort.
    """

    queries: int
    k: int
    max_cosine_distance: float
    recall: float


@dataclass(frozen=True, slots=True)
class Generation:
    """One snapshot, ready to serve; its parts are only ever used together."""

    manifest: Manifest
    encoder: Encoder
    engine: Engine
    documents: Documents
    proof: Proof
    opened_at: datetime
    load_seconds: Mapping[Step, float]

    @property
    def id(self) -> str:
        return self.manifest.id

    def close(self) -> None:
        """Close every part; a second call does nothing. May take tens of milliseconds: never on an event loop."""
        raise NotImplementedError


def open_generation(layout: Layout, options: GenerationOptions, on_state: Callable[[Step], None]) -> Generation:
    """Load the snapshot at ``layout``; ``on_state`` hears each step as it begins and may raise to give up.

    Raises:
        SnapshotError: the snapshot is damaged, of another space, or does not reproduce its golden set.
    """
    raise NotImplementedError
