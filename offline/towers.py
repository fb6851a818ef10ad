"""A tower: text in, one L2-normalised vector out. Kept in sentence-transformers' format, so that anybody can load it.

Modules are Transformer, Pooling, then Dense where widths differ, then Normalize. Tokenizing is done here, from the
text spec that goes into the manifest, so that training, encoding and serving read the same tokens.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer, WordWeights
from tokenizers import processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import is_flash_attn_2_available
from transformers.utils import logging as transformers_logging

from offline.backbones import resolve_backbone
from offline.errors import BackboneError, DimensionError, RecipeError
from offline.progress import track
from snapshot.files import fsync_file, fsync_folder, sha256
from snapshot.manifest import TextSpec

PoolingName = Literal["auto", "mean", "cls", "last"]
_MODES: Mapping[str, str] = {"mean": "mean", "cls": "cls", "last": "lasttoken"}
_SPACE_FILES = ("**/*.safetensors", "**/*.bin", "*/config.json", "modules.json", "tokenizer.json")
_UNREADABLE = (OSError, ValueError, KeyError, SafetensorError)
"""What loading raises for files that are missing, damaged or of an unknown kind."""


def build_tower(backbone: str, pooling: PoolingName = "auto", attention: str = "auto") -> SentenceTransformer:
    """A tower on top of an untouched backbone.

    Pooling ``auto`` is what the backbone declares (its sentence-transformers modules), else the last token for
    decoder-only language models, else the mean. Where the last token is pooled, the tokenizer puts an end token there.
    Padding is on the right for all: rotary positions are relative, so that the side does not matter to a causal model,
    and learnt absolute positions must not move with the padding.

    Args:
        backbone: see ``resolve_backbone``.
        pooling: see above.
        attention: transformers' name of how attention is computed; ``auto``: flash attention on a GPU where it is
            installed, else torch's own.

    Raises:
        BackboneError: it cannot be found, read, or has no token to pad with.
    """
    folder = resolve_backbone(backbone)
    try:
        with quiet():
            modules = _modules(folder, pooling, attention)
    except _UNREADABLE as error:
        raise BackboneError(f"{folder}: cannot be loaded as a backbone ({error}); name another one in the recipe") from error
    if _pools_last(modules):
        end_with_token(modules[0], folder)
    _ensure_pad_token(modules[0], folder)
    return SentenceTransformer(modules=modules)


def _modules(folder: Path, pooling: PoolingName, attention: str) -> list[torch.nn.Module]:
    """Transformer, Pooling, what else the backbone declares, Normalize."""
    arguments = _attention(attention)
    is_declared = (folder / "modules.json").is_file()
    declared = list(SentenceTransformer(str(folder), device="cpu", model_kwargs=arguments)) if is_declared else []
    transformer = declared[0] if declared else Transformer(str(folder), model_kwargs=arguments)
    if not isinstance(transformer, Transformer):
        raise BackboneError(f"{folder}: its first module is {type(transformer).__name__}; a tower begins with a Transformer")
    rest = [module for module in declared[1:] if not isinstance(module, Normalize)]
    if pooling != "auto" or not rest:
        mode = _MODES[pooling] if pooling != "auto" else _default_mode(transformer)
        rest = [Pooling(transformer.get_embedding_dimension(), mode)]
    return [transformer, *rest, Normalize()]


def _default_mode(transformer: Transformer) -> str:
    kind = transformer.config.model_type
    causal_only = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return "lasttoken" if causal_only else "mean"


def _attention(name: str) -> dict[str, Any]:
    """Flash attention reads bf16, which autocast makes of the weights."""
    if name == "auto":
        name = "flash_attention_2" if has_bf16() and is_flash_attn_2_available() else "sdpa"
    return {"attn_implementation": name}


def _pools_last(modules: Sequence[torch.nn.Module]) -> bool:
    return any(isinstance(module, Pooling) and module.pooling_mode == "lasttoken" for module in modules)


def end_with_token(transformer: Transformer, folder: Path) -> None:
    """Let the tokenizer end each text with its end token, which truncation does not cut off, unless it ends them with one.

    It becomes part of tokenizer.json, so that training, encoding, the exported graph and the service read the same. The
    tokenizer is then a plain one, since those of some models put their own endings back when they are loaded.

    Raises:
        BackboneError: it has no end token, or exists in Python only.
    """
    tokenizer = transformer.tokenizer
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is not None and core.encode("a").ids[-1:] != core.encode("a", add_special_tokens=False).ids[-1:]:
        return  # it ends texts with a token already
    if tokenizer.eos_token is None or core is None:
        raise BackboneError(
            f"{folder}: the last token is pooled, and its tokenizer has {'no end token' if core else 'no tokenizer.json'}; set "
            "eos_token in tokenizer_config.json, or train.pooling"
        )
    ending = processors.TemplateProcessing(
        single=f"$A {tokenizer.eos_token}",
        pair=f"$A $B:1 {tokenizer.eos_token}:1",
        special_tokens=[(tokenizer.eos_token, tokenizer.eos_token_id)],
    )
    before = core.post_processor
    core.post_processor = processors.Sequence([before, ending]) if before is not None else ending
    names = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    transformer.processor = PreTrainedTokenizerFast(
        tokenizer_object=core, model_max_length=tokenizer.model_max_length, padding_side="right", **names
    )


def _ensure_pad_token(transformer: Transformer, folder: Path) -> None:
    """Many language models come without a pad token; any token will do, since the attention mask hides it."""
    tokenizer = transformer.tokenizer
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    transformer.config.pad_token_id = tokenizer.pad_token_id
    if tokenizer.pad_token is None:
        raise BackboneError(f"{folder}: its tokenizer has no pad, end or unknown token; set pad_token in tokenizer_config.json")


def load_tower(folder: Path) -> SentenceTransformer:
    """Load a tower that ``save_tower`` wrote.

    Raises:
        BackboneError: the folder is missing or damaged.
    """
    try:
        with quiet():
            return SentenceTransformer(str(folder), local_files_only=True)
    except _UNREADABLE as error:
        raise BackboneError(f"{folder}: no tower can be loaded from it ({error}); run the stage that makes it again") from error


def save_tower(tower: SentenceTransformer, folder: Path, spec: TextSpec) -> None:
    """Write the tower to a temporary folder and rename it to ``folder``, replacing what is there."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    tower.max_seq_length = spec.max_tokens
    _note_word_weights(tower)
    with quiet():
        tower.save_pretrained(str(temporary), create_model_card=False)
    for path in temporary.rglob("*"):
        if path.is_file():
            fsync_file(path)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    fsync_folder(folder.parent)


def _note_word_weights(tower: SentenceTransformer) -> None:
    """sentence-transformers loads WordWeights from their config alone, where training does not write."""
    for module in tower:
        if isinstance(module, WordWeights):
            module.word_weights = dict(zip(module.vocab, module.emb_layer.weight.flatten().tolist(), strict=True))


def tower_dim(tower: SentenceTransformer) -> int:
    """Width of the tower's vectors."""
    dim = tower.get_embedding_dimension()
    if dim is None:
        raise DimensionError(f"{tower}: its last module does not say how wide its vectors are")
    return int(dim)


def backbone_of(tower: SentenceTransformer) -> Any:
    """The transformers model inside."""
    return tower[0].auto_model


def space_fingerprint(folder: Path, spec: TextSpec) -> str:
    """sha256 over the document tower's files and its text spec: the name of the vector space that it spans.

    Pooling, projection and tokenizer make a space as much as the weights do. Left out are files that also say which
    versions of libraries wrote them.
    """
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _SPACE_FILES for path in folder.glob(pattern)):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256(path)}\n".encode())
    digest.update(json.dumps(spec.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode())
    return digest.hexdigest()


def tokenize(tower: SentenceTransformer, spec: TextSpec, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Rendered texts to input_ids and attention_mask, int64[n, t], and what else the backbone reads."""
    encoded = tower.tokenizer(
        list(texts),
        padding=True,
        truncation=True,
        max_length=spec.max_tokens,
        add_special_tokens=spec.add_special_tokens,
        return_tensors="pt",
    )
    return dict(encoded)


def encode(
    tower: SentenceTransformer, spec: TextSpec, texts: Sequence[str], batch_size: int = 64, progress: str | None = None
) -> NDArray[np.float32]:
    """Vectors of texts that are rendered already: float32[n, dim], L2-normalised, in the order given.

    Texts of like length go into one batch. bf16 on a GPU that has it, float32 elsewhere. ``progress`` is what to call
    the work while it is shown how far it is; None shows nothing.
    """
    vectors = np.empty((len(texts), tower_dim(tower)), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)  # the longest first: out of memory shows at once
    starts: Iterable[int] = range(0, len(order), batch_size)
    was_training = tower.training
    tower.eval()
    with torch.inference_mode(), autocast(tower.device):
        for start in track(starts, progress) if progress else starts:
            rows = order[start : start + batch_size]
            features = to_device(tokenize(tower, spec, [texts[i] for i in rows]), tower.device)
            batch = tower(features)["sentence_embedding"].float()
            vectors[rows] = torch.nn.functional.normalize(batch, dim=-1).cpu().numpy()
    tower.train(was_training)
    return vectors


def to_device(features: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in features.items()}


def has_bf16() -> bool:
    """Whether there is a GPU that computes in bf16."""
    return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False))


@contextmanager
def training_autocast(device: torch.device, precision: str = "auto") -> Iterator[None]:
    """``auto``: bf16 on a GPU that has it, and on a CPU that multiplies it in hardware: a step takes half the time."""
    has_it = has_bf16() if device.type == "cuda" else device.type == "cpu" and multiplies_bf16()
    with torch.autocast(device.type, torch.bfloat16, enabled=has_it and precision == "auto"):
        yield


@contextmanager
def training_attention(model: torch.nn.Module, precision: str = "auto") -> Iterator[None]:
    """Products and a softmax in place of torch's fused attention while a CPU trains in bf16, where the backward pass of the
    fused one takes three times as long (docs/log.md).
    """
    found = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    before = [module.config._attn_implementation for module in found]  # noqa: SLF001 - transformers tells it nowhere else
    changed = [
        (module, name)
        for module, name in zip(found, before, strict=True)
        if name == "sdpa"
        and module.device.type == "cpu"
        and multiplies_bf16()
        and precision == "auto"
        and not torch.cuda.is_available()
    ]
    for module, _ in changed:
        module.set_attn_implementation("eager")
    try:
        yield
    finally:
        for module, name in changed:
            module.set_attn_implementation(name)


def multiplies_bf16() -> bool:
    """Whether the CPU multiplies in bf16, by tiles (AMX) or by vectors (AVX-512, as AMD's since Zen 4)."""
    ask = getattr(torch.cpu, "get_capabilities", None)  # older versions of torch do not say
    can = {} if ask is None else ask()
    return any(can.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


@contextmanager
def autocast(device: torch.device) -> Iterator[None]:
    """bf16 on a GPU that has it; nothing elsewhere."""
    context = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" and has_bf16() else nullcontext()
    with context:
        yield


def take_layers(tower: SentenceTransformer, layers: Sequence[int], key: str = "distill.layers") -> SentenceTransformer:
    """A copy of the tower with only the layers asked for, counted from 0, in order; ``key`` is their place in the recipe.

    Raises:
        RecipeError: a layer is asked for that the tower does not have, or twice, or none at all.
    """
    depth = int(backbone_of(tower).config.num_hidden_layers)
    check_layers(layers, depth, key)
    student = copy.deepcopy(tower)
    model = backbone_of(student)
    parent, name = _layer_stack(model, depth)
    stack = getattr(parent, name)
    setattr(parent, name, torch.nn.ModuleList(stack[layer] for layer in layers))
    _renumber(model.config, getattr(parent, name), layers)
    return student


def check_layers(layers: Sequence[int], depth: int, key: str = "distill.layers") -> None:
    """Refuse layers that a tower of ``depth`` layers cannot give; ``key`` is where the recipe asks for them.

    Raises:
        RecipeError: a layer that it does not have, or one twice, or none at all.
    """
    wrong = sorted({layer for layer in layers if not 0 <= layer < depth})
    if wrong:
        raise RecipeError(f"{key} asks for layer {wrong[0]} of a tower with {depth} layers (0 to {depth - 1})")
    if not layers or len(set(layers)) != len(layers):
        raise RecipeError(f"{key} is {list(layers)}; name each layer once, and at least one")


def _layer_stack(model: torch.nn.Module, depth: int) -> tuple[torch.nn.Module, str]:
    """Which module holds the list of layers, and under what name."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == depth:
                return parent, name
    raise BackboneError(
        f"{type(model).__name__} keeps its {depth} layers in no list; give distill.backbone instead of distill.layers"
    )


def _renumber(config: Any, stack: Iterable[torch.nn.Module], layers: Sequence[int]) -> None:
    """Bring the config in line, so that the student loads again; some layers know their own number."""
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in layers]
    config.num_hidden_layers = len(layers)
    for number, layer in enumerate(stack):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number


def project(tower: SentenceTransformer, dim: int) -> SentenceTransformer:
    """The tower with a linear map to ``dim`` between its pooling and its normalisation."""
    body = [module for module in tower if not isinstance(module, Normalize)]
    dense = Dense(tower_dim(tower), dim, bias=False, activation_function=torch.nn.Identity())
    return SentenceTransformer(modules=[*body, dense, Normalize()])


def count_parameters(tower: SentenceTransformer) -> int:
    return sum(parameter.numel() for parameter in tower.parameters())


def count_body_parameters(tower: SentenceTransformer) -> int:
    """Parameters without word vectors and positions, which is how scaling laws count (arXiv 2001.08361)."""
    embeddings = [module for module in tower.modules() if isinstance(module, torch.nn.Embedding)]
    return count_parameters(tower) - sum(int(module.weight.numel()) for module in embeddings)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own bars for loading and saving, which are noise in a log."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
