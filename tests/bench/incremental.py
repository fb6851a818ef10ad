"""``python -m tests.bench.incremental``: what a snapshot of 1% changed documents costs beside encoding all of them.

Everything is the real walk, on generated texts and a small untrained document tower: how long a document takes does not
depend on what the weights are. The tower is several times cheaper than real ones, so the share here is above theirs:
reading, hashing and sealing 100,000 documents cost the same whatever encodes them.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the helpers of the tests import each other by their plain names

from make_snapshot import WORDS
from tiny_models import make_tiny_bert
from tiny_walk import finish, make_recipe
from tiny_work import assemble

from offline.progress import say
from offline.recipe import Recipe
from offline.since import read_changes
from offline.stages import Source
from offline.walk import SINCE, Walk
from snapshot.registry import Registry

GOAL = "incremental_cost_share"
BOUND = 0.05
_WORDS_PER_DOCUMENT = 24
_BASE = ("prepare", "encode", "export", "index", "pack", "publish")
_WIDTH = 128
_LAYERS = 6


@dataclass(frozen=True)
class Costs:
    """Seconds of each stage of both walks."""

    base: dict[str, float]
    since: dict[str, float]

    @property
    def share(self) -> float:
        """The whole incremental walk but its index, over encoding every document."""
        return sum(seconds for name, seconds in self.since.items() if name != "since/index") / self.base["encode"]

    @property
    def encode_share(self) -> float:
        """The stage ``encode`` alone."""
        return self.since["since/encode"] / self.base["encode"]


def measure(root: Path, rows: int, share: float, kind: str = "flat") -> Costs:
    """Make a snapshot of ``rows`` documents, then one where ``share`` of them are changed, new or dropped."""
    random.seed(17)
    texts = {f"d{row}": _text() for row in range(rows)}
    recipe = _recipe(root, kind)
    walk = Walk(recipe, Source(data=_write(root / "data", texts), registry=root / "registry"), root / "work")
    base = {}
    for name in _BASE:
        if name == "encode":
            _stand_in(root, walk.work)
        base[name] = walk.run(name).seconds
    parent = Registry(root / "registry").layout(walk.published()).root.resolve()
    source = Source(
        data=_write(root / "changed", _changed(texts, int(rows * share))),
        registry=root / "registry",
        parent=parent,
        document_tower=walk.work / "train" / "document_tower",
    )
    later = Walk(recipe, source, walk.work)
    return Costs(base, {name: later.run(name).seconds for name in SINCE})


def _text() -> str:
    return " ".join(random.choices(WORDS, k=_WORDS_PER_DOCUMENT))


def _changed(texts: dict[str, str], count: int) -> dict[str, str]:
    """Half of ``count`` have another text, a quarter are new, a quarter are gone."""
    chosen = random.sample(list(texts), count - count // 4)
    dropped, rewritten = set(chosen[: count // 4]), set(chosen[count // 4 :])
    kept = {key: _text() if key in rewritten else text for key, text in texts.items() if key not in dropped}
    return kept | {f"new-{number}": _text() for number in range(count // 4)}


def _recipe(root: Path, kind: str) -> Recipe:
    backbone = make_tiny_bert(root / "backbone", layers=_LAYERS, width=_WIDTH)
    sections: dict[str, dict[str, object]] = {"index": {"kind": kind, "probe_queries": 100}, "encode": {"shard_rows": 2048}}
    return make_recipe(backbone, **sections)


def _stand_in(root: Path, work: Path) -> None:
    """What training and evaluation would have left: they are not what is measured."""
    for folder, name, layers in (("train", "document_tower", _LAYERS), ("refine", "student", 1)):
        backbone = make_tiny_bert(root / f"backbone-{layers}", layers=layers, width=_WIDTH)
        assemble(backbone, "mean").save_pretrained(str(work / folder / name))
    (work / "evaluate").mkdir()
    (work / "evaluate" / "report.json").write_text('{"retention": null}')
    for folder in ("train", "refine", "evaluate"):
        finish(work / folder)


def _write(folder: Path, texts: dict[str, str]) -> Path:
    folder.mkdir()
    with (folder / "corpus.jsonl").open("w") as handle:
        for key, text in texts.items():
            handle.write(json.dumps({"_id": key, "title": text[:20], "text": text}) + "\n")
    return folder


def goal_line(value: float) -> str:
    return f"GOAL {GOAL} {value:.4f} <={BOUND:g} {'ok' if value <= BOUND else 'short'}"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.incremental", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="documents")
    parser.add_argument("--share", type=float, default=0.01, help="of them changed, new or dropped")
    parser.add_argument("--kind", default="flat", help="of index: flat, hnsw or ivfpq")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        costs = measure(Path(folder), given.rows, given.share, given.kind)
        say(read_changes(Path(folder) / "work").describe())
    for name, seconds in (costs.base | costs.since).items():
        print(f"{name:16} {seconds:8.2f} s")
    print(f"encode alone     {costs.encode_share:8.2%} of encoding all; the whole walk without its index {costs.share:.2%}")
    print(goal_line(costs.share))


if __name__ == "__main__":
    main(sys.argv[1:])
