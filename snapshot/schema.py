"""docs/snapshot-format.md, generated from the types so that it cannot be false."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from dataclasses import fields

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from snapshot.history import Event
from snapshot.manifest import MAX_FILES, MAX_MANIFEST_BYTES, SCHEMA_VERSION, Manifest
from snapshot.paths import ID_PATTERN, MAX_PATH

_HEAD = f"""# The snapshot format, schema version {SCHEMA_VERSION}

Written by `python -m snapshot schema`; a test compares. A snapshot is an immutable folder named by its id. Its
manifest is written last: a folder without a manifest does not exist.

```
<registry>/
  CURRENT                      id of the snapshot that operators want served (atomic rename)
  history.jsonl                who wanted what, when and why, and what came of it; one Event a line, append only
  PINS                         ids that gc never removes, one a line
  .lock                        flock of whoever writes
  .pulling-<id>                what a pull has so far, with a flock while it works; gc takes it when nobody has for an hour
  .incoming-*, .removed-*      snapshots on their way in or out, with a flock while somebody works on them; they do not exist
  <id>/
    manifest.json              the tables below; who serves the snapshot holds a shared flock on it
    manifest.sig               Ed25519 signature of the manifest's bytes, 64 bytes, if it was signed
    query_tower/model.onnx     input_ids, attention_mask int64[b, t] -> sentence_embedding float32[b, dim], L2-normalised;
                               the metadata entry scalingnote.space carries the fingerprint of the document space
    query_tower/tokenizer.json of the library tokenizers; padding and truncation come from the manifest
    teacher_tower/             model.onnx, tokenizer.json of the tower that it was distilled from, if `teacher_tower` says so;
                               as large as the teacher, and opened only to compare a share of live queries with it
    index/index.faiss          row i of the index is row i of the documents; an index of kind `sharded` has part-00000.faiss
                               and on in its place, whose rows follow one another; one of kind `milvus` has no file: its rows
                               are in the collection that the manifest names
    documents/*.arrow          Arrow IPC, not compressed, without dictionaries: id, then the columns; memory-mapped
    documents/text_sha256.npy  uint8[rows, 32], sha256 of each document's text as document_text renders it (UTF-8): what an
                               incremental snapshot compares; older snapshots have none
    golden/queries.json        raw probe queries
    golden/vectors.npy         float32[q, dim], their vectors by the torch tower
    golden/rows.npy            int64[q, k], their best rows by exact search with those vectors
    report/                    evaluation, retention, parity, plots
```

The service checks, in this order: signature (before anything is parsed), schema version, ids and paths, set of files, sizes and
sha256 (before any parser sees a byte), counts, the space fingerprint inside the graph against `space.fingerprint`, golden
vectors, golden hits. Any failure is a refusal by name.

Names stay inside their folders, on every file system: an id matches `{ID_PATTERN}` and is none of the registry's own
files, a path has at most {MAX_PATH} characters, no `..`, backslash, colon or control character, and no two differ in case only.
Symbolic links are refused wherever they are. A manifest has at most {MAX_MANIFEST_BYTES >> 20} MiB and {MAX_FILES} files.

An event is written to `history.jsonl` before `CURRENT` is replaced. Whether it happened is told by what the next event found
(`previous`), or by `CURRENT`; so a kill between the two leaves the old state. The order of events is that of the lines.
"""


def render_markdown() -> str:
    """The whole page."""
    return _HEAD + (_events() + "".join(_table(model) for model in _models(Manifest, set()))).replace("``", "`")


def _models(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """``model`` and, depth first, every model that its fields mention, each once."""
    if model in seen:
        return
    seen.add(model)
    yield model
    for field in model.model_fields.values():
        for mentioned in _mentioned(field.annotation):
            yield from _models(mentioned, seen)


def _mentioned(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _mentioned(argument)


def _events() -> str:
    """The fields of an event: their types from the class, their meaning from its docstring."""
    summary, _, attributes = inspect.cleandoc(Event.__doc__ or "").partition("\n\nAttributes:\n")
    meanings = {name.strip(): text.strip() for name, _, text in (line.partition(":") for line in attributes.splitlines())}
    types = typing.get_type_hints(Event)
    rows = "".join(f"| `{field.name}` | `{_type(types[field.name])}` | {meanings[field.name]} |\n" for field in fields(Event))
    return f"\n## Event\n\n{' '.join(summary.split())}\n\n| field | type | meaning |\n|---|---|---|\n{rows}"


def _table(model: type[BaseModel]) -> str:
    summary = (model.__doc__ or "").strip()
    rows = "".join(_row(name, field) for name, field in model.model_fields.items())
    return f"\n## {model.__name__}\n\n{summary}\n\n| field | type | meaning |\n|---|---|---|\n{rows}"


def _row(name: str, field: FieldInfo) -> str:
    default = "" if field.is_required() else f" Default: `{field.get_default(call_default_factory=True)!r}`."
    meaning = " ".join((field.description or "").split())
    return f"| `{name}` | `{_type(field.annotation)}` | {meaning}{default} |\n".replace(" |  ", " | ")


def _type(annotation: object) -> str:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(repr(argument) for argument in arguments)
    named = [_type(argument) for argument in arguments if argument is not Ellipsis and not _is_constraint(argument)]
    origin = typing.get_origin(annotation)
    if origin in (tuple, dict, list):
        return f"{origin.__name__}[{', '.join(named)}]"
    return " or ".join("null" if name == "NoneType" else name for name in named)


def _is_constraint(argument: object) -> bool:
    return isinstance(argument, FieldInfo)
