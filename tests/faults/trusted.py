"""Snapshots that nobody has signed who is trusted, and snapshots that are sound but not what operators mean."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from make_snapshot import make_index, write_index

from snapshot.keys import generate
from snapshot.layout import Layout
from snapshot.registry import Registry
from snapshot.seal import Draft
from snapshot.signing import sign
from tests.faults.fault import Fault
from tests.faults.searches import Searches
from tests.faults.stage import Stage, check, copied_into, serving
from tests.faults.toys import FORMER, KIND, ORACLE, OTHER, edit_manifest, make, write_marked
from tests.live import until

_HALF = len(ORACLE.texts) // 2
_UNSURE = "signature_wrong"


def faults() -> list[Fault]:
    signatures: dict[str, tuple[Callable[[Layout, Path], None], str]] = {
        "not_signed": (lambda layout, keys: None, "signature_missing"),
        "signed_by_another": (_by_another, _UNSURE),
        "signature_of_another": (_of_another, _UNSURE),
        "changed_after_signing": (_changed_after, _UNSURE),
        "signature_empty": (_empty, _UNSURE),
    }
    return [
        *(
            Fault(name, "refused", partial(_signature, change=change, code=code), name == "not_signed")
            for name, (change, code) in signatures.items()
        ),
        Fault("half_of_the_documents", "refused", _half, quick=True),
    ]


def _signature(stage: Stage, change: Callable[[Layout, Path], None], code: str) -> str:
    keys = _keys(stage.folder / "keys")
    with _trusting(stage, keys) as own:
        layout = own.bring()
        change(layout, keys)
        return own.refused(layout.root.name, code, "--key", str(keys / "public.pem"))


def _keys(folder: Path) -> Path:
    folder.mkdir()
    generate(folder / "private.pem", folder / "public.pem")
    return folder


@contextmanager
def _trusting(stage: Stage, keys: Path) -> Iterator[Stage]:
    """A service that trusts one key and serves what that has signed."""
    registry = Registry(stage.folder / "trusting")
    former = make(registry.root, FORMER)
    sign(former.root, keys / "private.pem")
    registry.activate(former.root.name, "for a fault", who="tests")
    flags = ("--trusted-keys", str(keys / "public.pem"), "--require-signature", "true")
    with serving(stage.folder, registry.root, *flags) as live:
        until(live, live.ready, "ready")
        with Searches(live.port, {former.root.name: FORMER}) as searches:
            yield replace(stage, registry=registry, live=live, former=former.root.name, searches=searches)


def _by_another(layout: Layout, keys: Path) -> None:
    sign(layout.root, _keys(keys / "another") / "private.pem")


def _of_another(layout: Layout, keys: Path) -> None:
    """Signed well, and not for this manifest."""
    other = next(path for path in layout.root.parent.iterdir() if path != layout.root and (path / "manifest.sig").is_file())
    shutil.copy(other / "manifest.sig", layout.root / "manifest.sig")


def _changed_after(layout: Layout, keys: Path) -> None:
    """A text that no other check looks at."""
    sign(layout.root, keys / "private.pem")
    edit_manifest(layout, name="another name")


def _empty(layout: Layout, keys: Path) -> None:
    (layout.root / "manifest.sig").write_bytes(b"")


def _half(stage: Stage) -> str:
    """Sound in itself, with half of the documents: refused, unless an operator insists and says why."""

    def halve(layout: Layout) -> None:
        write_marked(layout, OTHER, rows=_HALF)
        write_index(layout, make_index(ORACLE.documents[:_HALF], KIND)[0])
        scores = np.load(layout.golden_vectors) @ ORACLE.documents[:_HALF].T
        found = np.load(layout.golden_rows).shape[1]
        np.save(layout.golden_rows, np.argsort(-scores, axis=1, kind="stable")[:, :found].astype(np.int64))

    made = make(stage.folder, OTHER, tamper=halve, revise=_of_half)
    copied_into(stage.registry, made)
    snapshot_id = made.root.name
    said = stage.refused(snapshot_id, "gate_documents")
    stage.searches.expect(snapshot_id, OTHER)
    stage.registry.activate(snapshot_id, "the other half was sold", who="tests", force=True)
    stage.poke()
    stage.becomes(snapshot_id)
    last = [event for event in stage.registry.history() if event.snapshot == snapshot_id and event.forced]
    check(bool(last), "the history does not say that it was forced")
    return f"{said}; forced, it served"


def _of_half(draft: Draft) -> Draft:
    return replace(draft, documents=draft.documents.model_copy(update={"count": _HALF}))
