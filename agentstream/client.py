"""A client of the HTTP API: starts runs, and follows each to its end over any number of connections.

It needs httpx and httpx-sse (``agentstream[client]``), and nothing else of the package::

    async with httpx.AsyncClient(base_url="http://localhost:7071/api") as http:
        run = await AgentClient(http).start("MyAgent", "What is new?")
        async for event in run.events():
            print(event.data if event.kind == "message" else f"[{event.kind}]")
        print(run.text, await run.status())
"""

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import httpx
from httpx_sse import SSEError, aconnect_sse

# How soon to reconnect where the server has not said it.
RETRY_SECONDS = 0.5
# Statuses below 500 that say nothing about the next try: request timeout, too early, too many requests.
TRANSIENT = (408, 425, 429)
TERMINAL = ("done", "error", "cancelled")


class AgentClientError(Exception):
    """The server refuses what it is asked for, or was asked in vain as often as allowed. The message says what it says.

    Args:
        message: For the person who called.
        status: The status of the response that was the last, None where there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event of a run.

    Args:
        id: Its cursor.
        kind: Its name in the API: ``message``, ``reset``, ``done``, ``error``, ``cancelled``…
        data: The text of a message; for the others what the API's contract says.
    """

    id: str
    kind: str
    data: str


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to try again what failed, and when to give up.

    Args:
        tries: How many in a row may bring nothing new.
        max_pause_seconds: The longest pause between two. A server that asks by ``Retry-After`` for a longer one is
            not asked again.
        silence_seconds: How long a connection may bring nothing before it is taken for dead: longer than the server's
            ``HEARTBEAT_SECONDS``.
    """

    tries: int = 10
    max_pause_seconds: float = 30.0
    silence_seconds: float = 60.0


class AgentClient:
    """Asks one app.

    Args:
        http: Sends the requests. Its base URL is that of the API, such as ``https://<app>.azurewebsites.net/api``; its
            headers hold the function key (``x-functions-key``) where one is needed.
        retry: When to try again, and when to give up.
    """

    def __init__(self, http: httpx.AsyncClient, retry: RetryPolicy | None = None) -> None:
        self._http = http
        self._retry = retry or RetryPolicy()

    async def start(
        self, agent: str, message: str, *, conversation_id: str | None = None, idempotency_key: str | None = None
    ) -> "Run":
        """Start a run. It is sent again where no response comes, under one ``Idempotency-Key``, and so run once.

        Args:
            agent: The agent's name.
            message: The message to it.
            conversation_id: The conversation to go on with; None for a new one.
            idempotency_key: The key; None for a new one.

        Raises:
            AgentClientError: It was refused, or not answered.
        """
        body = {"message": message} | ({"conversation_id": conversation_id} if conversation_id else {})
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        path = f"agents/{quote(agent, safe='')}/run"
        ids = await _ask(self._http, self._retry, "POST", path, json=body, headers=headers)
        return self.run(ids["conversation_id"], ids["correlation_id"])

    def run(self, conversation_id: str, correlation_id: str, last_event_id: str = "") -> "Run":
        """Return the run of these ids, wherever it was started.

        Args:
            conversation_id: Its conversation.
            correlation_id: The run.
            last_event_id: The id of the event after which to follow it; empty for all of it.
        """
        return Run(self._http, self._retry, conversation_id, correlation_id, last_event_id)


class Run:
    """One run, as ``AgentClient`` returns it.

    Attributes:
        conversation_id: Its conversation.
        correlation_id: The run.
        last_event_id: The id of the last event that came: its cursor.
        text: The answer, as far as it has come since ``last_event_id`` was given, or since the last reset.
        end: The terminal event, once it has come.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        retry: RetryPolicy,
        conversation_id: str,
        correlation_id: str,
        last_event_id: str,
    ) -> None:
        self.conversation_id = conversation_id
        self.correlation_id = correlation_id
        self.last_event_id = last_event_id
        self.text = ""
        self.end: StreamEvent | None = None
        self._http = http
        self._retry = retry
        self._nothing_follows = False

    async def events(self) -> AsyncGenerator[StreamEvent, None]:
        """Yield each event once, up to the terminal one, and wait for those to come.

        A ``reset`` says that the text so far is void; ``text`` knows. Asked again, it goes on after the last event.
        Whoever leaves before the end closes it, by ``contextlib.aclosing``: then nothing more is asked of the server.

        Raises:
            AgentClientError: The server refused, or every try was in vain.
        """
        patience = _Patience(self._retry)
        while self.end is None and not self._nothing_follows:
            problem: Exception = AgentClientError("the response ended before the run")
            began = time.monotonic()
            try:
                async with contextlib.aclosing(self._connection(patience)) as events:
                    async for event in events:
                        self._take(event)
                        patience.failures = 0
                        yield event
            except SSEError as error:
                raise AgentClientError(str(error)) from error
            except (httpx.TransportError, _RefusalError) as error:
                problem = error
            # A connection that held shows that the server is well, though the run had nothing to say.
            if time.monotonic() - began > self._retry.max_pause_seconds:
                patience.failures = 0
            if self.end is None and not self._nothing_follows:
                await patience.wait(problem)

    async def status(self) -> dict[str, Any]:
        """Return what ``GET /api/agent/runs/{correlation_id}`` says: ``status``, ``response``, ``error``…

        Raises:
            AgentClientError: It was refused, or not answered.
        """
        return await _ask(self._http, self._retry, "GET", f"agent/runs/{self.correlation_id}")

    async def cancel(self) -> dict[str, Any]:
        """Stop the run, and return its status; what it has said so far becomes its answer.

        Raises:
            AgentClientError: It was refused, with the status 409 where the run has ended, or not answered.
        """
        return await _ask(self._http, self._retry, "POST", f"agent/runs/{self.correlation_id}/cancel")

    async def _connection(self, patience: "_Patience") -> AsyncGenerator[StreamEvent, None]:
        """Yield the events of one response."""
        path = f"agent/stream/{self.conversation_id}"
        headers = {"Last-Event-ID": self.last_event_id} if self.last_event_id else {}
        timeout = httpx.Timeout(self._retry.silence_seconds)
        params = {"correlation_id": self.correlation_id}
        async with aconnect_sse(self._http, "GET", path, params=params, headers=headers, timeout=timeout) as source:
            if source.response.status_code == httpx.codes.NO_CONTENT:
                self._nothing_follows = True
                return
            if not source.response.is_success:
                raise await _refusal(source.response)
            async with contextlib.aclosing(source.aiter_sse()) as events:
                async for event in events:
                    if event.retry is not None:
                        patience.base_seconds = event.retry / 1000
                    # Any block of lines is an event to the decoder; the server's each have an id of their own.
                    if event.id not in ("", self.last_event_id):
                        yield StreamEvent(event.id, event.event, event.data)

    def _take(self, event: StreamEvent) -> None:
        self.last_event_id = event.id
        if event.kind == "message":
            self.text += event.data
        elif event.kind == "reset":
            self.text = ""
        elif event.kind in TERMINAL:
            self.end = event


class _RefusalError(Exception):
    """A response that is not what was asked for."""

    def __init__(self, message: str, response: httpx.Response) -> None:
        super().__init__(message)
        self.status = response.status_code
        self.is_final = response.status_code < httpx.codes.INTERNAL_SERVER_ERROR and self.status not in TRANSIENT
        self.retry_after_seconds = _parse_retry_after(response.headers.get("retry-after", ""))


class _Patience:
    """How long to wait before the next try, and for how many."""

    def __init__(self, policy: RetryPolicy) -> None:
        self.failures = 0
        self.base_seconds = RETRY_SECONDS
        self._policy = policy

    async def wait(self, problem: Exception) -> None:
        """Wait before the next try.

        Raises:
            AgentClientError: There is to be none.
        """
        refusal = problem if isinstance(problem, _RefusalError) else None
        asked = refusal.retry_after_seconds if refusal else 0.0
        if refusal and refusal.is_final:
            raise AgentClientError(str(refusal), refusal.status) from problem
        if self.failures >= self._policy.tries or asked > self._policy.max_pause_seconds:
            said = str(problem) or type(problem).__name__
            status = refusal.status if refusal else None
            raise AgentClientError(f"gave up after {self.failures} tries: {said}", status) from problem
        backoff = min(self.base_seconds * 2**self.failures, self._policy.max_pause_seconds)
        self.failures += 1
        # Half of it by chance, so that all whom a server has lost do not come back at once.
        await asyncio.sleep(max(asked, backoff * random.uniform(0.5, 1)))  # noqa: S311 - no secret


async def _ask(http: httpx.AsyncClient, retry: RetryPolicy, method: str, path: str, **request: Any) -> dict[str, Any]:
    """Return the JSON that is answered, after as many tries as it takes."""
    patience = _Patience(retry)
    while True:
        try:
            response = await http.request(method, path, **request)
            if response.is_success:
                body: dict[str, Any] = response.json()
                return body
            problem: Exception = await _refusal(response)
        except httpx.TransportError as error:
            problem = error
        await patience.wait(problem)


async def _refusal(response: httpx.Response) -> _RefusalError:
    """Return the refusal with what the server says of it (RFC 9457)."""
    await response.aread()
    detail = ""
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        with contextlib.suppress(ValueError):
            detail = f": {response.json().get('detail', '')}"
    return _RefusalError(f"the server answered {response.status_code}{detail}", response)


def _parse_retry_after(value: str) -> float:
    """Return the seconds of the header, which are a number or a date (RFC 9110, section 10.2.3); 0 without one."""
    if value.isdecimal():
        return float(value)
    with contextlib.suppress(ValueError):
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    return 0.0
