"""OpenTelemetry, configured by the host as the platform configures it on Azure: the app knows nothing of it.

Spans and metrics are printed; where ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set they are sent there, with the logs. The
SDK's other variables work, too (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/).
Imported only when it is asked for.
"""

import logging
import os
import threading
from importlib.metadata import entry_points

from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.dependencies import get_dist_dependency_conflicts
from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from opentelemetry.trace import set_tracer_provider

# With this the worker makes the trace of each invocation the current one.
WORKER_SWITCH = "PYTHON_ENABLE_OPENTELEMETRY"
LAST_EXPORT_SECONDS = 3


class Telemetry:
    """What this process records, from its making to ``close``."""

    def __init__(self) -> None:
        os.environ[WORKER_SWITCH] = "true"
        os.environ.setdefault("OTEL_SERVICE_NAME", "function-app")
        sends = bool(os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"))
        self._spans = TracerProvider()
        self._spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter() if sends else ConsoleSpanExporter()))
        exporter = OTLPMetricExporter() if sends else ConsoleMetricExporter()
        self._metrics = MeterProvider([PeriodicExportingMetricReader(exporter)])
        self._logs = LoggerProvider()
        set_tracer_provider(self._spans)
        set_meter_provider(self._metrics)
        if sends:
            self._logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
            logging.getLogger().addHandler(LoggingHandler(logger_provider=self._logs))
        _instrument_libraries()

    def close(self) -> None:
        """Export what is left, unless that takes too long."""
        exporting = threading.Thread(target=self._shut_down, daemon=True)
        exporting.start()
        exporting.join(LAST_EXPORT_SECONDS)

    def _shut_down(self) -> None:
        for provider in (self._spans, self._metrics, self._logs):
            provider.shutdown()


def _instrument_libraries() -> None:
    """Load the instrumentations that are installed, as Azure Monitor does; logs have their handler already."""
    disabled = {"logging", *os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").replace(" ", "").split(",")}
    for found in entry_points(group="opentelemetry_instrumentor"):
        if found.name not in disabled and found.dist and not get_dist_dependency_conflicts(found.dist):
            found.load()().instrument(skip_dep_check=True)
