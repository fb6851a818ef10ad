"""A published snapshot of a tiny, untrained walk, to make others from: towers, student and data are there in a second."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import pytest
from make_snapshot import make_oracle
from tiny_models import make_tiny_bert
from tiny_work import make_student, make_towers, trace_student

from offline import append, encode, export, publish, since
from offline import assemble as assembling
from offline.recipe import Recipe
from offline.stages import CONFIG, INPUTS, RECEIPT, Source, _outputs
from offline.walk import SINCE, Walk
from snapshot.layout import Layout
from snapshot.registry import Registry

ROWS = 60
TEXTS = make_oracle(400).texts
Corpus = dict[str, tuple[str, int]]
"""Text and the metadata ``number`` by id, in the order of the rows."""


def make_corpus(rows: int = ROWS) -> Corpus:
    return {f"d{row}": (TEXTS[row], row) for row in range(rows)}


def write_data(folder: Path, corpus: Corpus, judged: int = 30) -> Path:
    """A folder in BEIR layout; the query of each of the first documents is its first three words, in test and train by turns."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    lines = [
        {"_id": key, "title": text.split()[0], "text": text, "metadata": {"number": number}}
        for key, (text, number) in corpus.items()
    ]
    (folder / "corpus.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    queries = {f"q-{key}": (" ".join(text.split()[1:4]), key) for key, (text, _) in list(corpus.items())[:judged]}
    (folder / "queries.jsonl").write_text(
        "".join(f"{json.dumps({'_id': query, 'text': text})}\n" for query, (text, _) in queries.items())
    )
    for place, split in enumerate(("test", "train")):
        rows = [f"{query}\t{key}\t1\n" for query, (_, key) in list(queries.items())[place::2]]
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows))
    return folder


def make_recipe(backbone: Path, **sections: Mapping[str, object]) -> Recipe:
    settings: dict[str, dict[str, object]] = {
        "text": {"query": {"max_tokens": 16}, "document": {"template": "{title}. {text}", "max_tokens": 64}},
        "train": {"backbone": str(backbone)},
        "encode": {"shard_rows": 7},
        "refine": {"epochs": 0},
        "export": {"precision": "fp32"},
        "index": {"kind": "hnsw", "probe_queries": 20},
        "evaluate": {"bootstrap": 20},
        "pack": {"golden_queries": 12, "golden_k": 5},
    }
    return Recipe.model_validate(
        {"name": "tiny", **{name: settings.get(name, {}) | dict(sections.get(name, {})) for name in settings | sections}}
    )


@dataclass(frozen=True)
class Base:
    """Where a walk was, and what it published."""

    root: Path
    recipe: Recipe

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def registry(self) -> Registry:
        return Registry(self.root / "registry")

    @property
    def parent(self) -> Layout:
        """What the whole walk published; ids of one second are in no order."""
        published = json.loads((self.work / "publish" / "published.json").read_text())
        return self.registry.layout(published["id"])

    @property
    def tower(self) -> Path:
        return self.work / "train" / "document_tower"

    def walk(self, data: Path | None = None, *, parent: Path | None = None, recipe: Recipe | None = None) -> Walk:
        source = Source(
            data=data or self.root / "data",
            registry=self.registry.root,
            parent=(parent or self.parent.root).resolve(),
            document_tower=self.tower,
        )
        return Walk(recipe or self.recipe, source, self.work)

    def with_recipe(self, **sections: Mapping[str, object]) -> Recipe:
        return make_recipe(self.root / "backbone", **sections)

    def copy(self, root: Path) -> Base:
        """The same in another folder, to be changed. Sealed files keep their content, not their inodes."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        return replace(self, root=root)


def make_base(root: Path, rows: int = ROWS, **sections: Mapping[str, object]) -> Base:
    """Run prepare, encode, refine, export, index, pack and publish over an untrained tower and student, and no evaluation."""
    base = Base(root, make_recipe(make_tiny_bert(root / "backbone"), **sections))
    walk = Walk(base.recipe, Source(data=write_data(root / "data", make_corpus(rows)), registry=root / "registry"), base.work)
    walk.run("prepare")
    finish(make_towers(base.work / "train"))
    finish(make_student(base.work / "distill"))
    evaluate = base.work / "evaluate"
    evaluate.mkdir()
    (evaluate / "report.json").write_text('{"retention": null}')
    (evaluate / "report.md").write_text("as it was")
    finish(evaluate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "to_onnx", lambda _: onnx.load_from_string(trace_student()))
        for name in ("encode", "refine", "export", "index", "pack", "publish"):
            walk.run(name)
    return base


def finish(folder: Path) -> None:
    """Give a folder the receipt of a stage that has finished."""
    (folder / INPUTS).write_text('{"inputs": ""}')
    (folder / CONFIG).write_text("{}")
    (folder / RECEIPT).write_text(json.dumps({"inputs": "", "outputs": _outputs(folder), "summary": {}, "seconds": 0}))


def kill(*_: object, **__: object) -> None:
    """As ``kill -9`` from outside: nothing is flushed, caught or cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def after(function: Callable[..., object], calls: int = 1) -> Callable[..., None]:
    """``function``, and a kill when it has been called so many times."""
    seen = []

    def dying(*arguments: object, **named: object) -> None:
        function(*arguments, **named)
        seen.append(None)
        if len(seen) == calls:
            kill()

    return dying


DEATHS: dict[str, tuple[object, str, Callable[[Callable[..., object]], Callable[..., None]]]] = {
    "a shard is encoded": (encode, "write_shard", lambda real: after(real, calls=2)),
    "a shard is carried over": (since, "write_shard", lambda real: after(real, calls=3)),
    "the index is appended": (append, "keeps_recall", lambda _: kill),
    "the index is described": (append, "write_description", after),
    "files are staged": (assembling, "seal", lambda _: kill),
    "it is sealed": (assembling, "seal", after),
    "it is published": (Registry, "activate", lambda _: kill),
    "it is activated": (publish, "write_text", lambda _: kill),
}
"""What is killed when: the module and the name of a function, and what takes its place."""


def die(root: Path, data: Path, when: str) -> None:
    """Walk ``since`` the only snapshot of the base in ``root``, and be killed."""
    owner, name, instead = DEATHS[when]
    setattr(owner, name, instead(getattr(owner, name)))
    walk = Base(root, make_recipe(root / "backbone")).walk(data)
    for stage in SINCE:
        walk.run(stage)
