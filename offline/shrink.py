"""Small backbones made of a large one, so that laws can be measured where no family of sizes is at hand."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel

from offline.errors import BackboneError
from offline.towers import backbone_of, build_tower, quiet
from snapshot.files import fsync_folder

_HEAD_WIDTH = 32


def write_narrow(backbone: str, layers: int, width: int, folder: Path, seed: int = 17) -> None:
    """Write a backbone of the same kind with ``layers`` fresh layers of ``width``, and the tokenizer.

    Its word vectors are those of ``backbone`` on their first ``width`` principal components: a few thousand pairs could teach
    random ones only the words that occur in them. The same arguments write the same bytes.

    Raises:
        BackboneError: the backbone cannot be found, or its word vectors are narrower.
    """
    source = build_tower(backbone)
    model = backbone_of(source)
    words = model.get_input_embeddings().weight.detach().float()
    if width > words.shape[1]:
        raise BackboneError(
            f"{backbone}: its word vectors have {words.shape[1]} dimensions, so none of width {width} can be made; give at "
            f"most {words.shape[1]} in scaling.widths, or as width in scaling.backbones"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        narrow = AutoModel.from_config(_narrow_config(model.config, layers, width), dtype=torch.float32)
    narrow.get_input_embeddings().weight.data.copy_(_principal(words, width))
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with quiet():
        narrow.save_pretrained(temporary)
        source.tokenizer.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    fsync_folder(folder.parent)


def _narrow_config(config: Any, layers: int, width: int) -> Any:
    """Heads of 32 numbers, four times the width in between, as small BERTs have it (arXiv 1908.08962)."""
    small = copy.deepcopy(config)
    heads = max(1, width // _HEAD_WIDTH)
    changes = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": width // heads,
        "intermediate_size": 4 * width,
    }
    for name, value in changes.items():
        if hasattr(small, name):
            setattr(small, name, value)
    if getattr(small, "layer_types", None):
        small.layer_types = list(small.layer_types[:layers])
    return small


def _principal(words: torch.Tensor, width: int) -> torch.Tensor:
    """float32[vocabulary, width]: the vectors without their mean, along the directions in which they vary most."""
    centred = (words - words.mean(dim=0)).double()
    _, directions = torch.linalg.eigh(centred.T @ centred)
    directions = directions.flip(1)[:, :width]
    signs = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True)).sign()  # eigenvectors come with either sign
    return (centred @ (directions * signs)).float()
