"""What this process has recorded of itself by OpenTelemetry, in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import set_tracer_provider


class Recorded:
    """What was recorded since the block began that made it."""

    def __init__(self, exporter: InMemorySpanExporter, reader: InMemoryMetricReader) -> None:
        self._exporter = exporter
        self._reader = reader
        self._before = self._points()
        exporter.clear()

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended, in that order."""
        return list(self._exporter.get_finished_spans())

    def span(self, name: str) -> ReadableSpan:
        """Return the only span of this name."""
        (span,) = (span for span in self.spans if span.name == name)
        return span

    def metric(self, name: str) -> dict[tuple[tuple[str, Any], ...], float]:
        """Return by how much a metric has grown, by its attributes: a sum, or that of a histogram's values."""
        grown = {key: value - self._before.get(key, 0) for key, value in self._points().items()}
        return {attributes: value for (metric, attributes), value in grown.items() if metric == name and value}

    def _points(self) -> dict[tuple[str, tuple[tuple[str, Any], ...]], float]:
        data = self._reader.get_metrics_data()
        return {
            (metric.name, tuple(sorted((point.attributes or {}).items()))): float(
                point.value if isinstance(point, NumberDataPoint) else getattr(point, "sum", 0)
            )
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }


@cache
def _providers() -> tuple[InMemorySpanExporter, InMemoryMetricReader]:
    # A process has one provider of each kind, which nobody can replace.
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    spans = TracerProvider()
    spans.add_span_processor(SimpleSpanProcessor(exporter))
    set_tracer_provider(spans)
    set_meter_provider(MeterProvider([reader]))
    return exporter, reader


@contextmanager
def recording() -> Iterator[Recorded]:
    """Record what happens in the block."""
    yield Recorded(*_providers())
