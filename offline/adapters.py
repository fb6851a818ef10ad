"""How a tower is made ready to learn, and a plain model again: dropout, adapters, checkpointing of its layers."""

from __future__ import annotations

from sentence_transformers import SentenceTransformer
from torch import nn

from offline.config import LoraConfig, TrainConfig


def prepare(tower: SentenceTransformer, config: TrainConfig) -> None:
    """Change the tower in place as the recipe says."""
    transformer = tower[0]
    if config.dropout is not None:
        set_dropout(tower, config.dropout)
    if config.lora is not None:
        transformer.model = _with_adapters(transformer.model, config.lora)
    if config.gradient_checkpointing:
        transformer.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def finish(tower: SentenceTransformer, config: TrainConfig) -> None:
    """Merge the adapters, so that the tower is a plain model again."""
    transformer = tower[0]
    if config.gradient_checkpointing:
        transformer.model.gradient_checkpointing_disable()
    if config.lora is not None:
        transformer.model = transformer.model.merge_and_unload()


def set_dropout(tower: SentenceTransformer, share: float) -> None:
    """Drop this share in every dropout layer; where attention drops weights by a number of its own, that too."""
    for module in tower.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = share


def _with_adapters(model: object, lora: LoraConfig) -> object:
    """Low-rank adapters on every linear layer (Hu et al., arXiv 2106.09685); the rest is frozen."""
    from peft import LoraConfig as PeftConfig  # takes a second to import, for an option
    from peft import TaskType, get_peft_model

    adapters = PeftConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
    )
    return get_peft_model(model, adapters)
