"""The messages between host and worker that this host needs, named as in ``FunctionRpc.proto``."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class TypedData:
    """One value of the kind that its only field names: ``string``, ``json``, ``bytes``, ``int``, ``double``, ``http``.

    Without a field it is no value.
    """

    def __init__(self, **field: Any) -> None:
        self._kind = next(iter(field), None)
        self.__dict__.update(field)

    def WhichOneof(self, group: str) -> str | None:  # noqa: N802 - protobuf's name for it
        return self._kind

    @property
    def value(self) -> Any:
        """The value, whatever its kind; None where there is none."""
        return getattr(self, self._kind) if self._kind else None


class ParameterBinding:
    """The value of a function's parameter."""

    def __init__(self, name: str, data: TypedData) -> None:
        self.name = name
        self.data = data

    def WhichOneof(self, group: str) -> str:  # noqa: N802 - protobuf's name for it
        return "data"


class RpcHttp:
    """An HTTP request or, with ``status_code`` (a text), a response of the classic types."""

    def __init__(
        self,
        *,
        method: str = "",
        url: str = "",
        headers: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
        body: TypedData | None = None,
        status_code: str = "",
        cookies: list[Any] | None = None,
        enable_content_negotiation: bool = False,
    ) -> None:
        self.method = method
        self.url = url
        self.headers = headers or {}
        self.params = params or {}
        self.query = query or {}
        self.body = body or TypedData()
        self.status_code = status_code
        self.cookies = cookies or []


class RpcHttpCookie(SimpleNamespace):
    """A cookie of a response. All but ``name``, ``value`` and ``same_site`` are None or have a ``value``."""

    SameSite = SimpleNamespace(**{"None": 0, "Lax": 1, "Strict": 2, "ExplicitNone": 3})


class InvocationRequest:
    """The call of a function. ``inputs`` are its bindings' values by parameter name; ``traceparent`` and ``tracestate``
    (https://www.w3.org/TR/trace-context/) name the trace that it belongs to."""

    def __init__(
        self,
        function_id: str,
        inputs: dict[str, TypedData],
        invocation_id: str,
        traceparent: str = "",
        tracestate: str = "",
    ) -> None:
        self.function_id = function_id
        self.invocation_id = invocation_id
        self.input_data = [ParameterBinding(name, data) for name, data in inputs.items()]
        self.trigger_metadata: dict[str, TypedData] = {}
        self.trace_context = SimpleNamespace(trace_parent=traceparent, trace_state=tracestate, attributes={})
        self.retry_context = SimpleNamespace(retry_count=0, max_retry_count=0, exception=None)


@dataclass(frozen=True)
class InvocationCancel:
    """Nobody waits for this invocation any more."""

    invocation_id: str


@dataclass(frozen=True)
class InvocationResponse:
    """What a function returned, or the message and stack trace of what it raised."""

    invocation_id: str
    return_value: TypedData | None = None
    failure: tuple[str, str] | None = None


@dataclass(frozen=True)
class FunctionMetadata:
    """A function as the worker announces it; each of ``raw_bindings`` is a JSON object, as in a ``function.json``."""

    function_id: str
    name: str
    raw_bindings: tuple[str, ...]


@dataclass(frozen=True)
class WorkerInitRequest:
    """The order to load the app of a directory."""

    function_app_directory: Path


@dataclass(frozen=True)
class WorkerInitResponse:
    """The loaded functions and the origin of the worker's own HTTP server, if it has one; or, in one line, why the app
    cannot be loaded, which is empty where the worker has printed it."""

    functions: tuple[FunctionMetadata, ...] = ()
    http_uri: str | None = None
    failure: str | None = None


@dataclass(frozen=True)
class WorkerTerminate:
    """The order to end."""
