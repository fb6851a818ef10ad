"""The layouts that there are, each as a sheet of formulas over the demand, the box, the prices and the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from offline.plan.sheet import Step

_GRAPH = "4 * dim + 8 * m + 4 * m / (m - 1) + 12"
_GRAPH_ABOUT = "float32 vector, 2 M links of 4 bytes on the ground floor, upper floors, level and offset (FAISS, IndexHNSWFlat)"
_LISTS = "16 * sqrt(documents) * dim"
"""Centroids: 4 sqrt(documents) lists of float32."""
_PLACING = "(documents * 4 * sqrt(documents) + 16000 * documents) * 2 * dim / (lists_gflops * 1e9 * 3600)"
"""Core hours of finding each vector's list, among 4 sqrt(documents), and of training those: 25 rounds of 40 points a list."""


@dataclass(frozen=True)
class Layout:
    """One way to serve a corpus.

    Attributes:
        needs_gb: the step that must fit into a box's memory; None where a layout spreads over boxes.
    """

    name: str
    title: str
    about: str
    steps: Sequence[Step]
    needs_gb: str | None


def _encoding(build: str, build_about: str) -> tuple[Step, ...]:
    return (
        Step(
            "encode_core_hours",
            "core h",
            "documents * tokens / (tokens_per_core_second * 3600) * tower_factor",
            "documents through the document tower, once; a tower with more parameters takes proportionally longer",
        ),
        Step("build_core_hours", "core h", build, build_about),
        Step("encode_hours", "h", "encode_core_hours / (encode_boxes * box_cores)", "on encode_boxes"),
        Step("build_hours", "h", "build_core_hours / box_cores", "on one box"),
        Step(
            "once_cost",
            "$",
            "(encode_core_hours + build_core_hours) * (core_hour + box_memory_gb / box_cores * gb_hour)",
            "of encoding and building",
        ),
    )


def _month(boxes: str) -> Step:
    formula = f"730 * {boxes} * (box_cores * core_hour + box_memory_gb * gb_hour) + disk_total_gb * disk_gb_month"
    return Step("month_cost", "$", formula, "730 hours of the boxes, and their disks")


_REPLICAS = (
    Step("least_replicas", "", "ceil(qps * core_ms / (replica_cores * 1000))", "if they were never idle"),
    Step(
        "busy",
        "share",
        "busy_process(core_ms, min(8, least_replicas))",
        "the most that keeps p99_ms with at most 0.1% shed, by simulation",
    ),
    Step("replica_qps", "a second", "busy * replica_cores * 1000 / core_ms", "of one process"),
    Step("replicas", "", "ceil(qps / replica_qps)", "processes of replica_cores"),
    Step("per_box", "", "floor(box_cores / replica_cores)", "processes on a box, which share the mapped index"),
    Step("boxes", "", "ceil(replicas / per_box) + spare_boxes", "with those that may be down"),
)


def _one_box(vector_bytes: Step, search: Step, build: str, build_about: str) -> tuple[Step, ...]:
    return (
        vector_bytes,
        Step("index_gb", "GB", "documents * vector_bytes / 1e9", "the index file, mapped"),
        search,
        Step("core_ms", "core ms", "front_ms + search_ms", "of a search: HTTP, tokenizer, graph, index, fields"),
        Step("alone_p99_ms", "ms", "core_ms * p99_over_mean(1)", "of a search that waits for nothing"),
        *_REPLICAS,
        Step("box_gb", "GB", "copies * index_gb + per_box * private_gb", "memory of a box, while it swaps"),
        Step("disk_gb", "GB", "copies * (index_gb + documents * document_bytes / 1e9)", "of a box: two snapshots"),
        Step("disk_total_gb", "GB", "boxes * disk_gb", "of all boxes"),
        *_encoding(build, build_about),
        _month("boxes"),
    )


HNSW = Layout(
    "hnsw",
    "FAISS HNSW, one box",
    "every replica has the whole graph; the box is copied for more queries",
    _one_box(
        Step("vector_bytes", "B", _GRAPH, _GRAPH_ABOUT),
        Step("search_ms", "core ms", "hnsw_ms(documents) * dim / measured_dim", "one thread, at the recorded effort"),
        "documents * dim / measured_dim / (hnsw_rows_per_core_second * 3600)",
        "all vectors in memory",
    ),
    "box_gb",
)

IVFPQ = Layout(
    "ivfpq",
    "FAISS IVF-PQ, one box",
    "what index.kind = ivfpq builds: codes and, to refine by, the vectors",
    _one_box(
        Step(
            "vector_bytes",
            "B",
            f"4 * dim + dim / 4 + 8 + {_LISTS} / documents",
            "float32 vector, a byte of code for four dimensions, row number, and its part of the centroids",
        ),
        Step("search_ms", "core ms", "ivf_ms(documents) * dim / measured_dim", "one thread, at the recorded effort"),
        f"documents * dim / measured_dim / (ivf_rows_per_core_second * 3600) + {_PLACING}",
        "lists trained, each vector compared with all centroids, codes",
    ),
    "box_gb",
)

SHARDED = Layout(
    "sharded",
    "FAISS RaBitQ, shards on one box",
    "several files, mapped, searched at once and merged: codes in memory, what refines them on disk",
    (
        Step("code_bytes", "B", "dim / 4 + 28", "two bits for each dimension, factors, row number (FAISS, IVF-RaBitQ)"),
        Step("hot_gb", "GB", f"(documents * code_bytes + {_LISTS}) / 1e9", "codes and centroids, in memory"),
        Step("refine_gb", "GB", "documents * 2 * dim / 1e9", "float16 vectors, on disk"),
        Step("vector_bytes", "B", f"code_bytes + 2 * dim + {_LISTS} / documents", "of the files"),
        Step("lists_ms", "core ms", f"{_LISTS} / (lists_gb_per_second * 1e6)", "comparing with all centroids, on one thread"),
        Step(
            "scan_ms",
            "core ms",
            "max(0, ivf_ms(documents) * dim / measured_dim - lists_ms) * rabitq_over_pq",
            "of codes, over one file",
        ),
        Step("least_files", "", "ceil(documents / shard_rows)", "each built by itself in memory (sharded.part_rows)"),
        Step("file_ms", "core ms", "lists_probed * file_list_us / 1000", "of each further file, which begins every list anew"),
        Step(
            "threads",
            "",
            "fewest_threads(front_ms + lists_ms, scan_ms + (least_files - 1) * file_ms, box_cores)",
            "that answer within half of p99_ms when idle",
        ),
        Step(
            "shards",
            "",
            "max(threads, least_files)",
            "files (sharded.part_rows), one for each thread at least",
        ),
        Step("files_ms", "core ms", "scan_ms + (shards - 1) * file_ms", "of a search in all files, on all threads together"),
        Step("core_ms", "core ms", "front_ms + lists_ms + files_ms", "of a search"),
        Step(
            "latency_ms",
            "ms",
            "front_ms + lists_ms + files_ms / threads * slowest(threads)",
            "waiting for the slowest thread, on free cores",
        ),
        Step("alone_p99_ms", "ms", "latency_ms * p99_over_mean(1)", "of a search that waits for nothing"),
        Step("at_once", "", "max(1, floor(box_cores * latency_ms / core_ms))", "searches that a box works on side by side"),
        Step("least_boxes", "", "ceil(qps * core_ms / (box_cores * 1000))", "if they were never idle"),
        Step(
            "busy",
            "share",
            "busy_box(latency_ms, at_once, min(8, least_boxes))",
            "the most that keeps p99_ms with at most 0.1% shed, by simulation",
        ),
        Step("box_qps", "a second", "busy * box_cores * 1000 / core_ms", "by cores"),
        Step(
            "reads",
            "a search",
            "max(k, 10) * refine_factor * ceil(2 * dim / 4096)",
            "pages of 4 kB to refine (few hits as ten), none cached",
        ),
        Step("box_reads_qps", "a second", "disk_reads_per_second / reads", "by disk"),
        Step("replicas", "", "ceil(qps / min(box_qps, box_reads_qps))", "copies of the whole index, a box each"),
        Step("boxes", "", "replicas + spare_boxes", "with those that may be down"),
        Step("box_gb", "GB", "copies * hot_gb + ceil(box_cores / replica_cores) * private_gb", "memory of a box, while it swaps"),
        Step("disk_gb", "GB", "copies * (hot_gb + refine_gb + documents * document_bytes / 1e9)", "of a box: two snapshots"),
        Step("disk_total_gb", "GB", "boxes * disk_gb", "of all boxes"),
        *_encoding(
            f"documents * dim / measured_dim / (ivf_rows_per_core_second * 3600) + {_PLACING}",
            "lists trained, then file by file, out of core: each vector compared with all centroids, codes",
        ),
        _month("boxes"),
    ),
    "box_gb",
)

MILVUS = Layout(
    "milvus",
    "Milvus cluster, HNSW",
    "segments spread over query nodes, the service in front of them; copied in memory for more queries",
    (
        Step("vector_bytes", "B", _GRAPH, "as FAISS's, of whose fork Milvus is made"),
        Step("index_gb", "GB", "documents * vector_bytes / 1e9", "all segments"),
        Step("segment_rows", "", "milvus_segment_gb * 1e9 / (4 * dim)", "of a sealed segment"),
        Step("segments", "", "ceil(documents / segment_rows)", "each an index of its own, all of them searched"),
        Step("segment_ms", "core ms", "hnsw_ms(min(documents, segment_rows)) * dim / measured_dim", "one segment, one thread"),
        Step("memory_gb", "GB", "copies * index_gb * milvus_memory", "of one copy in memory, while generations change"),
        Step("group_nodes", "", "ceil(memory_gb / (milvus_full * box_memory_gb))", "query nodes of one copy"),
        Step("engine_core_ms", "core ms", "milvus_ms + segments * segment_ms", "of a search, over all nodes"),
        Step("core_ms", "core ms", "front_ms + engine_core_ms", "of a search, the service's part with it"),
        Step(
            "latency_ms",
            "ms",
            "front_ms + milvus_ms + ceil(segments / (group_nodes * box_cores)) * segment_ms * slowest(min(segments, 1e4))",
            "rounds of segments on free cores, waiting for the slowest",
        ),
        Step("alone_p99_ms", "ms", "latency_ms * p99_over_mean(1)", "of a search that waits for nothing"),
        Step("at_once", "", "max(1, floor(group_nodes * box_cores * latency_ms / core_ms))", "of one copy"),
        Step("least_groups", "", "ceil(qps * engine_core_ms / (group_nodes * box_cores * 1000))", "if they were never idle"),
        Step(
            "busy",
            "share",
            "busy_box(latency_ms, at_once, min(8, least_groups))",
            "the most that keeps p99_ms with at most 0.1% shed, by simulation",
        ),
        Step(
            "replicas",
            "",
            "ceil(qps * engine_core_ms / (busy * group_nodes * box_cores * 1000))",
            "copies in memory (replica_number)",
        ),
        Step("shards", "", "segments", "segments of a copy"),
        Step("service_replicas", "", "ceil(qps * front_ms / (busy * replica_cores * 1000))", "of the service, which encodes"),
        Step("service_boxes", "", "ceil(service_replicas / floor(box_cores / replica_cores))", ""),
        Step(
            "boxes",
            "",
            "replicas * group_nodes + service_boxes + milvus_other_boxes + spare_boxes",
            "with coordinators, etcd, log and object store",
        ),
        Step("box_gb", "GB", "memory_gb / group_nodes", "memory of a query node"),
        Step(
            "disk_total_gb",
            "GB",
            "copies * (index_gb + documents * (4 * dim + document_bytes) / 1e9)",
            "in the object store: vectors, fields and indexes",
        ),
        Step("disk_gb", "GB", "disk_total_gb", "likewise"),
        *_encoding("documents * dim / measured_dim / (hnsw_rows_per_core_second * 3600)", "segment by segment, on index nodes"),
        _month("boxes"),
    ),
    None,
)

LAYOUTS = (HNSW, IVFPQ, SHARDED, MILVUS)
