"""What ``export`` writes and later stages read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from offline.graph import Graph
from snapshot.manifest import TextSpec

MODEL = "model.onnx"
"""The one that is served: a copy of one of those that were tried."""
FP32 = "fp32.onnx"
TOKENIZER = "tokenizer.json"
REPORT = "export.json"
Precision = Literal["fp32", "int8"]


class Gate(BaseModel):
    """A measured value and the most that is allowed."""

    model_config = ConfigDict(frozen=True)

    name: str
    value: float
    limit: float
    passed: bool
    detail: str
    """The comparison in words."""

    @classmethod
    def compare(cls, name: str, value: float, limit: float, detail: str) -> Gate:
        """Pass if ``value`` is at most ``limit``; ``detail`` says what the value is."""
        words = f"{detail} {value:.2g} (at most {limit:.2g})"
        return cls(name=name, value=value, limit=limit, passed=value <= limit, detail=words)


class Trial(BaseModel):
    """A graph that might be served; it lies beside the report as ``<name>.onnx``."""

    model_config = ConfigDict(frozen=True)

    name: str
    precision: Precision
    gates: tuple[Gate, ...]
    distance: float
    """1 - cosine to the torch tower (fp32) or to fp32 (the others), the greatest over the probe queries."""
    speedup: float
    """How many times as fast as fp32, one query at a time on one thread of the builder's machine."""
    megabytes: float

    @property
    def failures(self) -> str:
        """The gates that it fails, in words; empty if there are none."""
        return "; ".join(gate.detail for gate in self.gates if not gate.passed)


class ExportReport(BaseModel):
    """What was exported, and why: ``name`` is the trial that is served; ``dim`` is the width of the vectors."""

    model_config = ConfigDict(frozen=True)

    name: str
    precision: Precision
    reason: str
    trials: tuple[Trial, ...]
    layers: int
    parameters: int
    pad_token_id: int
    dim: int


def load_report(folder: Path) -> ExportReport:
    """The report in the output folder of ``export``."""
    return ExportReport.model_validate_json((folder / REPORT).read_bytes())


def open_graph(folder: Path, spec: TextSpec, model: str = MODEL) -> Graph:
    """One of the graphs in the output folder of ``export``, on one thread."""
    return Graph.open(folder / model, folder / TOKENIZER, spec, pad_token_id=load_report(folder).pad_token_id)
