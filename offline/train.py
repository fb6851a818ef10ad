"""Stage 1: a query tower and a document tower from one backbone, not tied, trained to find each other (InfoNCE)."""

from __future__ import annotations

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router

from offline.batches import GroupedBatches, PairCollator, Pairs
from offline.config import LoraConfig, TextConfig, TrainConfig
from offline.data.prepared import Prepared
from offline.errors import TrainingError
from offline.fingerprints import backbone_fingerprint
from offline.losses import ContrastiveLoss
from offline.progress import say
from offline.recipe import Recipe
from offline.stages import Job, Stage, Summary
from offline.students import check_student
from offline.towers import build_tower, check_length, count_parameters, save_tower, take_layers
from offline.trainer import Schedule, Task, fit, read_result, write_result
from snapshot.text import render, render_query


def run(job: Job) -> Summary:
    """Write ``query_tower/`` and ``document_tower/`` in sentence-transformers' format, and ``training.json``, the log.

    Raises:
        BackboneError: the backbone cannot be found.
        RecipeError: a text spec is longer than the backbone reads, or the student asks for layers that it lacks.
        TrainingError: there is nothing to learn from, or the loss is not finite.
    """
    if (done := read_result(job.folder)) is not None:
        return done
    check_student(job.recipe)
    config, text = job.recipe.train, job.recipe.text
    towers = _towers(job.recipe)
    pairs = load_pairs(Prepared(job.inputs["prepare"]), text, config) if config.epochs > 0 else None
    log = _train(job, towers, pairs) if pairs is not None else []
    save_tower(towers[0], job.folder / "query_tower", text.query)
    save_tower(towers[1], job.folder / "document_tower", text.document)
    summary: Summary = {
        "backbone": config.backbone,
        "parameters_per_tower": count_parameters(towers[1]),
        "pairs": len(pairs) if pairs is not None else 0,
        "final_loss": float(np.mean([entry["loss"] for entry in log[-5:]])) if log else None,
    }
    write_result(job.folder, summary, log)
    return summary


def load_pairs(prepared: Prepared, text: TextConfig, config: TrainConfig) -> Pairs:
    """The training pairs, rendered; a random sample of them if the recipe limits their number.

    Raises:
        TrainingError: there are none, or all are of one document, so that there is nothing to contrast.
    """
    table = prepared.pairs
    documents = [
        render(text.document, {"title": title, "text": body})
        for title, body in zip(table["title"].to_pylist(), table["text"].to_pylist(), strict=True)
    ]
    queries = [render_query(text.query, query) for query in table["query"].to_pylist()]
    pairs = Pairs(queries, documents, table["row"].to_numpy().astype(np.int64))
    if config.max_pairs is not None and config.max_pairs < len(pairs):
        pairs = pairs.sample(config.max_pairs, config.seed)
    different = len(set(pairs.documents))
    if different < 2:
        raise TrainingError(
            f"{prepared.folder}: {len(pairs)} training pairs with {different} different documents; at least 2 are "
            "needed. Add qrels/train.tsv or documents with titles, or set train.epochs = 0 to take the backbone as it is"
        )
    return pairs


def _towers(recipe: Recipe) -> tuple[SentenceTransformer, SentenceTransformer]:
    """Query and document tower, each with weights of its own."""
    config, text = recipe.train, recipe.text
    query, document = (
        _cut(build_tower(config.backbone, config.pooling), layers, key)
        for layers, key in ((config.query_layers, "train.query_layers"), (config.document_layers, "train.document_layers"))
    )
    check_length(query, text.query, "text.query")
    check_length(document, text.document, "text.document")
    return query, document


def _cut(tower: SentenceTransformer, layers: tuple[int, ...] | None, key: str) -> SentenceTransformer:
    return tower if layers is None else take_layers(tower, layers, key)


def _train(job: Job, towers: tuple[SentenceTransformer, SentenceTransformer], pairs: Pairs) -> list[dict[str, float]]:
    config = job.recipe.train
    for tower in towers:
        _prepare(tower, config)
    task = _task(job.recipe, towers, pairs)
    say(f"  {len(pairs)} pairs, {len(task.batches)} steps an epoch, {config.epochs:g} epochs")
    schedule = Schedule(config.epochs, config.learning_rate, config.warmup_share, config.seed, config.save_steps)
    log = fit(task, schedule, job.folder)
    for tower in towers:
        _finish(tower, config)
    return log


def _task(recipe: Recipe, towers: tuple[SentenceTransformer, SentenceTransformer], pairs: Pairs) -> Task:
    """Both towers as the two routes of one model, which is what the trainer takes."""
    config, text = recipe.train, recipe.text
    query, document = towers
    model = SentenceTransformer(modules=[Router.for_query_document(list(query), list(document))])
    cut = min(text.document.max_tokens, config.max_document_tokens or text.document.max_tokens)
    document_spec = text.document.model_copy(update={"max_tokens": cut})
    return Task(
        what="train",
        model=model,
        loss=ContrastiveLoss(model, config.temperature),
        examples=len(pairs),
        batches=GroupedBatches(pairs.rows, config.batch_size, config.queries_per_document, config.seed),
        collate=PairCollator(query, document, text.query, document_spec, pairs, pairs.positives()),
    )


def _prepare(tower: SentenceTransformer, config: TrainConfig) -> None:
    transformer = tower[0]
    if config.lora is not None:
        transformer.model = _with_adapters(transformer.model, config.lora)
    if config.gradient_checkpointing:
        transformer.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


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


def _finish(tower: SentenceTransformer, config: TrainConfig) -> None:
    """Merge the adapters, so that the tower is a plain model again."""
    transformer = tower[0]
    if config.gradient_checkpointing:
        transformer.model.gradient_checkpointing_disable()
    if config.lora is not None:
        transformer.model = transformer.model.merge_and_unload()


STAGE = Stage(
    name="train",
    run=run,
    needs=("prepare",),
    sections=("text", "train"),
    outside=lambda recipe, _source: {"backbone": backbone_fingerprint(recipe.train.backbone)},
)
