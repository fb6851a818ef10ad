"""Log and traces, started and ended: each has a thread that writes or sends, so that no request waits for it."""

from __future__ import annotations

from contextlib import ExitStack

from service.errors import SettingsError
from service.metrics import Metrics
from service.settings import Settings
from service.tracing import TraceOptions, Tracer

_END_SECONDS = 1.0
"""For spans that wait when the service ends."""


def start_tracing(settings: Settings, metrics: Metrics, undo: ExitStack) -> Tracer | None:
    """What traces requests; None where tracing is off.

    Raises:
        SettingsError: it is on, but its extra is not installed.
    """
    if not settings.traced:
        return None
    try:
        from service.otlp import OtlpSender  # only here: most services do without its libraries
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise SettingsError("tracing: needs OpenTelemetry; install it: pip install 'scalingnote[tracing]'") from error
    sender = OtlpSender(settings.otel_service_name)
    undo.callback(sender.end)
    tracer = Tracer(_options(settings), sender.send, metrics.telemetry.spans)
    undo.callback(tracer.end, _END_SECONDS)
    tracer.start()
    return tracer


def _options(settings: Settings) -> TraceOptions:
    return TraceOptions(
        settings.otel_traces_sampler,
        settings.otel_traces_sampler_arg,
        settings.otel_bsp_max_queue_size,
        settings.otel_bsp_max_export_batch_size,
        settings.otel_bsp_schedule_delay / 1000,
    )
