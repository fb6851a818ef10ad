"""How quality grows with the tower and with data: L(N) and L(D), fitted to towers trained here, one of them held out.

After "Scaling Laws for Dense Retrieval" (arXiv 2403.18684): contrastive entropy of held-out queries against a fixed set of
negatives, and the number of parameters without embeddings. A command rather than a stage: each size and each share of the
data is a variant of the recipe (``offline.grid``) with the stages ``prepare``, ``train`` and ``scaling``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from offline import towers
from offline.batches import Pairs, grouped
from offline.bootstrap import Values
from offline.config import TrainConfig
from offline.data.prepared import Prepared
from offline.errors import DataError, RecipeError
from offline.fingerprints import backbone_fingerprint
from offline.grid import UNDISTILLED, Grid, Variant
from offline.judged import Judged, judged_split
from offline.metrics import ndcg
from offline.progress import say
from offline.ranking import Floats, Rows, exact_top_k
from offline.recipe import Recipe
from offline.scaling_config import ScalingConfig, TowerSize
from offline.shrink import write_narrow
from offline.stage_one import load_pairs
from offline.stages import Job, Stage, Summary
from offline.trainer import read_result
from snapshot.files import atomic_write
from snapshot.text import render, render_query

_POINT = "point.npz"
_DEPTH = 10
_FRESH_LAYERS = 2
_LEAST_SIZES, _LEAST_SHARES = 5, 4


@dataclass(frozen=True)
class Point:
    """One trained pair of towers on the queries of a split.

    Attributes:
        split: ``scaling.split``, or the other where that has none.
        parameters: of one tower, without embeddings.
        pairs: different training pairs that were learnt from, without those held out.
        negatives: documents that each query's relevant one is contrasted with.
        learnt: whether training made it better on dev than it began; also where nothing was measured there.
        entropy: contrastive entropy in nats, float64[q].
        ndcg: nDCG@10, float64[q].
    """

    name: str
    split: str
    parameters: int
    pairs: int
    entropy: Values
    ndcg: Values
    negatives: int
    learnt: bool

    @property
    def knows_something(self) -> bool:
        """Not if it was best untrained, or names the relevant document no better than a draw among all would."""
        return self.learnt and float(self.entropy.mean()) < math.log(1 + self.negatives)


@dataclass(frozen=True)
class Plan:
    """The variants: all sizes on all data, and one size on each smaller share; ``sizes[data_tower]`` is in both."""

    sizes: tuple[Variant, ...]
    shares: tuple[Variant, ...]


def plan(grid: Grid) -> Plan:
    """The variants that the recipe's section ``scaling`` asks for.

    Raises:
        RecipeError: fewer than five sizes or four shares of the data (a law has three parameters, so that three points fit it
            whatever they are, and one size is held out), or no such ``data_tower``.
        DataError: no split has judged queries, or there are too few documents for the negatives.
    """
    recipe = grid.variant("plan").recipe
    config, sizes = recipe.scaling, _sizes(recipe)
    if len(sizes) < _LEAST_SIZES:
        key = "backbones" if config.backbones else "widths"
        raise RecipeError(
            f"{grid.recipe}: scaling.{key} has {len(sizes)} sizes; at least {_LEAST_SIZES} are needed: 4 to fit 3 parameters, "
            "1 held out"
        )
    if len(set(config.data_shares)) < _LEAST_SHARES:
        raise RecipeError(
            f"{grid.recipe}: scaling.data_shares has {len(set(config.data_shares))} different ones; at least {_LEAST_SHARES} are "
            "needed to fit 3 parameters"
        )
    chosen = len(sizes) // 2 if config.data_tower is None else config.data_tower
    if chosen >= len(sizes):
        raise RecipeError(f"{grid.recipe}: scaling.data_tower is {chosen}, but there are sizes 0 to {len(sizes) - 1}")
    overrides = [_overrides(grid, size, config) for size in sizes]
    variants = tuple(grid.variant(f"size-{number}", settings) for number, settings in enumerate(overrides))
    variants[chosen].run("prepare")
    check_data(Prepared(variants[chosen].work / "prepare"), variants[chosen].recipe)
    return Plan(variants, tuple(_shares(grid, config, overrides[chosen], variants[chosen])))


def check_data(prepared: Prepared, recipe: Recipe) -> None:
    """Before anything is trained: whether there is something to measure with.

    Raises:
        DataError: no split has judged queries, or there are too few documents for the negatives.
    """
    judged = _judged(prepared, recipe)
    if judged.split != recipe.scaling.split:
        say(f"  no judged {recipe.scaling.split} queries: those of {judged.split} are measured on")
    pool = _pool(judged, prepared.tower_texts.num_rows, recipe.scaling)
    for barred in _barred(judged):
        _free(pool, barred, recipe.scaling.negatives)


def _sizes(recipe: Recipe) -> list[TowerSize]:
    config = recipe.scaling
    if config.backbones:
        return [TowerSize(backbone=size) if isinstance(size, str) else size for size in config.backbones]
    return [TowerSize(backbone=recipe.train.backbone, layers=_FRESH_LAYERS, width=width) for width in config.widths]


def _overrides(grid: Grid, size: TowerSize, config: ScalingConfig) -> list[str]:
    """A TOML string is a JSON string here: names of backbones have no control characters.

    All are measured, and so trained, at their whole width: the recipe's Matryoshka widths are not below that of every size.
    """
    always = [f"train.epochs={config.epochs}", "train.matryoshka=[]", UNDISTILLED]
    if size.width is not None:
        layers = size.layers or _FRESH_LAYERS
        name = f"{Path(size.backbone).name.replace(':', '-')}-{layers}x{size.width}-{backbone_fingerprint(size.backbone)[:12]}"
        folder = grid.folder.resolve() / "backbones" / name
        if not folder.is_dir():
            write_narrow(size.backbone, layers, size.width, folder)
        rate = f"train.learning_rate={config.fresh_learning_rate}"
        return [*always, f"train.backbone={json.dumps(str(folder))}", rate]
    chosen = [*always, f"train.backbone={json.dumps(size.backbone)}"]
    if size.layers is None:
        return chosen
    layers_kept = list(range(size.layers))
    return [*chosen, f"train.query_layers={layers_kept}", f"train.document_layers={layers_kept}"]


def _shares(grid: Grid, config: ScalingConfig, size: Sequence[str], whole: Variant) -> Iterator[Variant]:
    """Each learns for as many steps, so that only the number of different pairs differs; the data is prepared."""
    recipe = whole.recipe.train
    pairs = load_pairs(Prepared(whole.work / "prepare"), whole.recipe.text, recipe)
    steps = _steps(pairs, recipe)
    for share in sorted(set(config.data_shares)):
        if share == 1.0:
            yield whole
            continue
        few = pairs.sample(max(2, round(share * len(pairs))), recipe.seed)
        epochs = recipe.epochs * steps / _steps(few, recipe)
        yield grid.variant(f"data-{share:g}", [*size, f"train.max_pairs={len(few)}", f"train.epochs={epochs:.6g}"])


def _steps(pairs: Pairs, config: TrainConfig) -> int:
    """Of an epoch."""
    return len(grouped(pairs, config))


def train_and_measure(variant: Variant) -> Point:
    """Run the variant's stages, or keep what is there; errors as of the stages."""
    for stage in ("prepare", "train", STAGE):
        variant.run(stage)
    found = np.load(variant.work / STAGE.name / _POINT)
    counts = int(found["parameters"]), int(found["pairs"])
    told = int(found["negatives"]), bool(found["learnt"])
    return Point(variant.name, str(found["split"]), *counts, found["entropy"], found["ndcg"], *told)


def run(job: Job) -> Summary:
    """The stage that measures one pair of towers on the queries of ``scaling.split``; errors as of ``check_data``."""
    prepared, config = Prepared(job.inputs["prepare"]), job.recipe.scaling
    judged = _judged(prepared, job.recipe)
    pool = _pool(judged, prepared.tower_texts.num_rows, config)
    tower = towers.load_tower(job.inputs["train"] / "document_tower")
    documents = _documents(job, prepared, pool, tower)
    queries = _queries(job, judged)
    found = exact_top_k(queries, documents, judged.depth(_DEPTH))[1]
    entropy = contrastive_entropy(*_scores(queries, documents, judged, pool, config), job.recipe.train.temperature)
    quality = ndcg(judged, pool[found])
    parameters = towers.count_body_parameters(tower)
    trained = read_result(job.inputs["train"]) or {}
    pairs = int(trained["pairs"] or 0)
    learnt = pairs > 0 and trained.get("best_epoch") != 0
    with atomic_write(job.folder / _POINT) as handle:
        np.savez(
            handle,
            split=judged.split,
            entropy=entropy,
            ndcg=quality,
            learnt=learnt,
            parameters=parameters,
            pairs=pairs,
            negatives=config.negatives,
        )
    return {"parameters": parameters, "pairs": pairs, "entropy": float(entropy.mean()), "nDCG@10": float(quality.mean())}


def contrastive_entropy(positive: Floats, negatives: Floats, temperature: float) -> Values:
    """-log of the share of the relevant document in a softmax with its negatives, in nats (arXiv 2403.18684, equation 3).

    Args:
        positive: scores float32[q].
        negatives: scores float32[q, n].
        temperature: that of training, since scores are cosines here.
    """
    scaled = np.concatenate([positive[:, None], negatives], axis=1).astype(np.float64) / temperature
    highest = scaled.max(axis=1)
    return np.asarray(highest + np.log(np.exp(scaled - highest[:, None]).sum(axis=1)) - scaled[:, 0], np.float64)


def _judged(prepared: Prepared, recipe: Recipe) -> Judged:
    config = recipe.scaling
    for split in dict.fromkeys((config.split, "test", "dev")):
        judged = judged_split(prepared, recipe, split)
        if len(judged):
            return judged.sample(config.max_queries, config.seed)
    raise DataError(f"{prepared.folder}: neither dev nor test has a judged query with a relevant document to measure on")


def _pool(judged: Judged, documents: int, config: ScalingConfig) -> Rows:
    """Sorted rows: every judged document, and others at random up to ``max_documents``."""
    wanted = {row for scores in judged.judgements for row in scores}
    rest = np.setdiff1d(np.arange(documents), np.array(sorted(wanted), np.int64))
    others = np.random.default_rng(config.seed).permutation(rest)[: max(0, config.max_documents - len(wanted))]
    return np.sort(np.concatenate([np.array(sorted(wanted), np.int64), others])).astype(np.int64)


def _documents(job: Job, prepared: Prepared, pool: Rows, tower: SentenceTransformer) -> Floats:
    spec = job.recipe.text.document
    cut = spec.model_copy(update={"max_tokens": min(spec.max_tokens, job.recipe.train.max_document_tokens or spec.max_tokens)})
    texts = [render(spec, row) for row in prepared.tower_texts.take(pool).to_pylist()]
    return towers.encode(tower, cut, texts, job.recipe.encode.batch_size, "documents, batches")


def _queries(job: Job, judged: Judged) -> Floats:
    spec = job.recipe.text.query
    tower = towers.load_tower(job.inputs["train"] / "query_tower")
    return towers.encode(tower, spec, [render_query(spec, text) for text in judged.texts])


def _scores(queries: Floats, documents: Floats, judged: Judged, pool: Rows, config: ScalingConfig) -> tuple[Floats, Floats]:
    """Of each query's first relevant document float32[q], and of documents that nobody judged relevant float32[q, negatives]."""
    random = np.random.default_rng([config.seed, 1])
    positives, negatives = [], []
    for query, judgements, barred in zip(queries, judged.judgements, _barred(judged), strict=True):
        relevant = min(row for row, grade in judgements.items() if grade >= judged.relevance)
        drawn = random.choice(_free(pool, barred, config.negatives), config.negatives, replace=False)
        positives.append(documents[np.searchsorted(pool, relevant)] @ query)
        negatives.append(documents[drawn] @ query)
    return np.array(positives, np.float32), np.stack(negatives)


def _barred(judged: Judged) -> Iterator[list[int]]:
    """Of each query the rows that are no negatives: its positives, and the document that has its id."""
    for name, judgements in zip(judged.ids, judged.judgements, strict=True):
        yield [row for row, grade in judgements.items() if grade > 0] + [
            row for row in (judged.own.get(name),) if row is not None
        ]


def _free(pool: Rows, barred: Sequence[int], negatives: int) -> Rows:
    """Places in the pool of documents that are negatives of a query."""
    free = np.flatnonzero(~np.isin(pool, barred))
    if len(free) < negatives:
        raise DataError(f"{len(pool)} documents hold no {negatives} negatives a query; lower scaling.negatives")
    return free


def measure_all(variants: Sequence[Variant]) -> list[Point]:
    """Train and measure each, saying what it reached."""
    points = []
    for number, variant in enumerate(variants, start=1):
        point = train_and_measure(variant)
        say(
            f"[{number}/{len(variants)}] {variant.name}: {point.parameters:,} parameters, {point.pairs:,} pairs, "
            f"contrastive entropy {point.entropy.mean():.4f}, nDCG@10 {point.ndcg.mean():.4f}"
        )
        points.append(point)
    return points


def report_folder(grid: Grid) -> Path:
    """Where the command writes; beside the variants' folders."""
    return grid.folder / "report"


STAGE = Stage(
    name="scaling",
    run=run,
    needs=("prepare", "train"),
    sections=("text", "data", "scaling"),
    outside=lambda recipe, _source: {
        "backbone": backbone_fingerprint(recipe.train.backbone),
        "temperature": recipe.train.temperature,
        "cut": recipe.train.max_document_tokens,
    },
    version=4,
)
