"""What a run says at its end: what it brought into the registry, and what is served by that."""

from __future__ import annotations

import json

from offline.publish import reason
from offline.walk import Walk
from snapshot.registry import Registry


def after_run(walk: Walk) -> str:
    """The last line of ``run``."""
    registry, published = walk.source.registry, walk.published()
    serve = f"Serve it with: python -m service --registry {registry}{_server(walk)}"
    return (
        f"Published {published} in {registry}; its proof: {walk.work / 'evaluate' / 'report.md'}. "
        f"{_short(walk)}{_not_desired(walk, published) or serve}"
    )


def after_since(walk: Walk) -> str:
    """The last line of ``run --since``."""
    from offline.since import read_changes  # with torch, which takes seconds

    registry, published, told = walk.source.registry, walk.published("since/publish"), read_changes(walk.work)
    needed = f"; they need{server}" if (server := _server(walk)) else ""
    swap = f"Services that follow {registry} swap to it{needed}; see: python -m snapshot list --registry {registry}"
    return f"Published {published} in {registry}: {told.describe()}. {_not_desired(walk, published) or swap}"


def _short(walk: Walk) -> str:
    """The goals of the report that are missed, which hold nothing back; nothing where there are none."""
    from offline.findings import Goal  # with onnxruntime

    try:
        goals = json.loads((walk.work / "evaluate" / "report.json").read_text(encoding="utf-8"))["goals"]
    except (OSError, ValueError, KeyError):
        return ""
    names = [goal.name for goal in map(Goal.model_validate, goals) if not goal.is_met]
    return f"Short of its goals, which hold nothing back: {', '.join(names)}. " if names else ""


def _server(walk: Walk) -> str:
    """The flag that a service needs for it."""
    return f" --milvus-uri {walk.recipe.milvus.uri}" if walk.recipe.index.kind == "milvus" else ""


def unchanged(walk: Walk) -> str | None:
    """The last line of ``run --since`` where the data is the parent's, which is activated if the recipe says so; else None."""
    from offline.since import read_changes  # as above

    told = read_changes(walk.work)
    if not told.is_same:
        return None
    return (
        f"Nothing changed since {told.parent}: the same {told.documents} documents with the same fields. Nothing is published. "
        f"{_wanted(walk, told.parent)}"
    ).rstrip()


def _wanted(walk: Walk, parent: str) -> str:
    """As for a snapshot that would have been published."""
    registry = Registry(walk.source.registry)
    if parent not in registry.ids():
        return f"It is not in {registry.root}."
    missing = _not_desired(walk, parent)
    if not missing or not walk.recipe.publish.activate:
        return missing
    registry.activate(parent, why=reason(walk.recipe))
    return f"It is activated in {registry.root}, where something else was desired."


def _not_desired(walk: Walk, snapshot_id: str) -> str:
    """What to do where operators want something else, or the recipe does not activate; nothing where it is desired.

    A run that is repeated overrules nobody who activated another snapshot since, so that this must be said.
    """
    root = walk.source.registry
    desired = Registry(root).found()
    if desired == snapshot_id:
        return ""
    return (
        f"It is not served: {desired or 'nothing'} is desired there. "
        f"Activate it with: python -m snapshot activate {snapshot_id} --registry {root}"
    )
