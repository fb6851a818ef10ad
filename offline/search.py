"""The search for a student that fits a latency budget, after "Search for Efficient LLMs" (arXiv 2409.17372).

Latency does not depend on weights: every candidate is traced and timed first, untrained, and where none is within the budget
that is the end. Else all are trained briefly on the same texts, those on or near the front of retention against latency for
twice as long (successive halving, arXiv 1502.07943), and the best within the budget to the end. Each step is a stage with a
receipt, so that a killed search goes on.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from sentence_transformers import SentenceTransformer

from offline import distill
from offline.candidates import measure
from offline.config import DistillConfig
from offline.data.prepared import Prepared
from offline.encoded import load_vectors
from offline.errors import BackboneError, RecipeError
from offline.front import Findings, Latency, Trial, best, draw, page, survivors
from offline.gates import judged_for_gate
from offline.graph import Graph
from offline.judged import Judged
from offline.lessons import Lesson, choose_texts, teach
from offline.metrics import NDCG, ndcg
from offline.probes import probe_queries
from offline.progress import say
from offline.quantize import observe, static_int8
from offline.ranking import exact_top_k
from offline.recipe import Recipe, check_distill
from offline.stages import Job, Source, Stage, Summary
from offline.towers import backbone_of, count_parameters, encode, load_tower
from offline.trace import to_onnx, write_graph, write_tokenizer
from offline.walk import Walk
from snapshot.files import write_text
from snapshot.text import render_query

FOLDER = "search"
FRONT = "front.png"
_NEEDS = ("prepare", "train", "encode")
_TIMED_TEXTS, _CALIBRATION_TEXTS, _DEPTH = 32, 64, 10
_TEACHER = "teacher"
_OF_A_KIND = ("student", "layers", "width", "ffn", "backbone")
"""Keys of ``distill`` that a candidate of another kind of student does not take over."""


def search(walk: Walk, budget_ms: float) -> Findings:
    """Run the search in the folder ``search`` of the walk's; writes ``search.json``, ``search.md`` and ``front.png`` there.

    Where no candidate is within the budget none is trained, and there is no ``front.png``.

    Raises:
        RecipeError: a candidate of the recipe does not fit ``distill``.
        StageError: prepare, train or encode has not finished.
    """
    recipe, work = walk.recipe, walk.work / FOLDER
    lesson = walk.run_stage(_stage("lesson", _lesson, ("text", "distill")), recipe)
    say(f"  {lesson.summary['texts']} texts, with the teacher's vectors")
    recipes = candidates(recipe, _depth(walk), _width(walk))
    timed = walk.run_stage(
        _stage("latency", partial(_latencies, recipes=recipes), ("text", "distill", "search", "export")), recipe
    )
    told = json.loads((timed.folder / "latency.json").read_text(encoding="utf-8"))
    latencies = {name: Latency(**taken) for name, taken in told["students"].items()}
    is_possible = any(latency.served <= budget_ms for latency in latencies.values())
    trials, left = _train_by_rounds(walk, recipes, latencies) if is_possible else ({}, [])
    chosen = best([trials[name] for name in left], budget_ms) or best(list(trials.values()), budget_ms)
    found = Findings(
        recipe=recipe.name,
        budget_ms=budget_ms,
        teacher_ms=told["teacher"],
        quality=_quality(Prepared(walk.work / "prepare"), recipe),
        latencies=latencies,
        trials=tuple(trials.values()),
        best=chosen.name if chosen is not None else None,
    )
    (work / FRONT).unlink(missing_ok=True)
    if trials:
        draw(found, work / FRONT)
    write_text(work / "search.json", found.model_dump_json(indent=2))
    write_text(work / "search.md", page(found))
    return found


def _train_by_rounds(
    walk: Walk, recipes: Mapping[str, Recipe], latencies: Mapping[str, Latency]
) -> tuple[dict[str, Trial], list[str]]:
    """All candidates after their last rounds, by name, and the names of those that are left."""
    config, left = walk.recipe.search, [name for name in recipes if name in latencies]
    trials: dict[str, Trial] = {}
    for number in range(config.rounds):
        for name in left:
            trials[name] = _trial(walk, name, recipes[name], latencies[name], config.first_texts * 2**number)
            say(f"  round {number + 1}, {name}: {trials[name].latency.served:.3f} ms, {trials[name].retained:.1%} retained")
        kept = survivors([trials[name] for name in left], max(1, math.ceil(len(left) * config.keep)))
        left = [trial.name for trial in kept]
    return trials, left


def closing(found: Findings, walk: Walk, recipe: Path, given: Sequence[str]) -> str:
    """What was found, and the whole command that goes on from it; ``given`` are the options of ``--set`` so far."""
    everything = f"see {walk.work / FOLDER / 'search.md'}"
    if not found.latencies:
        return "No candidate could be built, and each is told above with what is wrong with it; name others in search.candidates"
    if found.best is None:
        return (
            f"No student takes at most {found.budget_ms:g} ms, so none was trained: {found.nearest}; {everything} for what each "
            "takes, and raise --budget-ms"
        )
    source, default = walk.source, Path("work") / walk.recipe.name
    options = {
        "--data": source.data,
        "--query-log": source.query_log,
        "--out": walk.work if walk.work != default else None,
        "--registry": source.registry if source.registry != Source().registry else None,
    }
    parts = [part for option, path in options.items() if path is not None for part in (option, str(path))]
    changes = [*given, *overrides(with_best(walk.recipe, found), walk.recipe)]
    parts += [part for change in changes for part in ("--set", change)]
    command = shlex.join(["python", "-m", "offline", "run", str(recipe), *parts])
    return f"Best within {found.budget_ms:g} ms: {found.best}; all: {everything}. Next: {command}"


def with_best(recipe: Recipe, found: Findings) -> Recipe:
    """The recipe with the best student's section ``distill``."""
    (trial,) = (trial for trial in found.trials if trial.name == found.best)
    return recipe.model_copy(update={"distill": DistillConfig.model_validate(trial.distill)})


def overrides(changed: Recipe, recipe: Recipe) -> list[str]:
    """What makes ``recipe`` so, as options of ``--set``: the whole section, since TOML cannot say that a key is not set."""
    if changed.distill == recipe.distill:
        return []
    return [f"distill={_toml(changed.distill.model_dump(mode='json', exclude_defaults=True))}"]


def _toml(value: object) -> str:
    """JSON is TOML but for tables, and for null, which such a section has nowhere but as a default."""
    if not isinstance(value, Mapping):
        return json.dumps(value)
    return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"


def check_candidates(recipe: Recipe) -> None:
    """Refuse candidates that the recipe names and none could say, before hours go into their teacher.

    Raises:
        RecipeError: as of ``candidates``.
    """
    for number, changes in enumerate(recipe.search.candidates):
        _changed(recipe, changes, number)


def candidates(recipe: Recipe, depth: int, width: int) -> dict[str, Recipe]:
    """The recipe with each candidate's section ``distill``, by a name that says what it is.

    Raises:
        RecipeError: a candidate of ``search.candidates`` is no valid change of ``distill``.
    """
    given = recipe.search.candidates or _usual(depth, width)
    changed = [_changed(recipe, changes, number) for number, changes in enumerate(given)]
    return {_name(changes): variant for changes, variant in zip(given, changed, strict=True)}


def _usual(depth: int, width: int) -> list[dict[str, Any]]:
    """From a vector a token to half of the teacher's layers, whole and thinner; the first and the last layer are always in."""
    spread = [sorted({round(i * (depth - 1) / max(1, count - 1)) for i in range(count)}) for count in (1, 2, 3)]
    found: list[dict[str, Any]] = [{"student": "static", "mixers": 0}, {"student": "static", "mixers": 1}]
    found += [{"student": "layers", "layers": layers} for layers in spread]
    found += [{"student": "narrow", "layers": layers, "ffn": 2 * width} for layers in spread[1:2]]
    found += [{"student": "narrow", "layers": layers, "width": width // 2} for layers in spread[1:]]
    unique = {json.dumps(changes): changes for changes in found}
    return list(unique.values())


def _name(changes: Mapping[str, Any]) -> str:
    """``layers-0-5``, ``narrow-0-5-ffn768``: also the name of a folder."""
    parts = [str(changes.get("student", "layers")), *map(str, changes.get("layers", ()))]
    parts += [f"{key}{value}" for key, value in changes.items() if key not in ("student", "layers")]
    return "".join(letter if letter.isalnum() or letter in "-._" else "_" for letter in "-".join(parts))


def _changed(recipe: Recipe, changes: Mapping[str, Any], number: int) -> Recipe:
    before = recipe.distill.model_dump(exclude_unset=True)
    is_another_kind = "student" in changes or ("backbone" if recipe.distill.backbone is None else "layers") in changes
    if is_another_kind:
        before = {key: value for key, value in before.items() if key not in _OF_A_KIND}
    try:
        section = DistillConfig.model_validate({**before, **changes})
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise RecipeError(f"search.candidates.{number}.{where}: {error.errors()[0]['msg']}") from error
    check_distill(section, f"search.candidates.{number}")
    return recipe.model_copy(update={"distill": section})


def _stage(name: str, run: Any, sections: tuple[str, ...]) -> Stage:
    needs = _NEEDS if name == "lesson" else (*_NEEDS, f"{FOLDER}/lesson")
    return Stage(name=f"{FOLDER}/{name}", run=run, needs=needs, sections=sections, outside=_outside)


def _outside(recipe: Recipe, source: Source) -> Mapping[str, Any]:
    return {**distill.STAGE.outside(recipe, source), "max_queries": recipe.search.max_queries}


def _depth(walk: Walk) -> int:
    return int(backbone_of(_teacher(walk.work / "train")).config.num_hidden_layers)


def _width(walk: Walk) -> int:
    return int(backbone_of(_teacher(walk.work / "train")).config.hidden_size)


def _teacher(train: Path) -> SentenceTransformer:
    return load_tower(train / "query_tower")


def _lesson(job: Job) -> Summary:
    """Texts and the teacher's vectors of them, the same for all candidates."""
    config, spec = job.recipe.distill, job.recipe.text.query
    texts, given = choose_texts(Prepared(job.inputs["prepare"]), spec, config)
    np.save(job.folder / "vectors.npy", teach(_teacher(job.inputs["train"]), spec, texts, job.folder / _TEACHER))
    write_text(job.folder / "lesson.json", json.dumps({"texts": texts, "given": given}))
    return {"texts": len(texts)}


def _read_lesson(folder: Path) -> Lesson:
    content = json.loads((folder / "lesson.json").read_text(encoding="utf-8"))
    return Lesson(content["texts"], content["given"], np.load(folder / "vectors.npy"))


def _latencies(job: Job, recipes: Mapping[str, Recipe]) -> Summary:
    """Time every candidate's graph, fp32 and int8, and the teacher's, by turns. One that cannot be built is told and left out."""
    prepared, spec = Prepared(job.inputs["prepare"]), job.recipe.text.query
    teacher, lesson = _teacher(job.inputs["train"]), _read_lesson(job.inputs["lesson"])
    texts = [render_query(spec, text) for text in probe_queries(prepared, _TIMED_TEXTS)]
    graphs = _graphs(job, _TEACHER, teacher, lesson.texts, int8=False)
    for name, recipe in recipes.items():
        try:
            student = distill.begin(Job(recipe, job.source, job.folder, job.inputs), teacher, lesson.texts)
        except (BackboneError, RecipeError) as error:
            say(f"  {name} is left out: {error}")
            continue
        graphs |= _graphs(job, name, student, lesson.texts, int8=recipe.export.precision != "fp32")
    taken = measure(graphs, texts)
    students = {name: _latency(job.folder, name, taken) for name in recipes if f"{name}.fp32" in taken}
    content = {"teacher": taken[f"{_TEACHER}.fp32"], "students": students}
    write_text(job.folder / "latency.json", json.dumps(content, indent=2))
    for path in job.folder.glob("*.onnx"):
        path.unlink()
    return {"candidates": len(students), "teacher_ms": taken[f"{_TEACHER}.fp32"]}


def _graphs(job: Job, name: str, tower: SentenceTransformer, texts: Any, int8: bool) -> dict[str, Graph]:
    """The tower's graphs, by ``name.fp32`` and ``name.int8``."""
    say(f"  tracing {name}")
    spec, pad = job.recipe.text.query, int(tower.tokenizer.pad_token_id or 0)
    model, tokenizer = to_onnx(tower.to("cpu").float().eval()), job.folder / f"{name}.tokenizer.json"
    write_tokenizer(tower, tokenizer)
    paths = {"fp32": job.folder / f"{name}.fp32.onnx", "int8": job.folder / f"{name}.int8.onnx"}
    write_graph(model, "", paths["fp32"])
    graphs = {f"{name}.fp32": Graph.open(paths["fp32"], tokenizer, spec, pad_token_id=pad)}
    if int8:
        feeds = (graphs[f"{name}.fp32"].feed([text]) for text in texts[:_CALIBRATION_TEXTS])
        write_graph(static_int8(model, observe(model, feeds)), "", paths["int8"])
        graphs[f"{name}.int8"] = Graph.open(paths["int8"], tokenizer, spec, pad_token_id=pad)
    return graphs


def _latency(folder: Path, name: str, taken: Mapping[str, float]) -> dict[str, float | None]:
    fp32, int8 = taken[f"{name}.fp32"], taken.get(f"{name}.int8")
    faster = "int8" if int8 is not None and int8 < fp32 else "fp32"
    return {"fp32": fp32, "int8": int8, "megabytes": (folder / f"{name}.{faster}.onnx").stat().st_size / 1e6}


def _trial(walk: Walk, name: str, recipe: Recipe, latency: Latency, texts: int) -> Trial:
    """The candidate after so many texts; from its receipt where that fits."""
    stage = _stage(f"{name}-{texts}", partial(_train, texts=texts), ("text", "distill", "data"))
    outcome = walk.run_stage(stage, recipe)
    changes = recipe.distill.model_dump(mode="json", exclude_defaults=True)
    return Trial(
        name=name,
        distill=changes,
        latency=latency,
        texts=texts,
        retained=float(outcome.summary["retained"] or 0.0),
        parameters=int(outcome.summary["parameters"] or 0),
    )


def _train(job: Job, texts: int) -> Summary:
    """A short training, and what of the teacher's quality is left."""
    lesson, teacher = _read_lesson(job.inputs["lesson"]), _teacher(job.inputs["train"])
    brief = job.recipe.distill.model_copy(update={"epochs": texts / len(lesson.texts)})
    short = Job(job.recipe.model_copy(update={"distill": brief}), job.source, job.folder, job.inputs)
    student = distill.begin(short, teacher, lesson.texts)
    parameters = count_parameters(student)
    distill.learn(short, student, lesson)
    trained = load_tower(job.folder / distill.STUDENT)
    return {"retained": retained(job, teacher, trained), "parameters": parameters}


def _judged(prepared: Prepared, recipe: Recipe) -> Judged:
    return judged_for_gate(prepared, recipe).sample(recipe.search.max_queries, recipe.evaluate.seed)


def _quality(prepared: Prepared, recipe: Recipe) -> str:
    """What ``retained`` is a share of, in words."""
    judged = _judged(prepared, recipe)
    if len(judged):
        return f"{NDCG} on {len(judged):,} {judged.split} queries"
    return f"ten best documents of {len(probe_queries(prepared, recipe.search.max_queries)):,} unjudged queries"


def retained(job: Job, teacher: SentenceTransformer, student: SentenceTransformer) -> float:
    """The student's nDCG@10 over the teacher's against the document vectors, on dev queries (else training pairs).

    Without any judgement, the share of the teacher's ten best documents that the student finds.
    """
    prepared, spec, documents = Prepared(job.inputs["prepare"]), job.recipe.text.query, load_vectors(job.inputs["encode"])
    judged = _judged(prepared, job.recipe)
    raw = judged.texts or probe_queries(prepared, job.recipe.search.max_queries)
    texts = [render_query(spec, text) for text in raw]
    depth = judged.depth(_DEPTH)
    ours, theirs = (exact_top_k(encode(tower, spec, texts), documents, depth)[1] for tower in (student, teacher))
    if len(judged):
        whole = float(np.mean(ndcg(judged, theirs)))
        if whole > 0:
            return float(np.mean(ndcg(judged, ours))) / whole
    return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(ours, theirs, strict=True)]))
