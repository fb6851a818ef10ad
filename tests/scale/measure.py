"""``python -m tests.scale.measure``: the engines' and the encoder's figures that ``offline/plan/figures.toml`` holds.

Growth of a search is counted in distances computed (FAISS's own counters), which do not depend on what else the machine does;
rates are CPU seconds of one thread, best of the rounds. Vectors are those of the bench: real ones and synthetic ones around them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from offline.config import IndexConfig
from offline.index import build, sizes_of
from offline.plan.bench import figures_of
from offline.ranking import Floats, exact_top_k
from tests.bench.cache import Cache
from tests.bench.corpus import load_corpus
from tests.bench.scale import K
from tests.bench.vectors import clustered, real_vectors

_RECALL = 0.95
_QUERIES = 500
_NOISE = 0.02
_SEARCHES = 3
_TOKENS = (32, 64, 128, 256)
_TEXTS = 128


@dataclass(frozen=True)
class Counted:
    """What one search computes at the recall asked for.

    Attributes:
        distances: to vectors or to codes, and to the centroids of lists.
        effort: efSearch or nprobe, between two that were tried.
    """

    rows: int
    distances: float
    effort: float


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scale.measure", description=__doc__)
    parser.add_argument("--rows", type=lambda text: [int(each) for each in text.split(",")], default=[10_000, 30_000, 100_000])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/tldr"))
    parser.add_argument("--cache", type=Path, default=Path("work/bench"))
    parser.add_argument("--only", choices=["growth", "codes", "encode"], help="one part")
    parser.add_argument(
        "--bench", type=Path, help="print what this JSON of make bench says as tables of figures.toml, and measure nothing"
    )
    given = parser.parse_args(argv)
    if given.bench is not None:
        print(bench_tables(given.bench))
        return 0
    cache = Cache(given.cache)
    corpus = load_corpus(cache, given.data)
    real = real_vectors(cache, corpus)
    if given.only in (None, "growth"):
        show_growth(real, given.rows)
    if given.only in (None, "codes"):
        show_codes(real, given.rows[-1])
        show_lists(real.shape[1])
    if given.only in (None, "encode"):
        show_encoding([f"{title}. {text}" for title, text in zip(corpus.titles, corpus.texts, strict=True)])
    return 0


def bench_tables(path: Path) -> str:
    """TOML of the figures that a bench says."""
    figures, shape = figures_of(json.loads(path.read_text(encoding="utf-8")), str(path))
    lines = []
    for name, each in figures.items():
        ends = f"low = {each.least:g}\nhigh = {each.greatest:g}\n" if each.least < each.greatest else ""
        about = f'unit = "{each.unit}"\nkind = "{each.kind}"\ndate = {each.date}\nsource = "{each.source}"\n'
        lines.append(f"[figures.{name}]\nmid = {each.mid:g}\n{ends}{about}")
    lines.append(
        f'[shape]\nshares = {list(shape.shares)}\nquantiles_ms = {list(shape.quantiles_ms)}\nsource = "{shape.source}"\n'
    )
    return "\n".join(lines)


def show_growth(real: Floats, sizes: Sequence[int]) -> None:
    """The exponent of the distances over rows, between sizes, at the same recall."""
    for kind, count in {"hnsw": count_hnsw, "ivfpq": count_ivf}.items():
        found = [count(vectors_of(real, rows), rows) for rows in sizes]
        for each in found:
            print(f"{kind} {each.rows}: {each.distances:.0f} distances at recall@{K} {_RECALL}, effort {each.effort:.1f}")
        for before, after in itertools.pairwise(found):
            exponent = math.log(after.distances / before.distances) / math.log(after.rows / before.rows)
            print(f"FIGURE {kind}_growth {before.rows}..{after.rows} {exponent:.3f}")


def vectors_of(real: Floats, rows: int) -> tuple[Floats, Floats]:
    """Vectors float32[rows, dim], and queries beside some of the synthetic ones, of which every size has some."""
    vectors = clustered(real, rows)[0]
    random = np.random.default_rng(5)
    queries = vectors[random.integers(len(real), rows, size=_QUERIES)] + random.normal(
        scale=_NOISE, size=(_QUERIES, vectors.shape[1])
    ).astype(np.float32)
    return vectors, queries / np.linalg.norm(queries, axis=1, keepdims=True)


def count_hnsw(data: tuple[Floats, Floats], rows: int) -> Counted:
    """The bench's graph."""
    vectors, queries = data
    index, seconds = timed(
        lambda: build("hnsw", sizes_of("hnsw", IndexConfig(m=16, ef_construction=100), *vectors.shape), vectors)
    )
    print(f"FIGURE hnsw_rows_per_core_second {rows} {rows / seconds:.0f}")

    def search(effort: int) -> tuple[float, np.ndarray]:
        faiss.cvar.hnsw_stats.reset()
        found = index.search(queries, K, params=faiss.SearchParametersHNSW(efSearch=effort))[1]
        return faiss.cvar.hnsw_stats.ndis / len(queries), found

    return at_recall(search, rows, exact_top_k(queries, vectors, K)[1], [2**n for n in range(3, 11)])


def count_ivf(data: tuple[Floats, Floats], rows: int) -> Counted:
    """The recipe's IVF-PQ with refinement."""
    vectors, queries = data
    sizes = sizes_of("ivfpq", IndexConfig(), *vectors.shape)
    index, seconds = timed(lambda: build("ivfpq", sizes, vectors))
    print(f"FIGURE ivf_rows_per_core_second {rows} {rows / seconds:.0f}")

    def search(effort: int) -> tuple[float, np.ndarray]:
        faiss.cvar.indexIVF_stats.reset()
        probes = faiss.SearchParametersIVF(nprobe=effort)
        given = faiss.IndexRefineSearchParameters(k_factor=sizes["refine_factor"], base_index_params=probes)
        found = index.search(queries, K, params=given)[1]
        return faiss.cvar.indexIVF_stats.ndis / len(queries) + sizes["nlist"], found

    return at_recall(search, rows, exact_top_k(queries, vectors, K)[1], [2**n for n in range(sizes["nlist"].bit_length())])


def at_recall(search: Callable[[int], tuple[float, np.ndarray]], rows: int, exact: np.ndarray, efforts: Sequence[int]) -> Counted:
    """Between the two efforts on either side of the recall, along a straight line in their logarithms."""
    before: tuple[float, float, float] | None = None
    for effort in efforts:
        distances, found = search(effort)
        recall = float(
            np.mean([len(set(ours) & set(best)) / K for ours, best in zip(found.tolist(), exact.tolist(), strict=True)])
        )
        if recall >= _RECALL:
            if before is None or recall == before[0]:
                return Counted(rows, distances, effort)
            part = (_RECALL - before[0]) / (recall - before[0])
            between = [
                math.exp((1 - part) * math.log(old) + part * math.log(new))
                for old, new in zip(before[1:], (distances, effort), strict=True)
            ]
            return Counted(rows, *between)
        before = recall, distances, float(effort)
    raise RuntimeError(f"recall {_RECALL} is not reached with {rows} rows by effort {efforts[-1]}")


def show_codes(real: Floats, rows: int) -> None:
    """RaBitQ beside PQ, in the same lists with the same probes: CPU of a search, bytes of a code, recall of 100 candidates."""
    vectors, queries = vectors_of(real, rows)
    dim, lists = vectors.shape[1], sizes_of("ivfpq", IndexConfig(), *vectors.shape)["nlist"]
    indexes, exact = {}, exact_top_k(queries, vectors, K)[1]
    for name, index in _coded(dim, lists).items():
        index.train(vectors[: 64 * lists])
        _, seconds = timed(lambda index=index: index.add(vectors))
        index.nprobe = 32
        indexes[name] = index
        print(f"{name}: {index.code_size} bytes a code, {rows / seconds:.0f} rows added a core second")
    best = dict.fromkeys(indexes, math.inf)
    faiss.omp_set_num_threads(1)
    for _ in range(_SEARCHES):
        for name, index in indexes.items():
            best[name] = min(best[name], timed(lambda index=index: index.search(queries, 10 * K))[1])
    for name, index in indexes.items():
        found = index.search(queries, 10 * K)[1]
        recall = np.mean(
            [len(set(ours) & set(nearest)) / K for ours, nearest in zip(found.tolist(), exact.tolist(), strict=True)]
        )
        ratio, each_ms = best[name] / best["pq"], best[name] / len(queries) * 1e3
        print(f"FIGURE {name}_over_pq {rows} {ratio:.3f} ({each_ms:.3f} ms, 10@100 {recall:.3f})")


def _coded(dim: int, lists: int) -> dict[str, faiss.IndexIVF]:
    pq = faiss.IndexIVFPQ(faiss.IndexFlatIP(dim), dim, lists, dim // 4, 8, faiss.METRIC_INNER_PRODUCT)
    bits = {
        f"rabitq_{bits}": faiss.IndexIVFRaBitQ(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT, True, bits)
        for bits in (1, 2)
    }
    return {"pq": pq, **bits}


def show_lists(dim: int) -> None:
    """Comparing one query with as many centroids as ten million, and a billion, documents have; and many, when adding."""
    faiss.omp_set_num_threads(1)
    random = np.random.default_rng(0)
    for lists in (12_649, 126_491):
        coarse = faiss.IndexFlatIP(dim)
        coarse.add(random.standard_normal((lists, dim), np.float32))
        queries = random.standard_normal((512, dim), np.float32)
        one = (
            min(
                timed(lambda coarse=coarse, queries=queries: [coarse.search(queries[n : n + 1], 64) for n in range(8)])[1]
                for _ in range(_SEARCHES)
            )
            / 8
        )
        many = min(timed(lambda coarse=coarse, queries=queries: coarse.search(queries, 1))[1] for _ in range(_SEARCHES))
        print(f"FIGURE lists_gb_per_second {lists} {4 * lists * dim / one / 1e9:.2f} ({one * 1e3:.2f} ms)")
        print(f"FIGURE lists_gflops {lists} {2 * lists * dim * len(queries) / many / 1e9:.1f}")


def show_encoding(texts: Sequence[str]) -> None:
    """Tokens a core second through the demo's document tower, in batches of texts of one length."""
    import torch

    from offline import towers
    from snapshot.manifest import TextSpec
    from tests.bench.students import BACKBONE

    torch.set_num_threads(1)
    tower = towers.build_tower(BACKBONE).to("cpu").float().eval()
    body = sum(each.numel() for name, each in tower.named_parameters() if "embeddings" not in name)
    print(f"parameters without embeddings: {body}")
    many = " ".join(texts).split()
    for tokens in _TOKENS:
        chunks = [" ".join(many[start : start + tokens]) for start in range(0, _TEXTS * tokens, tokens)]
        spec = TextSpec(max_tokens=tokens)
        rates = []
        for _ in range(_SEARCHES):
            _, seconds = timed(lambda chunks=chunks, spec=spec: towers.encode(tower, spec, chunks, batch_size=64))
            rates.append(len(chunks) * tokens / seconds)
        print(f"FIGURE tokens_per_core_second {tokens} {max(rates):.0f} (least {min(rates):.0f})")


def timed(work: Callable[[], object]) -> tuple[object, float]:
    """What it gives, and the CPU seconds of all threads that it took."""
    before = time.process_time()
    given = work()
    return given, time.process_time() - before


if __name__ == "__main__":
    raise SystemExit(main())
