"""Who may come in, as the settings have it: a file that is wrong at the start is a wrong setting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry

from service.errors import KeysFileError, SettingsError, TokensError
from service.keys.metrics import KeyMetrics
from service.keys.ring import KeyRing
from service.settings import Settings, flag, variable
from service.tokens import Tokens


def tokens_of(settings: Settings) -> Tokens:
    """Operators' tokens; a file that becomes wrong later only closes operators' routes.

    Raises:
        SettingsError: the file is wrong.
    """
    tokens = Tokens(settings.admin_tokens_file)
    with _as_setting("admin_tokens_file"):
        tokens.table()
    return tokens


def keys_of(settings: Settings, registry: CollectorRegistry) -> KeyRing | None:
    """Callers' keys, None where nobody needs one; while a file that becomes wrong later is wrong, the keys before it hold.

    Raises:
        SettingsError: the file is wrong.
    """
    metrics = KeyMetrics(registry)
    if settings.api_keys_file is None:
        return None
    with _as_setting("api_keys_file"):
        return KeyRing(settings.api_keys_file, metrics)


@contextmanager
def _as_setting(name: str) -> Iterator[None]:
    try:
        yield
    except (TokensError, KeysFileError) as error:
        raise SettingsError(f"{name}: {error} (set {flag(name)} or {variable(name)})") from error
