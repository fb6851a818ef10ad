"""Snapshots that were sealed so: every hash is right, and what is inside is wrong or means harm."""

from __future__ import annotations

import pickle
import shutil
import struct
from collections.abc import Callable
from functools import partial

import numpy as np
from make_snapshot import fingerprint, make_index, make_oracle, write_index, write_tower
from tokenizers import Tokenizer

from snapshot.layout import Layout
from tests.faults.fault import Fault
from tests.faults.stage import Stage, check
from tests.faults.toys import KIND, ORACLE, OTHER, make, write_marked

_INDEX_HEADER = 37
"""Bytes of a FAISS index before its own: code, d, ntotal, two dummies, is_trained, metric."""
_HUGE = (2**31, 2**40, 2**62)
_DAMAGED = "snapshot_damaged|count_mismatch|wrong_space"


def faults() -> list[Fault]:
    """What does not fit together, then what attacks a parser."""
    wrong = [
        ("wrong_dimension_of_tower", _narrow_tower, "wrong_space"),
        ("wrong_dimension_of_index", _narrow_index, "wrong_space"),
        ("wrong_space", _other_space, "wrong_space"),
        ("wrong_space_by_its_vectors", _other_weights, "golden_failed|gate_golden.*"),
        ("tokenizer_of_another_tower", _other_tokenizer, "golden_failed|gate_golden.*|wrong_space"),
        ("index_of_fewer_rows", _fewer_rows, "count_mismatch"),
        ("documents_of_fewer_rows", _fewer_documents, "count_mismatch"),
        ("index_in_another_order", _other_order, "golden_failed|gate_golden.*"),
        ("index_of_another_kind", _other_kind, "snapshot_damaged"),
        ("tower_that_gives_nan", _nan_tower, "golden_failed|gate_golden.*"),
        ("pickle_in_golden", _pickled, "golden_failed|snapshot_damaged"),
        ("graph_that_is_none", _no_graph, "snapshot_damaged"),
        ("tokenizer_that_is_none", _no_tokenizer, "snapshot_damaged"),
        ("documents_that_are_none", _no_documents, "snapshot_damaged|count_mismatch|manifest_invalid"),
    ]
    sealed = [Fault(name, "refused", partial(_sealed, tamper=tamper, code=code), True) for name, tamper, code in wrong]
    index = [
        Fault(f"hostile_index_{field}", "refused", partial(_patched, field=field, values=values), field == "ntotal")
        for field, values in _PATCHES.items()
    ]
    return [*sealed, *index]


def _sealed(stage: Stage, tamper: Callable[[Layout], None], code: str) -> str:
    made = make(stage.folder, OTHER, tamper=tamper)
    shutil.move(made.root, stage.registry.root / made.root.name)
    return stage.refused(made.root.name, code)


def _narrow_tower(layout: Layout) -> None:
    write_tower(layout, make_oracle(dim=8).table, fingerprint(0))


def _narrow_index(layout: Layout) -> None:
    write_index(layout, make_index(make_oracle(dim=8).documents, KIND)[0])


def _other_space(layout: Layout) -> None:
    """The width is right, and the answers would be of the right form."""
    write_tower(layout, make_oracle(seed=5).table, fingerprint(5))


def _other_weights(layout: Layout) -> None:
    """Another tower that claims the space."""
    write_tower(layout, make_oracle(seed=5).table, fingerprint(0))


def _other_tokenizer(layout: Layout) -> None:
    """The same words, numbered otherwise."""
    tokenizer = Tokenizer.from_file(str(layout.tokenizer))
    text = tokenizer.to_str()
    swapped = text.replace('"apple":', '"\0":').replace('"zinc":', '"apple":').replace('"\0":', '"zinc":')
    check(swapped != text, "the tokenizer has no apple")
    layout.tokenizer.write_text(swapped)


def _fewer_rows(layout: Layout) -> None:
    write_index(layout, make_index(ORACLE.documents[:-1], KIND)[0])


def _fewer_documents(layout: Layout) -> None:
    write_marked(layout, OTHER, rows=len(ORACLE.texts) - 1)


def _other_order(layout: Layout) -> None:
    write_index(layout, make_index(ORACLE.documents[::-1], KIND)[0])


def _other_kind(layout: Layout) -> None:
    write_index(layout, make_index(ORACLE.documents, "flat")[0])


def _nan_tower(layout: Layout) -> None:
    write_tower(layout, np.full_like(ORACLE.table, np.nan), fingerprint(0))


class _Execute:
    """What a pickle can do to whoever reads it."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return exec, ("raise SystemExit('a pickle was executed')",)


def _pickled(layout: Layout) -> None:
    layout.golden_rows.write_bytes(pickle.dumps(_Execute()))


def _no_graph(layout: Layout) -> None:
    layout.model.write_bytes(b"\x08\x09" * 100)


def _no_tokenizer(layout: Layout) -> None:
    layout.tokenizer.write_text('{"version": "1.0"}')


def _no_documents(layout: Layout) -> None:
    (layout.documents / "part-00000.arrow").write_bytes(b"ARROW1\0\0" + b"\xff" * 400)


def _patched(stage: Stage, field: str, values: tuple[int, ...]) -> str:
    """Each value in the place of the true one."""
    said = ""
    for value in values:
        said = _sealed(stage, partial(_patch, field=field, value=value), _DAMAGED)
    return said


def _patch(layout: Layout, field: str, value: int) -> None:
    content = bytearray(layout.index.read_bytes())
    offset, form = _fields(content)[field]
    struct.pack_into(form, content, offset, value)
    layout.index.write_bytes(content)


_PATCHES: dict[str, tuple[int, ...]] = {
    "d": (0, -1, 2**30),
    "ntotal": (-1, 10**9, *_HUGE),
    "levels_size": _HUGE,
    "offsets_size": _HUGE,
    "neighbors_size": _HUGE,
    "codes_size": _HUGE,
    "level": (-1, 1000, 2**30),
    "offset": (10**9, 2**62),
    "neighbor": (-2, 10**9, 2**31 - 1),
    "entry_point": (10**9, 2**31 - 1),
    "max_level": (10**6, 2**31 - 1),
    "storage_ntotal": (0, 10**9, 2**62),
}
"""Where a hostile index lies, and what it claims there."""


def _fields(content: bytes | bytearray) -> dict[str, tuple[int, str]]:
    """Offset and format of what can be patched in an IndexHNSWFlat, as faiss/impl/index_write.cpp writes it."""
    check(content[:4] == b"IHNf", "not the HNSW index that this knows")
    found = {"d": (4, "<i"), "ntotal": (8, "<q")}
    at = _INDEX_HEADER
    for name, width in (("probabilities", 8), ("per_level", 4), ("levels", 4), ("offsets", 8), ("neighbors", 4)):
        (count,) = struct.unpack_from("<Q", content, at)
        found[f"{name}_size"] = at, "<Q"
        found[name.removesuffix("s")] = at + 8 + (8 if name == "offsets" else 0), "<i" if width == 4 else "<Q"
        at += 8 + count * width
    found |= {"entry_point": (at, "<i"), "max_level": (at + 4, "<i")}
    storage = at + 20
    check(content[storage : storage + 4] == b"IxFI", "not the storage that this knows")
    return found | {"storage_ntotal": (storage + 8, "<q"), "codes_size": (storage + _INDEX_HEADER, "<Q")}
