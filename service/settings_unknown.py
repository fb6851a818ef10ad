"""Variables that begin as ours do and are no setting: most are misspelt, and would be ignored without a word."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches

import structlog

from service.settings import PREFIX, described_settings

_OTHERS = frozenset(f"{PREFIX}{name}" for name in ("BALANCER_HOST", "BALANCER_PORT", "MEMORY"))
"""Those of deploy/haproxy and docker-compose.yml, which come from the same file where one file is for all."""
_LINKS = re.compile(rf"{PREFIX}(\w+_)?(TEST_\w+|SERVICE_(HOST|PORT\w*)|PORT_\d+_(TCP|UDP|SCTP)\w*)")
"""What Kubernetes puts into the environment where a Service is called as we are; and our own tests."""

_log = structlog.get_logger(__name__)


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str | None]:
    """Those that look like a setting and are none, each with the one that was probably meant. Not their values: secrets."""
    known = [setting.variable for setting in described_settings()]
    names = sorted(name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in known)
    return {name: _meant(name.upper(), known) for name in names if not _is_others(name.upper(), environment[name])}


def warn_of_unknown(environment: Mapping[str, str]) -> None:
    """A line of the log for each. No error: an environment may be shared with what is not ours."""
    for name, meant in unknown_variables(environment).items():
        _log.warning("setting_unknown", variable=name, did_you_mean=meant)


def _is_others(name: str, value: str) -> bool:
    return name in _OTHERS or _LINKS.fullmatch(name) is not None or (name.endswith("_PORT") and "://" in value)


def _meant(name: str, known: list[str]) -> str | None:
    """Without the prefix, which would make any two alike."""
    ours = [one.removeprefix(PREFIX) for one in known if one.startswith(PREFIX)]
    close = get_close_matches(name.removeprefix(PREFIX), ours, n=1)
    return f"{PREFIX}{close[0]}" if close else None
