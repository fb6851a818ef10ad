"""Every setting of the service, in one frozen object that is built once; the only reader of the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import NoDecode, SettingsConfigDict

from service.errors import SettingsError
from service.limits import LimitKind
from service.settings_bodies import BodySettings
from service.settings_empty import EmptySettings
from service.settings_keys import KeySettings
from service.settings_live import LiveSettings
from service.settings_logs import LogSettings
from service.settings_milvus import MilvusSettings
from service.settings_slo import SloSettings
from service.settings_tracing import STANDARD, TracingSettings
from snapshot.errors import RemoteAddressError
from snapshot.signing import Trust
from snapshot.stores import check_url, local_folder

PREFIX = "SCALINGNOTE_"

MOST_BATCH, MOST_K, MOST_WINDOW = 4096, 10_000, 100_000
"""What no setting can exceed; the schema of requests relies on it."""

Milliseconds = Annotated[float, Field(gt=0, le=3_600_000, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=3_600, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=0.4, allow_inf_nan=False)]
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=1024, le=1 << 30)]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "text"]


class Settings(BodySettings, KeySettings, LiveSettings, SloSettings, LogSettings, TracingSettings, MilvusSettings, EmptySettings):
    """Each field is also a variable ``SCALINGNOTE_<NAME>`` and a flag ``--<name>``; flags win. None is a secret.

    Those that OpenTelemetry names have its variables, without our prefix.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True
    )

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
    max_batch_hits: int = Field(
        MOST_K,
        ge=1,
        le=MOST_BATCH * MOST_K,
        description="Most hits that the searches of one batch may ask for together (the sum of their k); beyond: 422.",
    )
    max_k: int = Field(1000, ge=1, le=MOST_K, description="Most hits that a search may ask for; beyond: 422.")
    max_window: int = Field(10_000, ge=1, le=MOST_WINDOW, description="Largest offset + k of a search; beyond: 422.")

    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Threads that answer requests; unset: the cores this process may use, divided by encoder_threads.",
    )
    encoder_threads: int | None = Field(
        None, ge=1, le=256, description="Threads of one encoding, or search of an index in several files; unset: 1, the cheapest."
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
    trusted_keys: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description=(
            "Files of Ed25519 public keys (PEM or base64), separated by commas; a snapshot that is signed must be signed "
            "by one of them. None: signatures are not looked at."
        ),
    )
    require_signature: bool = Field(False, description="Whether snapshots that are not signed are refused.")
    recent_queries: int = Field(
        256,
        ge=0,
        le=100_000,
        description=(
            "Different queries that are kept in memory, the latest ones, to judge and warm the next snapshot with; "
            "0: none. Never logged."
        ),
    )
    recent_query_bytes: int = Field(
        1024 * 1024, ge=1024, le=1 << 30, description="Most memory for these queries, in bytes; longer ones are not kept."
    )
    gate_recall_tolerance: Ratio = Field(
        0.05,
        description=(
            "How far a snapshot's recall@10 may be found below its effort table, beyond three standard errors of the sample."
        ),
    )
    gate_min_documents_ratio: float = Field(
        0.8, ge=0, allow_inf_nan=False, description="Least documents of a snapshot, over those of the one that serves."
    )
    gate_max_documents_ratio: float = Field(
        2.0, gt=0, allow_inf_nan=False, description="Most documents of a snapshot, over those of the one that serves."
    )
    gate_required_ids: Path | None = Field(
        None, description="File of document ids, one a line, that every snapshot must have; unset: none."
    )
    gate_min_overlap: Ratio = Field(
        0.2,
        description=(
            "Least mean overlap of a snapshot's ten best ids with those of the one that serves, on recent queries; "
            "measured where there are 20 of them."
        ),
    )
    gate_p99_ms: Milliseconds | None = Field(
        None, description="Most that 99% of a snapshot's searches may take here, in milliseconds; unset: default_timeout_ms."
    )
    gate_memory_share: float = Field(
        0.9, gt=0, le=1, description="Of the available memory, that a snapshot and the one that serves may take together."
    )
    swap_cpu_share: float = Field(
        0.1,
        ge=0.01,
        le=1,
        description="Of one core, that a swap may take while requests keep the service busy; while it is idle, it takes all.",
    )
    shadow_share: Ratio = Field(
        0.0,
        description=(
            "Share of live searches that a new snapshot answers too before it takes over, nobody getting its answers; "
            "0: it takes over at once."
        ),
    )
    shadow_queries: int = Field(200, ge=1, le=1_000_000, description="Searches that are enough to compare then.")
    shadow_seconds: Seconds = Field(60.0, description="How long that takes at most, in seconds, however few searches came.")
    shadow_cpu_share: float = Field(0.1, gt=0, le=1, description="Of one core, that it may take.")
    shadow_max_latency_ratio: float = Field(
        1.5, gt=0, allow_inf_nan=False, description="Most of its median search, over that of the snapshot that serves."
    )
    keep_former: bool = Field(
        True,
        description=(
            "Whether the snapshot that served before stays open, so that going back takes one assignment; "
            "false: only while the new one is watched."
        ),
    )
    proof_interval_seconds: float = Field(
        300.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="How often the snapshot that serves proves itself on its golden queries again, in seconds; 0: never.",
    )
    proof_rollback: bool = Field(
        False, description="Whether a failed proof brings back the snapshot that served before, also long after a swap."
    )
    watch_seconds: float = Field(
        60.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="How long after a swap errors, late answers or a failed proof undo it, in seconds; 0: never.",
    )
    watch_max_error_share: Ratio = Field(
        0.01, description="Most errors (500) then, without doubt (95%), beyond their share in the same time before the swap."
    )
    watch_max_late_share: Ratio = Field(
        0.05, description="The same of late answers (504, 503 too_slow), compared with those of like budgets before the swap."
    )
    watch_min_answers: int = Field(100, ge=1, le=1_000_000, description="Answers since the swap, below which nothing is undone.")
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
        0.25,
        description="Share of the limit kept for /embed and /v1/embeddings, which they cannot exceed unless a thread is free.",
    )
    batch_share: Share = Field(
        0.25,
        description="Share of the limit kept for /search/batch, not exceeded unless a thread is free; searches have the rest.",
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
            "Most open connections, as far as the limit on open files allows; beyond, the one idle for longest is closed, or "
            "whose request is on its way for longest; or the new one gets 503. Unset: 16384."
        ),
    )

    admin_tokens_file: Path | None = Field(
        None,
        description=(
            "File with the hashes of operators' bearer tokens, a line each from: python -m service token NAME. It is read again "
            "when it changes. Unset, or without a token: operators' routes are off."
        ),
    )

    log_level: LogLevel = Field("info", description="Least severity that is logged: debug, info, warning or error.")
    log_format: LogFormat = Field("auto", description="json lines, text for people, or auto: text on a terminal, else json.")

    @field_validator("trusted_keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("registry", "remote_registry", mode="before")
    @classmethod
    def _is_address(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str) or not value:
            return value
        try:
            if info.field_name == "registry":
                return local_folder(value)
            check_url(value)
        except RemoteAddressError as error:
            raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _fit(self) -> Settings:
        if self.default_timeout_ms > self.max_timeout_ms:
            raise ValueError(f"default_timeout_ms {self.default_timeout_ms:g} is above max_timeout_ms {self.max_timeout_ms:g}")
        if self.drain_min_seconds > self.drain_seconds:
            raise ValueError(f"drain_min_seconds {self.drain_min_seconds:g} is above drain_seconds {self.drain_seconds:g}")
        if self.require_signature and not self.trusted_keys:
            raise ValueError("require_signature needs trusted_keys: name the file of a public key")
        if self.gate_min_documents_ratio > self.gate_max_documents_ratio:
            low, high = self.gate_min_documents_ratio, self.gate_max_documents_ratio
            raise ValueError(f"gate_min_documents_ratio {low:g} is above gate_max_documents_ratio {high:g}")
        if self.max_k > self.max_batch_hits:
            raise ValueError(f"max_k {self.max_k} is above max_batch_hits {self.max_batch_hits}")
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


def trust_of(settings: Settings) -> Trust | None:
    """Whose signatures count; None where none are looked at.

    Raises:
        KeyFileError: a file has no public key.
    """
    if not settings.trusted_keys:
        return None
    return Trust.load(settings.trusted_keys, required=settings.require_signature)


def effective(settings: Settings) -> dict[str, Any]:
    """The settings as JSON."""
    return settings.model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class DescribedSetting:
    """A setting as people see it.

    Attributes:
        variable: its name in the environment.
        flag: its name on the command line.
    """

    name: str
    variable: str
    flag: str
    default: str
    effect: str


def described_settings() -> list[DescribedSetting]:
    """Every setting, in the order of the fields; those of the base classes last."""
    fields = sorted(Settings.model_fields.items(), key=lambda item: item[0] not in Settings.__annotations__)
    return [_describe(name, field) for name, field in fields]


def flag(name: str) -> str:
    """The command line's name of a setting."""
    return f"--{name.replace('_', '-')}"


def variable(name: str) -> str:
    """The environment's name of a setting."""
    return name.upper() if name in STANDARD else f"{PREFIX}{name.upper()}"


def _describe(name: str, field: FieldInfo) -> DescribedSetting:
    default = "required" if field.is_required() else "unset" if field.default in (None, ()) else f"{field.default}"
    return DescribedSetting(name, variable(name), flag(name), default, field.description or "")


def _explain(item: Mapping[str, Any]) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    if not item["loc"]:
        return message
    name = str(item["loc"][0])
    name = name.lower() if name.lower() in STANDARD else name
    return f"{name}: {message} (set {flag(name)} or {variable(name)})"
