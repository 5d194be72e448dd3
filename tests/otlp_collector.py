"""An OpenTelemetry collector on loopback: it takes spans, metrics and logs by OTLP/HTTP in protobuf
(https://opentelemetry.io/docs/specs/otlp/#otlphttp), and keeps them."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Span(NamedTuple):
    """A span, its ids in hexadecimal digits; ``parent`` is empty where it has none."""

    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]


class Point(NamedTuple):
    """A metric's last value for these attributes: a sum, or how many values a histogram has."""

    name: str
    attributes: dict[str, Any]
    value: float


class Record(NamedTuple):
    """A log record; ``trace`` is empty where it belongs to none."""

    text: str
    trace: str
    attributes: dict[str, Any]


class OtlpCollector:
    """Collects while its block runs.

    Attributes:
        received: All that came, as it came.
    """

    def __init__(self) -> None:
        self.received: list[tuple[str, bytes]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers.get("Content-Encoding") is None
                collector.received.append((self.path, body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def spans(self) -> list[Span]:
        return [
            Span(
                span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), _values(span.attributes)
            )
            for body in self._bodies("/v1/traces")
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def trace(self, trace: str) -> list[Span]:
        """Return the spans of a trace."""
        return [span for span in self.spans if span.trace == trace]

    @property
    def points(self) -> list[Point]:
        newest = {}
        for body in self._bodies("/v1/metrics"):
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        for point in getattr(metric, metric.WhichOneof("data")).data_points:
                            values = _values(point.attributes)
                            value = point.count if hasattr(point, "count") else point.as_int or point.as_double
                            newest[metric.name, str(sorted(values.items()))] = Point(metric.name, values, value)
        return list(newest.values())

    def value(self, name: str, **attributes: Any) -> float:
        """Return the sum of a metric's values that have these attributes, their names without ``agentstream.``."""
        wanted = {f"agentstream.{key.replace('__', '.')}": value for key, value in attributes.items()}
        return sum(
            point.value for point in self.points if point.name == name and wanted.items() <= point.attributes.items()
        )

    @property
    def logs(self) -> list[Record]:
        return [
            Record(record.body.string_value, record.trace_id.hex(), _values(record.attributes))
            for body in self._bodies("/v1/logs")
            for resource in ExportLogsServiceRequest.FromString(body).resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def _bodies(self, path: str) -> Iterator[bytes]:
        return (body for asked, body in list(self.received) if asked == path)


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
