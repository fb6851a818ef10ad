"""Where engines on other machines are, for whoever opens one; imports none of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MilvusServer:
    """A Milvus server and how to get in; files hold what is secret, or PEM.

    Attributes:
        uri: ``http://HOST:PORT``, or ``https`` for TLS; None where no snapshot of this service needs one.
        database: empty for the server's default.
        token_file: holds ``user:password`` or an API key.
        ca_file: certificates to trust, where not the system's.
        cert_file: our own certificate, with ``key_file``, where the server wants one.
        timeout_ms: longest wait for a search, whatever its deadline.
        probe_seconds: between two looks at a server that has failed.
    """

    uri: str | None = None
    database: str = ""
    token_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    timeout_ms: float = 1000.0
    probe_seconds: float = 1.0
