"""The Prometheus operator's kinds, as far as ours use them; a field that is misspelt or of another type is refused.

After its API reference (monitoring.coreos.com/v1); kinds that Kubernetes itself has are checked by its own schemas.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Duration = Annotated[str, Field(pattern=r"^(\d+(ms|[smhdwy]))+$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Metadata(_Strict):
    name: Name
    namespace: Name
    labels: dict[str, str] = {}


class Rule(_Strict):
    """Either records a series or raises an alert."""

    record: Annotated[str, Field(pattern=r"^[a-zA-Z_:][\w:]*$")] | None = None
    alert: str | None = None
    expr: str
    for_: Duration | None = Field(None, alias="for")
    keep_firing_for: Duration | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Rule:
        if (self.record is None) == (self.alert is None):
            raise ValueError("a rule either records or alerts")
        return self


class Group(_Strict):
    name: str
    interval: Duration | None = None
    rules: list[Rule]


class RuleSpec(_Strict):
    groups: list[Group]


class PrometheusRule(_Strict):
    apiVersion: Literal["monitoring.coreos.com/v1"]  # noqa: N815 - Kubernetes' own spelling
    kind: Literal["PrometheusRule"]
    metadata: Metadata
    spec: RuleSpec


class Selector(_Strict):
    matchLabels: dict[str, str]  # noqa: N815


class Endpoint(_Strict):
    port: str
    path: Annotated[str, Field(pattern=r"^/")]
    interval: Duration | None = None


class MonitorSpec(_Strict):
    jobLabel: str | None = None  # noqa: N815
    selector: Selector
    endpoints: list[Endpoint]


class ServiceMonitor(_Strict):
    apiVersion: Literal["monitoring.coreos.com/v1"]  # noqa: N815
    kind: Literal["ServiceMonitor"]
    metadata: Metadata
    spec: MonitorSpec


KINDS: dict[str, type[BaseModel]] = {kind.__name__: kind for kind in (PrometheusRule, ServiceMonitor)}
