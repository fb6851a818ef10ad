"""How two towers are trained: pairs, hard negatives and dev queries to a loss, companions and the best weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from offline.adapters import finish, prepare
from offline.batches import PairCollator, Pairs, Related, grouped
from offline.config import TextConfig, TrainConfig
from offline.cuts import count_cuts
from offline.data.negatives import Negatives
from offline.data.pairs import rows_of_same
from offline.data.prepared import Prepared
from offline.dev_search import Search, searched_rows, split_dev
from offline.errors import RecipeError, TrainingError
from offline.findings import WORTH_SAYING
from offline.judged import Judged
from offline.learner import Learner
from offline.lengths import check_length
from offline.losses import Contrast, ContrastiveLoss
from offline.mining import Miner, find_by_words, queries_of
from offline.progress import say
from offline.recipe import Recipe
from offline.stages import Job
from offline.towers import build_tower, take_layers, tower_dim
from offline.trainer import Companion, Schedule, Task, fit
from offline.watch import (
    Average,
    Rules,
    Watch,
    Weights,
    applied,
    best_of,
    keep_weights,
    load_weights,
    mix,
    read_curve,
    weights_path,
)
from snapshot.manifest import TextSpec
from snapshot.text import render, render_query

BEST = "best"
_NEGATIVES = "negatives"
_LAST = "last"
Towers = tuple[SentenceTransformer, SentenceTransformer]
"""Of queries and of documents; the same one twice where they are tied."""


@dataclass(frozen=True)
class Learnt:
    """What a training ends with.

    Attributes:
        towers: with the weights that were chosen; None leaves the backbone untouched.
        log: see ``fit``.
        chosen: for the summary, which weights were chosen.
        measured: for ``training.json``, what was measured on dev.
    """

    towers: Towers | None = None
    pairs: int = 0
    log: list[dict[str, float]] = field(default_factory=list)
    chosen: Mapping[str, str | int | float | None] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)


def learn(job: Job) -> Learnt:
    """Train, or go on, in the folder of the job; afterwards its best weights are still there."""
    prepared, recipe = Prepared(job.inputs["prepare"]), job.recipe
    found = _read_pairs(prepared, recipe.text, recipe.train, recipe.data.relevance)
    if not (_can_be_contrasted(found) or _train_scores(prepared)):
        say(
            f"  warning: {prepared.folder}: nothing to train on: no train split, and no two documents have a title and a text, "
            "or several sentences; the towers are the untouched backbone, as with train.epochs = 0"
        )
        return Learnt()
    _check(found, prepared, recipe.data.relevance)
    pairs, dev = split_dev(prepared, recipe, found)
    work = _Work(job.folder, recipe, prepared, pairs, dev)
    log = work.train()
    return work.choose(log)


def load_pairs(prepared: Prepared, text: TextConfig, config: TrainConfig, relevance: int = 1) -> Pairs:
    """The training pairs, rendered; a random sample of them if the recipe limits their number.

    Raises:
        TrainingError: there are none, or all are of one document, so that there is nothing to contrast.
    """
    pairs = _read_pairs(prepared, text, config, relevance)
    _check(pairs, prepared, relevance)
    return pairs


def _read_pairs(prepared: Prepared, text: TextConfig, config: TrainConfig, relevance: int) -> Pairs:
    table = prepared.pairs
    documents = [
        render(text.document, {"title": title, "text": body})
        for title, body in zip(table["title"].to_pylist(), table["text"].to_pylist(), strict=True)
    ]
    queries = [render_query(text.query, query) for query in table["query"].to_pylist()]
    spared = _spared(prepared, text.query, relevance)
    pairs = Pairs(queries, documents, table["row"].to_numpy().astype(np.int64), spared=spared)
    if config.max_pairs is not None and config.max_pairs < len(pairs):
        pairs = pairs.sample(config.max_pairs, config.seed)
    return pairs


def _spared(prepared: Prepared, spec: TextSpec, relevance: int) -> dict[str, frozenset[int]]:
    """By rendered query the rows of documents whose text or title it is, and of those judged to answer it, but below the cut."""
    towers, queries = prepared.tower_texts, prepared.pairs["query"].unique().to_pylist()
    spared = dict(rows_of_same(queries, towers["title"].to_pylist(), towers["text"].to_pylist()))
    asked = {query["id"]: query["text"] for query in prepared.queries.to_pylist() if query["split"] == "train"}
    for judgement in prepared.qrels.to_pylist() if relevance > 1 else ():
        query = asked.get(judgement["query_id"])
        if query is not None and 0 < judgement["score"] < relevance:
            spared[query] = spared.get(query, frozenset()) | {judgement["row"]}
    return {render_query(spec, query): rows for query, rows in spared.items()}


def _can_be_contrasted(pairs: Pairs) -> bool:
    return len(set(pairs.documents)) >= 2


def _check(pairs: Pairs, prepared: Prepared, relevance: int) -> None:
    if not _can_be_contrasted(pairs):
        different = len(set(pairs.documents))
        raise TrainingError(
            f"{prepared.folder}: {len(pairs)} training pairs with {different} different documents; at least 2 are "
            f"needed. {_remedy(_train_scores(prepared), relevance)}, or set train.epochs = 0 to take the backbone as it is"
        )


def _train_scores(prepared: Prepared) -> list[int]:
    return [judgement["score"] for judgement in prepared.qrels.to_pylist() if judgement["split"] == "train"]


def _remedy(scores: Sequence[int], relevance: int) -> str:
    if not scores:
        return "Add qrels/train.tsv, or documents with titles or several sentences"
    if max(scores) < relevance:
        return f"Look at data.relevance, {relevance}: the highest score in qrels/train.tsv is {max(scores)}"
    return "Add to qrels/train.tsv queries about other documents, which dev and test do not ask too"


def make_towers(recipe: Recipe) -> Towers:
    """Untouched towers, each with weights of its own unless the recipe ties them.

    Raises:
        RecipeError: a text or a Matryoshka width is longer than the backbone's, or it lacks a layer that is asked for.
    """
    config, text = recipe.train, recipe.text
    if config.tied and config.query_layers != config.document_layers:
        raise RecipeError(
            "train.tied: one tower cannot have both train.query_layers and other train.document_layers; give the same"
        )
    query = _tower(config, config.query_layers, "train.query_layers")
    document = query if config.tied else _tower(config, config.document_layers, "train.document_layers")
    check_length(query, text.query, "text.query")
    check_length(document, text.document, "text.document")
    wide = [width for width in config.matryoshka if width >= tower_dim(document)]
    if wide:
        raise RecipeError(f"train.matryoshka: {wide[0]} is not below the width of the backbone's vectors, {tower_dim(document)}")
    return query, document


def _tower(config: TrainConfig, layers: tuple[int, ...] | None, key: str) -> SentenceTransformer:
    tower = build_tower(config.backbone, config.pooling, config.attention)
    return tower if layers is None else take_layers(tower, layers, key)


def join(towers: Towers, config: TrainConfig) -> Learner:
    """Both towers as the two routes of one model, with the loss."""
    query, document = towers
    model = SentenceTransformer(modules=[Router.for_query_document(list(query), list(document))])
    options = Contrast(
        temperature=config.temperature,
        learn_temperature=config.learn_temperature,
        symmetric=config.symmetric,
        margin=config.margin,
        guard=config.in_batch_guard,
        matryoshka=config.matryoshka,
        mini_batch=config.mini_batch_size,
    )
    return Learner(model, ContrastiveLoss(model, options), config.precision)


def _weights(learner: torch.nn.Module) -> Weights:
    """The parameters that learn, whole and on the CPU, however the learner is wrapped; all processes must call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    return dict(get_model_state_dict(learner, options=options))


def _put(weights: Weights, learner: Learner) -> None:
    """The reverse of ``_weights``."""
    wanted = {name for name, parameter in learner.named_parameters() if parameter.requires_grad}
    unlike = learner.load_state_dict(weights, strict=False)
    if missing := [*unlike.unexpected_keys, *(wanted & set(unlike.missing_keys))]:
        raise TrainingError(f"{missing[0]} is in the towers or in their best weights, not in both; run the stage train again")


class _Work:
    """One training: what is made of a recipe, once."""

    def __init__(self, folder: Path, recipe: Recipe, prepared: Prepared, pairs: Pairs, dev: Judged | None) -> None:
        self.folder = folder
        self.recipe = recipe
        self.config = recipe.train
        self.prepared = prepared
        self.pairs = pairs
        self.dev = dev
        self.batches = grouped(pairs, self.config)
        self.average = Average(self.config.ema) if self.config.ema is not None else None
        self.needs_search = dev is not None or self.config.negatives.per_document > 0

    def train(self) -> list[dict[str, float]]:
        """Leave the weights of the best step in the folder ``BEST``."""
        config = self.config
        towers = self._prepared_towers()
        self._say_cuts(towers)
        learner = join(towers, config)
        search = self._search(towers) if self.needs_search else None
        negatives = Negatives(config.negatives.per_document, config.seed) if config.negatives.per_document else None
        steps = len(self.batches.mine())
        say(f"  {len(self.pairs)} pairs, {steps} steps an epoch, {config.epochs:g} epochs")
        task = Task(
            what="train",
            model=learner.loss.model,
            loss=learner.loss,
            examples=len(self.pairs),
            batches=self.batches,
            collate=PairCollator(
                *towers, self.recipe.text.query, self._document_spec(), self.pairs, self._related(search), negatives
            ),
            precision=config.precision,
        )
        schedule = Schedule(
            config.epochs, config.learning_rate, config.warmup_share, config.seed, config.save_steps, config.weight_decay
        )
        companions: list[Companion] = [self.average] if self.average is not None else []
        if search is not None and self.dev is not None:
            companions.append(self._watch(steps, search, self.dev))
        if search is not None and negatives is not None:
            companions.append(self._miner(steps, search, negatives))
        log = fit(task, schedule, self.folder, companions)
        if self.dev is None:
            with applied(self.average):
                keep_weights(_weights(learner), weights_path(self.folder / BEST, _LAST))
        return log

    def _say_cuts(self, towers: Towers) -> None:
        for each in count_cuts(self.prepared, self.recipe, *towers):
            if each.share >= WORTH_SAYING:
                say(f"  {each.describe()}")
            if each.unknown_share >= WORTH_SAYING:
                say(f"  warning: {each.describe_unknown()}")

    def choose(self, log: list[dict[str, float]]) -> Learnt:
        """The best weights, or a mixture of them with the untouched ones that is better on dev."""
        towers = self._prepared_towers()
        learner = join(towers, self.config)
        curve = read_curve(self.folder / BEST)
        best = best_of(curve) if curve else None
        trained = load_weights(self.folder / BEST, best.step if best else _LAST)
        mixtures = self._measure_mixtures(learner, towers, trained, self.dev) if self.dev and best and best.step else {}
        share = max(mixtures, key=lambda each: mixtures[each], default=1.0)
        if best and mixtures.get(share, 0.0) > best.value:
            trained = mix(load_weights(self.folder / BEST, 0), trained, share)
        else:
            share = 1.0
        _put(trained, learner)
        for tower in dict.fromkeys(towers):
            finish(tower, self.config)
        dev = {"dev_ndcg": max(best.value, mixtures.get(share, 0.0)), "best_epoch": best.epoch} if best else {}
        mixed = [{"share": each, "ndcg": ndcg} for each, ndcg in mixtures.items()]
        measured = {
            "dev_curve": [{"step": point.step, "epoch": point.epoch, "ndcg": point.value} for point in curve],
            "dev_mixtures": mixed,
            "dev_queries": self._dev_name(),
        }
        return Learnt(towers, len(self.pairs), log, {**dev, **({"mixed_share": share} if mixtures else {})}, measured)

    def _measure_mixtures(self, learner: Learner, towers: Towers, trained: Weights, dev: Judged) -> dict[float, float]:
        measured: dict[float, float] = {}
        if not self.config.dev.shares:
            return measured
        untouched, search = load_weights(self.folder / BEST, 0), self._search(towers)
        learner.to(self._device())
        for number, share in enumerate(self.config.dev.shares):
            _put(mix(untouched, trained, share), learner)
            measured[share] = search.ndcg(learner, number, dev)
            say(f"  dev nDCG@10 {measured[share]:.4f} with {share:g} of the trained weights")
        return measured

    def _prepared_towers(self) -> Towers:
        torch.manual_seed(self.config.seed)  # adapters begin at random
        towers = make_towers(self.recipe)
        for tower in dict.fromkeys(towers):
            prepare(tower, self.config)
        return towers

    def _search(self, towers: Towers) -> Search:
        limit, text = self.config.search_documents, self.recipe.text
        judged = np.array(sorted({row for scores in self.dev.judgements for row in scores}) if self.dev else [], np.int64)
        rows = searched_rows(self.prepared.tower_texts.num_rows, [judged, self.pairs.rows], limit, self.config.seed)
        documents = [render(text.document, fields) for fields in self.prepared.tower_texts.take(rows).to_pylist()]
        return Search(rows, documents, *towers, text.query, text.document)

    def _related(self, search: Search | None) -> Related:
        if search is None or not self.config.negatives.per_document:
            return Related.of(self.pairs)
        return Related.of(self.pairs, dict(zip(search.rows.tolist(), search.documents, strict=True)))

    def _watch(self, steps: int, search: Search, dev: Judged) -> Watch:
        config = self.config.dev
        rules = Rules(steps, config.every_epochs, config.every_steps, config.patience)
        beside = self._beside(dev) if config.beside else None
        return Watch(
            self.folder / BEST, rules, lambda learner, step: search.ndcg(learner, step, dev), _weights, self.average, beside
        )

    def _beside(self, dev: Judged) -> Callable[[Weights, int], float]:
        """Measures weights in a copy of the towers, on the CPU and without the other processes."""
        towers = self._prepared_towers()
        learner, search = join(towers, self.config), replace(self._search(towers), alone=True)

        def measure(weights: Weights, step: int) -> float:
            _put(weights, learner)
            return search.ndcg(learner, step, dev)

        return measure

    def _miner(self, steps: int, search: Search, negatives: Negatives) -> Miner:
        config = self.config.negatives
        found = None
        if "bm25" in config.sources:
            raw = {render_query(self.recipe.text.query, query): query for query in self.prepared.pairs["query"].to_pylist()}
            found = find_by_words(self.prepared, search, queries_of(self.pairs), raw, config.depth)
        return Miner(self.folder / _NEGATIVES, config, negatives, search, self.pairs, steps, found, self.average)

    def _document_spec(self) -> TextSpec:
        spec = self.recipe.text.document
        return spec.model_copy(update={"max_tokens": min(spec.max_tokens, self.config.max_document_tokens or spec.max_tokens)})

    def _dev_name(self) -> str | None:
        return f"{len(self.dev)} {self.dev.split}" if self.dev is not None else None

    @staticmethod
    def _device() -> torch.device:
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
