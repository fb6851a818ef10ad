"""A thinner tower: fewer numbers in its hidden states, fewer attention heads, fewer neurons; what weighs most stays."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from torch import Tensor

from offline.errors import BackboneError, RecipeError
from offline.towers import backbone_of

_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"attention\.self\.(query|key|value)\.weight", ("heads", "hidden")),
    (r"attention\.self\.(query|key|value)\.bias", ("heads",)),
    (r"attention\.output\.dense\.weight", ("hidden", "heads")),
    (r"intermediate\.dense\.weight", ("neurons", "hidden")),
    (r"intermediate\.dense\.bias", ("neurons",)),
    (r"layer\.\d+\.output\.dense\.weight", ("hidden", "neurons")),
    (r"pooler\.dense\.weight", ("hidden", "hidden")),
    (r"embeddings\.\w+_embeddings\.weight", (None, "hidden")),
    (r"(LayerNorm\.(weight|bias)|dense\.bias)", ("hidden",)),
)
"""What the axes of BERT's parameters stand for, by the ends of their names; the first that fits."""

_Kept = Mapping[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """Numbers of a hidden state and of an attention head, neurons of a feed-forward layer."""

    width: int
    head: int
    ffn: int


def make_narrow(tower: SentenceTransformer, width: int | None, ffn: int | None) -> SentenceTransformer:
    """A copy of the tower with ``width`` numbers a hidden state and ``ffn`` neurons in each feed-forward layer.

    Structured pruning by magnitude: of hidden numbers, heads and neurons those stay whose weights are largest (as in LLM
    Pruner, arXiv 2305.11627, and Minitron, arXiv 2407.14679, without their calibration: distillation repairs it). The result
    is an ordinary model of the same kind, which anybody loads. None keeps the width, and the neurons' share of it.

    Raises:
        RecipeError: more is asked for than the tower has, or no whole number of attention heads.
        BackboneError: the tower is not built as BERT is.
    """
    model = backbone_of(tower)
    sizes = narrow_sizes(model, width, ffn)
    state = model.state_dict()
    config = copy.deepcopy(model.config)
    config.hidden_size, config.intermediate_size = sizes.width, sizes.ffn
    config.num_attention_heads = sizes.width // sizes.head
    thin = type(model)(config).eval()
    hidden = _largest(_hidden_weights(state), sizes.width)
    thin.load_state_dict({name: _cut(name, values, state, sizes, hidden) for name, values in state.items()})
    student = copy.deepcopy(tower)
    student[0].model = thin
    if sizes.width == model.config.hidden_size:
        return student
    return SentenceTransformer(modules=[student[0], Pooling(sizes.width, _pooling(tower)), Normalize()])


def narrow_sizes(model: torch.nn.Module, width: int | None, ffn: int | None) -> Sizes:
    """What a narrower ``model`` has; see ``make_narrow``. Weights are not read."""
    config = model.config
    names = [name for name, _ in model.named_parameters()]
    if not any(name.endswith("attention.self.query.weight") for name in names) or any(_axes(name) is None for name in names):
        raise BackboneError(
            f"distill: a {config.model_type} cannot be made narrower here, only what is built as BERT is; "
            "give distill.layers or distill.backbone"
        )
    head = config.hidden_size // config.num_attention_heads
    width = config.hidden_size if width is None else width
    ffn = max(1, config.intermediate_size * width // config.hidden_size) if ffn is None else ffn
    if width > config.hidden_size or width % head:
        raise RecipeError(f"distill.width is {width}; it must be a multiple of {head}, at most {config.hidden_size}")
    if ffn > config.intermediate_size:
        raise RecipeError(f"distill.ffn is {ffn}, but the teacher's feed-forward layers have {config.intermediate_size} neurons")
    return Sizes(width, head, ffn)


def _axes(name: str) -> tuple[str | None, ...] | None:
    return next((axes for pattern, axes in _AXES if re.search(pattern + "$", name)), None)


def _pooling(tower: SentenceTransformer) -> str:
    mode: str = next(module for module in tower if isinstance(module, Pooling)).pooling_mode
    return mode


def _cut(name: str, values: Tensor, state: Mapping[str, Tensor], sizes: Sizes, hidden: Tensor) -> Tensor:
    """A parameter with what stays of each of its axes."""
    kept = {"hidden": hidden, **_kept_in_layer(name, state, sizes)}
    for axis, kind in enumerate(_axes(name) or ()):
        if kind is not None:
            values = values.index_select(axis, kept[kind])
    return values


def _kept_in_layer(name: str, state: Mapping[str, Tensor], sizes: Sizes) -> _Kept:
    """Which heads (as rows of their matrices) and neurons stay in the layer that the parameter belongs to."""
    found = re.match(r"(.*layer\.\d+\.)", name)
    if found is None:
        return {}
    layer = found.group(1)
    into, out = state[f"{layer}intermediate.dense.weight"], state[f"{layer}output.dense.weight"]
    value, output = state[f"{layer}attention.self.value.weight"], state[f"{layer}attention.output.dense.weight"]
    by_row = (value.square().sum(dim=1) * output.square().sum(dim=0)).view(-1, sizes.head).sum(dim=1)
    heads = _largest(by_row, sizes.width // sizes.head)
    rows = (heads[:, None] * sizes.head + torch.arange(sizes.head)).flatten()
    return {"heads": rows, "neurons": _largest(into.square().sum(dim=1) * out.square().sum(dim=0), sizes.ffn)}


def _hidden_weights(state: Mapping[str, Tensor]) -> Tensor:
    """How much is read from each number of the hidden state, in all layers: its scale times the weights on it."""
    readers = [
        values for name, values in state.items() if re.search(r"(self\.(query|key|value)|intermediate\.dense)\.weight$", name)
    ]
    scales = [values for name, values in state.items() if name.endswith("LayerNorm.weight")]
    return torch.stack([reader.square().sum(dim=0) for reader in readers]).sum(dim=0) * torch.stack(scales).square().mean(dim=0)


def _largest(weights: Tensor, count: int) -> Tensor:
    """Numbers of the ``count`` largest, in their order."""
    return weights.topk(count).indices.sort().values
