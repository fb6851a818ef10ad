"""Snapshots whose files are not those that were sealed, and manifests that nobody has sealed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from snapshot.layout import Layout
from tests.faults.fault import Fault
from tests.faults.stage import Stage
from tests.faults.toys import edit_manifest

FILES = (
    "query_tower/model.onnx",
    "query_tower/tokenizer.json",
    "index/index.faiss",
    "documents/part-00000.arrow",
    "golden/queries.json",
    "golden/vectors.npy",
    "golden/rows.npy",
    "report/report.md",
)
"""Every file of a snapshot but its manifest."""
_BILLION = 10**9
_MANIFEST_REFUSED = "manifest_invalid|snapshot_unknown|snapshot_damaged|file_missing|hash_mismatch"


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """One bit, in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    os.truncate(path, 0)


_DAMAGES: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncate, "hash_mismatch"),
    "flipped": (flip, "hash_mismatch"),
    "empty": (empty, "hash_mismatch"),
    "missing": (Path.unlink, "file_missing"),
}


def faults() -> list[Fault]:
    """Every damage to every file, then what manifests can claim."""
    damaged = [
        Fault(f"{damage}_{_short(name)}", "refused", partial(_damaged, name=name, damage=damage), name == FILES[2])
        for damage in _DAMAGES
        for name in FILES
    ]
    manifests = [
        Fault(f"{damage}_manifest", "refused", partial(_damaged_manifest, damage=make), quick=True)
        for damage, (make, _) in _DAMAGES.items()
    ]
    extra = [
        Fault("extra_file", "refused", partial(_changed, change=_extra, code="file_extra"), quick=True),
        Fault("extra_folder_of_documents", "refused", partial(_changed, change=_extra_part, code="file_extra")),
    ]
    claims = [
        Fault(name, "refused", partial(_changed, change=change, code=code, is_seen=name not in _SEEN_BY_THE_GATE_ALONE), True)
        for name, change, code in _CLAIMS
    ]
    return [*damaged, *manifests, *extra, *claims]


def _short(name: str) -> str:
    return Path(name).stem.replace("-", "_") if "golden" not in name else f"golden_{Path(name).stem}"


def _damaged(stage: Stage, name: str, damage: str) -> str:
    make, code = _DAMAGES[damage]
    return _changed(stage, lambda layout: make(layout.root / name), code)


def _damaged_manifest(stage: Stage, damage: Callable[[Path], None]) -> str:
    return _changed(stage, lambda layout: damage(layout.manifest), _MANIFEST_REFUSED)


def _changed(stage: Stage, change: Callable[[Layout], None], code: str, *, is_seen: bool = True) -> str:
    """Refused by the service and, where it ``is_seen`` without opening graph and index, by the command that looks."""
    layout = stage.bring()
    change(layout)
    said = stage.refused(layout.root.name, code)
    if stage.thorough and is_seen:
        stage.command("verify", layout.root.name).refused("snapshot verify")
    return said


def _extra(layout: Layout) -> None:
    (layout.root / "extra.bin").write_bytes(b"more")


def _extra_part(layout: Layout) -> None:
    shutil.copy(layout.documents / "part-00000.arrow", layout.documents / "part-00001.arrow")


def _manifest(layout: Layout) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(layout.manifest.read_text())
    return found


def _wrong_hash(layout: Layout) -> None:
    files = _manifest(layout)["files"]
    files["index/index.faiss"]["sha256"] = "ab" * 32
    edit_manifest(layout, files=files)


def _wrong_size(layout: Layout) -> None:
    files = _manifest(layout)["files"]
    files["index/index.faiss"]["bytes"] = 2**40
    edit_manifest(layout, files=files)


def _newer(layout: Layout) -> None:
    edit_manifest(layout, schema_version=99, unheard_of=True)


def _listing(name: str, target: Path | None = None) -> Callable[[Layout], None]:
    """The manifest lists ``name``, a file that exists and whose size and hash are as listed."""

    def change(layout: Layout) -> None:
        outside = target or layout.root / name
        if not outside.exists():
            outside.write_bytes(b"outside the snapshot")
        content = outside.read_bytes()
        entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        edit_manifest(layout, files=_manifest(layout)["files"] | {name: entry})

    return change


def _nested(name: str) -> Callable[[Layout], None]:
    """A file that is there is listed by a detour out of the snapshot and back."""

    def change(layout: Layout) -> None:
        files = _manifest(layout)["files"]
        files[name.format(id=layout.root.name)] = files.pop("index/index.faiss")
        edit_manifest(layout, files=files)

    return change


def _link_file(layout: Layout) -> None:
    """The index is a symbolic link to the same bytes elsewhere."""
    outside = layout.root.parent / "linked-index"
    shutil.move(layout.index, outside)
    layout.index.symlink_to(outside)


def _link_folder(layout: Layout) -> None:
    outside = layout.root.parent / "linked-folder"
    shutil.rmtree(outside, ignore_errors=True)
    shutil.move(layout.index.parent, outside)
    layout.index.parent.symlink_to(outside)


def _link_manifest(layout: Layout) -> None:
    outside = layout.root.parent / "linked-manifest.json"
    shutil.move(layout.manifest, outside)
    layout.manifest.symlink_to(outside)


def _link_to_nothing(layout: Layout) -> None:
    layout.index.unlink()
    layout.index.symlink_to("/dev/zero")


def _pipe(layout: Layout) -> None:
    """Whoever opens it waits for ever."""
    layout.index.unlink()
    os.mkfifo(layout.index)


def _claiming(section: str, **claims: object) -> Callable[[Layout], None]:
    return lambda layout: edit_manifest(layout, **{section: _manifest(layout)[section] | claims})


def _deep(layout: Layout) -> None:
    layout.manifest.write_text("[" * 500_000)


def _other_id(layout: Layout) -> None:
    edit_manifest(layout, id="20200101T000000Z-00000000")


_PATHS = "path_unsafe|manifest_invalid|snapshot_damaged|file_missing|file_extra"
_LINKS = "path_unsafe|manifest_invalid|snapshot_damaged"
_SEEN_BY_THE_GATE_ALONE = ("claimed_golden_queries", "claimed_golden_k", "claimed_dim")
_COUNTS = "count_mismatch|manifest_invalid|wrong_space"
_CLAIMS: tuple[tuple[str, Callable[[Layout], None], str], ...] = (
    ("wrong_hash", _wrong_hash, "hash_mismatch"),
    ("wrong_size", _wrong_size, "hash_mismatch"),
    ("newer_schema", _newer, "schema_newer"),
    ("manifest_parent_path", _listing("../outside.bin"), _PATHS),
    ("manifest_parent_path_and_back", _nested("../{id}/index/index.faiss"), _PATHS),
    ("manifest_absolute_path", _listing("/etc/hostname", Path("/etc/hostname")), _PATHS),
    ("manifest_dotted_path", _nested("./index/index.faiss"), _PATHS),
    ("symlinked_file", _link_file, _LINKS),
    ("symlinked_folder", _link_folder, _PATHS),
    ("symlinked_manifest", _link_manifest, _LINKS),
    ("symlink_to_dev_zero", _link_to_nothing, _LINKS),
    ("pipe_for_a_file", _pipe, _LINKS),
    ("claimed_rows", _claiming("documents", count=_BILLION), _COUNTS),
    ("claimed_golden_queries", _claiming("golden", queries=_BILLION), _COUNTS),
    ("claimed_golden_k", _claiming("golden", k=_BILLION), _COUNTS),
    ("claimed_dim", _claiming("space", dim=65536), _COUNTS),
    ("claimed_effort", _claiming("index", default_effort=_BILLION), "manifest_invalid"),
    ("manifest_of_another_id", _other_id, "manifest_invalid"),
    ("manifest_nested_deeply", _deep, "manifest_invalid"),
)
