"""What a recipe may say of the Milvus server that keeps the vectors; nothing secret, only where secrets lie."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from offline.config import Config, PositiveInt
from snapshot.addresses import server_address


class MilvusConfig(Config):
    """Where ``index.kind = "milvus"`` writes. The service has settings of its own: it may reach the server in another way."""

    uri: Annotated[str, AfterValidator(server_address)] = "http://127.0.0.1:19530"
    """``https`` for TLS."""
    database: str = ""
    """Empty: the server's default."""
    token_file: str | None = None
    """File with ``user:password`` or an API key."""
    ca_file: str | None = None
    """Certificates in PEM to trust, where the system's are not enough."""
    cert_file: str | None = None
    """Our own certificate in PEM, with ``key_file`` and ``ca_file``, where the server wants one."""
    key_file: str | None = None
    alias: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """Is pointed at the collection when it is published, for others who read it; the service goes by the manifest."""
    stored_fields: bool = True
    """Whether the columns that cannot be filtered on are written too, as JSON of at most 65,535 bytes a row."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 600.0
    """Longest wait for one call: inserting a block, building the index, loading."""
    effort_queries: PositiveInt = 100
    """At most so many of the student's queries measure the effort table: each is a call."""
