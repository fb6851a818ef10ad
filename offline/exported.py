"""What ``export`` writes and later stages read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from offline.graph import Graph
from snapshot.manifest import TextSpec

MODEL = "model.onnx"
"""The one that is served: a copy of one of the next two."""
FP32 = "fp32.onnx"
INT8 = "int8.onnx"
TOKENIZER = "tokenizer.json"
REPORT = "export.json"


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


class ExportReport(BaseModel):
    """What was exported, and why in this precision; ``dim`` is the width of the vectors."""

    model_config = ConfigDict(frozen=True)

    precision: Literal["fp32", "int8"]
    reason: str
    gates: tuple[Gate, ...]
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
