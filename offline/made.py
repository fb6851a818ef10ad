"""Whether what an earlier command left in a work folder is what a stage that runs alone would be made from.

``run`` makes anew what does not fit. A stage alone would read it as it is, and the manifest would name settings that
nothing was trained or measured with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from offline.errors import StageError
from offline.progress import say
from offline.stages import CONFIG, Stage, finished, is_finished
from offline.walk import Walk, stage_of
from snapshot.files import sha256

_SEALED = "pack"
"""A sealed snapshot says itself what it was made from, and another walk may have made it (``offline.reuse``)."""
_REMEDY = "give the settings and the data that it was made with, or make all anew with these: python -m offline run RECIPE"


def check_made(walk: Walk, stages: Sequence[str], of_older_data: bool = False) -> None:
    """See that what ``stages`` need from earlier commands was made as the walk would make it, before one of them runs.

    Args:
        walk: recipe, data and work folder that are asked for.
        stages: those that are about to run, in their order.
        of_older_data: whether other data than is named now deserves a warning only.

    Raises:
        StageError: a stage has not finished, or was made with other settings or from other data.
    """
    for wanted_by, name in _needs(stages, {*stages, _SEALED}):
        _check(walk, name, wanted_by, of_older_data)


def check_read(walk: Walk, stage: str, reader: str) -> None:
    """The same of a stage that a command reads, and of all that it needs; errors as of ``check_made``."""
    for wanted_by, name in (*_needs((stage,), {stage}), (reader, stage)):
        _check(walk, name, wanted_by)


def check_bytes(work: Path, name: str) -> None:
    """Whether the files of a stage are those that it wrote, by their sha256.

    Raises:
        StageError: it has not finished, or a file is another.
    """
    for path, entry in finished(work, name, "what reads it")["outputs"].items():
        if sha256(work / name / path) != entry["sha256"]:
            raise StageError(
                f"{work / name / path}: not the file that the stage {name} wrote; put it back, or remove {work / name} and make "
                "it anew: python -m offline run RECIPE"
            )


def _check(walk: Walk, name: str, wanted_by: str, of_older_data: bool = False) -> None:
    stage = stage_of(name)
    finished(walk.work, name, wanted_by)
    if changed := sorted(_changed(stage, walk)):
        raise StageError(f"{name} in {walk.work} was made with other settings ({', '.join(changed)}); {_REMEDY}")
    if is_finished(stage, walk.work, walk.recipe, walk.source):
        return
    fault = f"{name} in {walk.work} was made from other data, or by another version of this software"
    if not of_older_data:
        raise StageError(f"{fault}; {_REMEDY}")
    say(f"warning: {fault}; it is taken as it is")


def _needs(stages: Iterable[str], known: set[str]) -> Iterator[tuple[str, str]]:
    """Who needs it first, and a stage that is needed, after all that it needs itself; ``known`` grows by what was found."""
    for name in stages:
        for needed in stage_of(name).needs:
            if needed not in known:
                known.add(needed)
                yield from _needs((needed,), known)
                yield name, needed


def _changed(stage: Stage, walk: Walk) -> Iterator[str]:
    """Keys of the recipe that had another value when the stage ran; those that are newer than it count as their defaults."""
    for section in stage.sections:
        before, now = _before(stage, walk, section), getattr(walk.recipe, section).model_dump(mode="json")
        yield from [section] if before is None else _differences(section, before, now)


def _before(stage: Stage, walk: Walk, section: str) -> dict[str, Any] | None:
    model = type(getattr(walk.recipe, section))
    try:
        written = json.loads((walk.work / stage.name / CONFIG).read_text(encoding="utf-8"))
        read: dict[str, Any] = model.model_validate(written[section]).model_dump(mode="json")
    except (OSError, ValueError, KeyError):
        return None
    return read


def _differences(key: str, before: object, now: object) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in before.keys() | now.keys():
            yield from _differences(f"{key}.{name}", before.get(name), now.get(name))
    elif before != now:
        yield key
