"""Settings of the Milvus server that keeps the vectors of snapshots of kind ``milvus``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings

from service.engines.remote import MilvusServer
from snapshot.addresses import server_address


class MilvusSettings(BaseSettings):
    """Part of ``service.settings.Settings``."""

    milvus_uri: Annotated[str, AfterValidator(server_address)] | None = Field(
        None,
        description=(
            "Milvus server with the vectors of snapshots whose index is of kind milvus: http://HOST:PORT, or https for TLS; "
            "unset: such snapshots are refused."
        ),
    )
    milvus_database: str = Field("", description="Database there; empty: the server's default.")
    milvus_token_file: Path | None = Field(
        None, description="File with user:password or an API key for it; unset: nobody is named. Read when a snapshot is opened."
    )
    milvus_ca_file: Path | None = Field(None, description="PEM file of certificates to trust for its TLS; unset: the system's.")
    milvus_cert_file: Path | None = Field(
        None, description="PEM file of our own certificate, where it wants one, with milvus_key_file."
    )
    milvus_key_file: Path | None = Field(None, description="PEM file of the key of milvus_cert_file.")
    milvus_timeout_ms: float = Field(
        1000.0,
        gt=0,
        le=3_600_000,
        allow_inf_nan=False,
        description="Longest wait for a search there, in milliseconds, where the request's own budget is longer.",
    )
    milvus_probe_seconds: float = Field(
        1.0,
        gt=0,
        le=3_600,
        allow_inf_nan=False,
        description="How often a Milvus server is tried that failed three times in a row, in seconds; 503 meanwhile.",
    )

    @model_validator(mode="after")
    def _milvus_fits(self) -> Self:
        if (self.milvus_cert_file is None) != (self.milvus_key_file is None):
            raise ValueError("milvus_cert_file and milvus_key_file go together: name both, or neither")
        return self


def milvus_server(settings: MilvusSettings) -> MilvusServer:
    """The server that these settings name."""
    return MilvusServer(
        settings.milvus_uri,
        settings.milvus_database,
        settings.milvus_token_file,
        settings.milvus_ca_file,
        settings.milvus_cert_file,
        settings.milvus_key_file,
        settings.milvus_timeout_ms,
        settings.milvus_probe_seconds,
    )
