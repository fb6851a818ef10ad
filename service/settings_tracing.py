"""Settings of tracing: a switch of ours, and what OpenTelemetry's specification names that our own code has to know.

What only the exporter needs (``OTEL_EXPORTER_OTLP_*``: endpoint, headers, certificates, compression, time) and
``OTEL_RESOURCE_ATTRIBUTES`` are read by its library: headers hold secrets, and none of our settings does.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings

Sampler = Literal[
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
]
STANDARD = (
    "otel_sdk_disabled",
    "otel_service_name",
    "otel_traces_sampler",
    "otel_traces_sampler_arg",
    "otel_bsp_max_queue_size",
    "otel_bsp_max_export_batch_size",
    "otel_bsp_schedule_delay",
)
"""Whose variable has the standard's name, without our prefix."""


def _standard(default: Any, description: str, **limits: Any) -> Any:
    """A field whose variable is the specification's."""
    return Field(default, description=f"{description} A variable of OpenTelemetry's.", **limits)


class TracingSettings(BaseSettings):
    """Part of ``service.settings.Settings``."""

    tracing: bool = Field(
        False,
        description=(
            "Whether requests leave OpenTelemetry spans (docs/tracing.md), sent to OTEL_EXPORTER_OTLP_ENDPOINT; needs the extra "
            "`tracing`."
        ),
    )
    otel_sdk_disabled: bool = _standard(False, "true: no tracing, whatever `tracing` says.", validation_alias="OTEL_SDK_DISABLED")
    otel_service_name: str | None = _standard(
        None,
        "Name of the service in traces; unset: `service.name` of OTEL_RESOURCE_ATTRIBUTES, else scalingnote.",
        validation_alias="OTEL_SERVICE_NAME",
        max_length=255,
    )
    otel_traces_sampler: Sampler = _standard(
        "parentbased_always_on",
        "Which requests are traced; `parentbased_…`: where the caller sent a `traceparent`, as that says.",
        validation_alias="OTEL_TRACES_SAMPLER",
    )
    otel_traces_sampler_arg: float = _standard(
        1.0,
        "Share of traces of the samplers `…traceidratio`.",
        validation_alias="OTEL_TRACES_SAMPLER_ARG",
        ge=0,
        le=1,
        allow_inf_nan=False,
    )
    otel_bsp_max_queue_size: int = _standard(
        2048,
        "Spans that wait to be sent; beyond, those of a whole request are dropped, and counted.",
        validation_alias="OTEL_BSP_MAX_QUEUE_SIZE",
        ge=16,
        le=1_000_000,
    )
    otel_bsp_max_export_batch_size: int = _standard(
        512, "Spans that are sent at once.", validation_alias="OTEL_BSP_MAX_EXPORT_BATCH_SIZE", ge=16, le=1_000_000
    )
    otel_bsp_schedule_delay: float = _standard(
        5000.0,
        "Longest wait before spans are sent, in milliseconds.",
        validation_alias="OTEL_BSP_SCHEDULE_DELAY",
        gt=0,
        le=3_600_000,
        allow_inf_nan=False,
    )

    @field_validator(*STANDARD, mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object, info: Any) -> object:
        """As the specification wants it."""
        return cls.model_fields[info.field_name].default if value == "" else value

    @field_validator("otel_traces_sampler", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        """As the specification wants it of every name."""
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _batches_fit(self) -> Self:
        if self.otel_bsp_max_export_batch_size > self.otel_bsp_max_queue_size:
            size, most = self.otel_bsp_max_export_batch_size, self.otel_bsp_max_queue_size
            raise ValueError(f"OTEL_BSP_MAX_EXPORT_BATCH_SIZE {size} is above OTEL_BSP_MAX_QUEUE_SIZE {most}")
        return self

    @property
    def traced(self) -> bool:
        """Whether spans are made."""
        return self.tracing and not self.otel_sdk_disabled
