"""Pages of docs/ that are generated, so that they cannot be false: the OpenAPI document and the table of settings."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

from service.app import create_app
from service.main import compose
from service.settings import Settings, described_settings

_HEAD = """# Configuration

Written by `python -m service configuration`; a test compares. Every setting is a flag of `python -m service` and a
variable of the environment; flags win. None is a secret: `GET /info` shows the effective values.
A wrong value is an error at start (exit code 2), never a default; an empty one unsets what is unset by default, but the keys.
A variable `SCALINGNOTE_…` that is no setting is ignored, with a warning in the log (`setting_unknown`) and in the doctor.

| variable | flag | default | effect |
|---|---|---|---|
"""


def render_openapi() -> str:
    """docs/openapi.json."""
    with ExitStack() as undo:
        app = create_app(compose(Settings(registry=Path("registry")), undo))
        return json.dumps(app.openapi(), indent=1, ensure_ascii=False) + "\n"


def render_configuration() -> str:
    """docs/configuration.md."""
    rows = [
        f"| `{setting.variable}` | `{setting.flag}` | {setting.default} | {setting.effect} |\n"
        for setting in described_settings()
    ]
    return _HEAD + "".join(rows)
