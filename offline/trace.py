"""From a torch tower to the two files that run without torch: one ONNX graph and tokenizer.json."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from onnx import helper
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from offline.errors import BackboneError, RecipeError
from offline.graph import INPUTS, OUTPUT
from offline.towers import backbone_of
from snapshot.files import atomic_write, write_text
from snapshot.manifest import SPACE_KEY

_PROTOBUF_BYTES = 2**31


def write_tokenizer(tower: SentenceTransformer, path: Path) -> None:
    """Save the tower's tokenizer without truncation and padding: the text spec says those.

    Raises:
        BackboneError: it exists in Python only, so that the service could not run it.
    """
    fast = getattr(tower.tokenizer, "backend_tokenizer", None)
    if not isinstance(fast, Tokenizer):
        raise BackboneError(
            f"distill: the student's tokenizer ({type(tower.tokenizer).__name__}) has no tokenizer.json, which the service "
            "needs; choose a backbone that has one"
        )
    bare = Tokenizer.from_str(fast.to_str())
    bare.no_padding()
    bare.no_truncation()
    write_text(path, bare.to_str())


def to_onnx(tower: SentenceTransformer) -> onnx.ModelProto:
    """Trace the whole tower: (input_ids, attention_mask) int64[batch, sequence] -> sentence_embedding float32[batch, dim].

    Raises:
        RecipeError: the weights do not fit into one file.
    """
    size = 4 * sum(parameter.numel() for parameter in tower.parameters())
    if size >= _PROTOBUF_BYTES:
        raise RecipeError(
            f"distill: the student's weights take {size / 1e9:.1f} GB, and one ONNX file holds 2; choose fewer layers or a "
            "smaller backbone"
        )
    ids = torch.ones(2, 7, dtype=torch.int64)
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", min=2)}
    with _quiet(), _plain_attention(tower), torch.no_grad():
        program = torch.onnx.export(
            _Forward(tower).eval(),
            (ids, mask),
            dynamo=True,
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_shapes=dict.fromkeys(INPUTS, axes),
            external_data=False,
            verbose=False,
        )
    model = program.model_proto
    _strip_traces(model)
    # Where onnxruntime knows the shapes it fuses Add and LayerNormalization to SkipLayerNormalization, which is slower on CPUs.
    del model.graph.value_info[:]
    return model


class _Forward(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy: see pyproject.toml
    """The tower with tensors in and a tensor out."""

    def __init__(self, tower: SentenceTransformer) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.tower({"input_ids": input_ids, "attention_mask": attention_mask})[OUTPUT]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says about torchvision, its own deprecations and axis names that fit anyway."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*", category=FutureWarning)
            warnings.filterwarnings("ignore", message=".*The axis name.*will not be used", category=UserWarning)
            yield
    finally:
        log.setLevel(level)


@contextmanager
def _plain_attention(tower: SentenceTransformer) -> Iterator[None]:
    """Trace attention as products and a softmax: torch's fused one becomes a third more nodes, which cost more than they do."""
    model = backbone_of(tower)
    before = model.config._attn_implementation  # noqa: SLF001 - transformers sets it in public and tells it nowhere
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _strip_traces(model: onnx.ModelProto) -> None:
    """The exporter writes a Python stack trace, with paths of this machine, into every node."""
    graph = model.graph
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def write_graph(model: onnx.ModelProto, space: str, path: Path) -> None:
    """Write the graph with the fingerprint of the document space that it was made for."""
    helper.set_model_props(model, {SPACE_KEY: space})
    onnx.checker.check_model(model)
    with atomic_write(path) as handle:
        handle.write(model.SerializeToString())
