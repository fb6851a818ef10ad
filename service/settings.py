"""Every setting of the service, in one frozen object that is built once; the only reader of the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.errors import SettingsError
from service.limits import LimitKind
from snapshot.errors import RemoteAddressError
from snapshot.stores import check_url

PREFIX = "SCALINGNOTE_"

MOST_BATCH, MOST_K, MOST_WINDOW = 4096, 10_000, 100_000
"""What no setting can exceed; the schema of requests relies on it."""

Milliseconds = Annotated[float, Field(gt=0, le=3_600_000, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=3_600, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=0.4, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=1024, le=1 << 30)]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "text"]


class Settings(BaseSettings):
    """Each field is also a variable ``SCALINGNOTE_<NAME>`` and, secrets apart, a flag ``--<name>``; flags win."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    registry: Path = Field(description="Folder of snapshots to serve from; what its CURRENT names is served.")
    remote_registry: str | None = Field(
        None,
        description=(
            "Registry to follow: s3://BUCKET/PREFIX, gs://…, az://… or a folder. What is wanted there is brought into "
            "the registry here, and wanted here."
        ),
    )
    remote_interval_seconds: Seconds = Field(
        5.0, description="How often the remote registry is asked which snapshot is wanted, in seconds, on average."
    )
    registry_cache_bytes: int = Field(
        0,
        ge=0,
        le=1 << 50,
        description=(
            "Disk for snapshots brought from the remote registry, in bytes: the oldest go first, never what is wanted, served or "
            "pinned. 0: only these and the one before are kept."
        ),
    )
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 in a container.")
    port: int = Field(
        8000, ge=0, le=65535, description="TCP port to listen on; 0 lets the system choose, and the log says which."
    )

    default_timeout_ms: Milliseconds = Field(
        1000.0, description="Budget of a request that names none, in milliseconds from its first byte."
    )
    max_timeout_ms: Milliseconds = Field(
        10_000.0, description="Longest budget a caller can ask for, in milliseconds; also the longest wait for a request's body."
    )
    max_body_bytes: Bytes = Field(
        64 * 1024, description="Longest body of /search and of operators' routes, in bytes; beyond: 413."
    )
    max_batch_body_bytes: Bytes = Field(
        1024 * 1024, description="Longest body of /search/batch, /embed and /v1/embeddings, in bytes; beyond: 413."
    )
    max_query_bytes: Bytes = Field(
        32 * 1024, description="Longest single text to search by or to encode, in bytes of UTF-8; beyond: 413, on every route."
    )
    max_batch: int = Field(256, ge=1, le=MOST_BATCH, description="Most searches or texts in one batch; beyond: 422.")
    max_k: int = Field(1000, ge=1, le=MOST_K, description="Most hits that a search may ask for; beyond: 422.")
    max_window: int = Field(10_000, ge=1, le=MOST_WINDOW, description="Largest offset + k of a search; beyond: 422.")

    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Threads that answer requests; unset: the cores this process may use, divided by encoder_threads.",
    )
    encoder_threads: int | None = Field(
        None, ge=1, le=256, description="Threads of one call of the query tower; unset: 1, which needs the least CPU a request."
    )
    batching: Literal["auto", "off"] = Field(
        "auto",
        description="auto: waiting queries of one length go through the query tower together where that was measured to pay.",
    )
    query_cache_bytes: int = Field(
        64 * 1024 * 1024, ge=0, le=1 << 40, description="Memory for vectors of queries that were asked before, in bytes; 0: off."
    )
    filter_cache_bytes: int = Field(
        64 * 1024 * 1024, ge=0, le=1 << 40, description="Memory for what filters have selected, a snapshot, in bytes; 0: off."
    )
    plan_probability: float = Field(
        0.99,
        ge=0.5,
        lt=1,
        description="With which a search is to be within its budget when its effort is chosen; what is left over is lost recall.",
    )
    concurrency_limit: LimitKind = Field(
        "adaptive",
        description=(
            "adaptive: as many requests are let in as find a short queue, max_concurrency at most; fixed: max_concurrency. "
            "Beyond: 429 with Retry-After."
        ),
    )
    max_concurrency: int = Field(
        256,
        ge=1,
        le=100_000,
        description="Most requests worked on or waiting for a thread at a time, whatever concurrency_limit finds.",
    )
    embed_share: Share = Field(
        0.25, description="Share of the limit that is kept for /embed and /v1/embeddings, and that they cannot exceed."
    )
    batch_share: Share = Field(
        0.25,
        description="Share of the limit that is kept for /search/batch, and that it cannot exceed; searches have the rest.",
    )
    follow_interval_seconds: Seconds = Field(
        1.0, description="How often the registry is asked which snapshot is wanted, in seconds."
    )
    drain_seconds: Seconds = Field(25.0, description="After SIGTERM, longest wait for requests in flight, in seconds.")
    drain_min_seconds: float = Field(
        2.0,
        ge=0,
        le=3_600,
        allow_inf_nan=False,
        description=(
            "After SIGTERM, how long /readyz says 503 to balancers before the listener closes, even with nothing in flight, "
            "in seconds; Ctrl-C does not wait."
        ),
    )
    keep_alive_seconds: int = Field(
        75, ge=1, le=3600, description="How long an idle connection stays open, in seconds; longer than the proxy's in front."
    )
    header_timeout_seconds: Seconds = Field(
        10.0,
        description=(
            "Longest wait for a request's headers, from its first byte or the connection's begin, and for a client that takes "
            "nothing of its answer, in seconds; then the connection is closed."
        ),
    )
    max_connections: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description=(
            "Most open connections, as far as the limit on open files allows; beyond, the one idle for longest is closed, or the "
            "new one gets 503. Unset: 16384."
        ),
    )

    admin_tokens: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Bearer tokens of operators' routes, separated by commas, 16 characters or more each; none: routes are off.",
    )

    log_level: LogLevel = Field("info", description="Least severity that is logged: debug, info, warning or error.")
    log_format: LogFormat = Field("auto", description="json lines, text for people, or auto: text on a terminal, else json.")
    access_log: float = Field(
        0.0, ge=0, le=1, allow_inf_nan=False, description="Share of requests that get a log line, 0 to 1; never with their query."
    )

    @field_validator("admin_tokens", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("admin_tokens")
    @classmethod
    def _long_enough(cls, tokens: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(token.get_secret_value()) < 16 for token in tokens):
            raise ValueError("a token has fewer than 16 characters; make one with: openssl rand -hex 16")
        return tokens

    @field_validator("remote_registry")
    @classmethod
    def _is_remote(cls, url: str | None) -> str | None:
        if url is not None:
            try:
                check_url(url)
            except RemoteAddressError as error:
                raise ValueError(str(error)) from error
        return url

    @model_validator(mode="after")
    def _fit(self) -> Settings:
        if self.default_timeout_ms > self.max_timeout_ms:
            raise ValueError(f"default_timeout_ms {self.default_timeout_ms:g} is above max_timeout_ms {self.max_timeout_ms:g}")
        if self.drain_min_seconds > self.drain_seconds:
            raise ValueError(f"drain_min_seconds {self.drain_min_seconds:g} is above drain_seconds {self.drain_seconds:g}")
        if self.max_k > self.max_window:
            raise ValueError(f"max_k {self.max_k} is above max_window {self.max_window}")
        return self


def load_settings(given: Mapping[str, object]) -> Settings:
    """Settings from ``given`` (flags), then the environment, then defaults.

    Raises:
        SettingsError: one is missing or wrong; the message names it, and both ways to set it.
    """
    try:
        return Settings(**dict(given))  # type: ignore[arg-type]  # pydantic converts and checks each one
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(dict(item)) for item in error.errors())) from error


def effective(settings: Settings) -> dict[str, Any]:
    """The settings as JSON, secrets masked."""
    return settings.model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class DescribedSetting:
    """A setting as people see it.

    Attributes:
        variable: its name in the environment.
        flag: its name on the command line; None for secrets, since a command line is seen by every user of the machine.
    """

    name: str
    variable: str
    flag: str | None
    default: str
    effect: str


def described_settings() -> list[DescribedSetting]:
    """Every setting, in the order of the fields."""
    return [_describe(name, field) for name, field in Settings.model_fields.items()]


def flag(name: str) -> str:
    """The command line's name of a setting."""
    return f"--{name.replace('_', '-')}"


def variable(name: str) -> str:
    """The environment's name of a setting."""
    return f"{PREFIX}{name.upper()}"


def _describe(name: str, field: FieldInfo) -> DescribedSetting:
    secret = "Secret" in str(field.annotation)
    default = "required" if field.is_required() else "unset" if field.default in (None, ()) else f"{field.default}"
    return DescribedSetting(name, variable(name), None if secret else flag(name), default, field.description or "")


def _explain(item: Mapping[str, Any]) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    if not item["loc"]:
        return message
    name = str(item["loc"][0])
    return f"{name}: {message} (set {flag(name)} or {variable(name)})"
