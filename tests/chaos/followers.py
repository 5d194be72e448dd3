"""A follower for each wire: it starts a run, follows it over any number of connections, and knows what it holds."""

import asyncio
import contextlib
import json
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import httpx

from agentstream.client import AgentClient, RetryPolicy
from agentstream.http.chat_requests import run_key
from agentstream.runs.starter import run_of_key
from tests import ag_ui_client, event_stream, ui_message_client
from tests.app import RUN_ROUTE
from tests.chat import AGUI_ROUTE, CHAT_ROUTE, agui_input, chat_input

AGENT = "TravelPlanner"
TERMINAL = ("done", "error", "cancelled")
RETRY_SECONDS = 0.1
# As long as the app asks for where Redis does not answer.
PATIENCE_SECONDS = 5.0
STARTS_AGAIN = "\n\n[The answer starts again.]\n\n"
MORE_TO_COME = re.compile(r"\n\n\[There is more to come\. To read it, ask again with cursor=([0-9-]+)\.\]\n\Z")
ERROR = re.compile(r"\n\n\[[^\n]+\]\n\Z")


@dataclass
class Held:
    """What a client holds of a run's output.

    Attributes:
        text: The answer.
        calls: The arguments of the tool calls, by their ids.
        results: Their results.
        spent: The tokens.
        end: The name of the terminal event, as the API's contract has it.
        reset: The reason of the last reset, ``unknown`` where the wire does not say it, empty without one.
        nameless: The ids of calls whose first piece, which has the name, did not come.
    """

    text: str = ""
    calls: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    spent: int = 0
    end: str = ""
    reset: str = ""
    nameless: set[str] = field(default_factory=set)


class Follower(ABC):
    """Starts and follows one run.

    Args:
        http: Sends its requests; every response may be cut.
        message: What it asks.
        conversation_id: In which conversation.
        key: Names the run for the client.

    Attributes:
        correlation_id: The run's, once it is known.
        ids: The ids of the frames that have come, in order.
        refused: The statuses that were not 200.
    """

    wire: ClassVar[str]
    tells_tools: ClassVar[bool] = True
    tells_cancelled: ClassVar[bool] = True
    base_path: ClassVar[str] = ""

    def __init__(self, http: httpx.AsyncClient, message: str, conversation_id: str, key: str) -> None:
        self.correlation_id = ""
        self.ids: list[str] = []
        self.refused: list[int] = []
        self._http = http
        self._message = message
        self._conversation_id = conversation_id
        self._key = key

    @property
    @abstractmethod
    def held(self) -> Held:
        """What it holds at the moment."""

    async def start(self) -> None:
        """Have the run accepted, however often that takes."""
        body = {"message": self._message, "conversation_id": self._conversation_id}
        while not self.correlation_id:
            with contextlib.suppress(httpx.HTTPError):
                response = await self._http.post(RUN_ROUTE, json=body, headers={"Idempotency-Key": self._key})
                if response.status_code == httpx.codes.ACCEPTED:
                    self.correlation_id = response.json()["correlation_id"]
                    return
                self.refused.append(response.status_code)
            await asyncio.sleep(RETRY_SECONDS)

    async def follow(self) -> None:
        """Follow it to its end.

        Raises:
            AssertionError: What came is not what the wire's clients understand.
        """
        while not self.held.end:
            with contextlib.suppress(httpx.HTTPError):
                await self._connect()
            if not self.held.end:
                await asyncio.sleep(RETRY_SECONDS)

    @abstractmethod
    async def _connect(self) -> None:
        """Read one response."""

    def _is_refused(self, response: httpx.Response) -> bool:
        """Return whether it is no stream: then what is to come is asked for again."""
        assert response.status_code != httpx.codes.NO_CONTENT, "something follows before the end"
        assert not response.is_client_error, "it is known, and asked for rightly"
        if response.status_code != httpx.codes.OK:
            self.refused.append(response.status_code)
        return response.status_code != httpx.codes.OK

    @property
    def _stream(self) -> str:
        return f"/api/agent/stream/{self._conversation_id}?correlation_id={self.correlation_id}"


class FrameFollower(Follower):
    """One whose frames have ids."""

    @abstractmethod
    def _request(self) -> tuple[str, str, Any]:
        """Return method, URL and body of the next request."""

    @abstractmethod
    def _take(self, frame: event_stream.ParsedEvent) -> None:
        """Take over a frame."""

    def _accepted(self, headers: httpx.Headers) -> None:
        """Take over what a response says of the stream."""

    async def _connect(self) -> None:
        method, url, body = self._request()
        headers = {"Last-Event-ID": self.ids[-1]} if self.ids else {}
        async with self._http.stream(method, url, json=body, headers=headers) as response:
            if self._is_refused(response):
                return
            self._accepted(response.headers)
            unread = b""
            async for data in response.aiter_raw():
                whole, blank, unread = (unread + data).rpartition(b"\n\n")
                for frame in event_stream.parse(whole + blank):
                    self.ids.append(frame.id)
                    self._take(frame)


class Sse(FrameFollower):
    """Our own events, as a browser's EventSource reads them."""

    wire = "sse"
    tells_tools = False

    def __init__(self, *run: Any) -> None:
        super().__init__(*run)
        self._held = Held()

    @property
    def held(self) -> Held:
        return self._held

    def _request(self) -> tuple[str, str, Any]:
        return "GET", self._stream, None

    def _take(self, frame: event_stream.ParsedEvent) -> None:
        assert not self._held.end, "nothing comes after the end"
        match frame.event:
            case "message":
                self._held.text += self._text(frame.data)
            case "reset":
                self._held = Held(reset=json.loads(frame.data)["reason"])
            case kind if kind in TERMINAL:
                self._held.end = kind
            case kind:
                self._take_further(kind, json.loads(frame.data))

    def _text(self, data: str) -> str:
        return data

    def _take_further(self, kind: str, data: dict[str, Any]) -> None:
        raise AssertionError(f"{kind} was not asked for")


class SseJson(Sse):
    """The same with all kinds of events, each as JSON."""

    wire = "sse, json, all"
    tells_tools = True

    def _take(self, frame: event_stream.ParsedEvent) -> None:
        super()._take(frame)
        assert not (self._held.end and self._held.nameless), "a reset follows a call whose first piece Redis has lost"

    def _request(self) -> tuple[str, str, Any]:
        return "GET", f"{self._stream}&include=all&format=json", None

    def _text(self, data: str) -> str:
        text: str = json.loads(data)["text"]
        return text

    def _take_further(self, kind: str, data: dict[str, Any]) -> None:
        match kind:
            case "tool_call":
                known = self._held.calls
                assert "name" not in data or data["id"] not in known, "only the first piece of a call has its name"
                if "name" not in data and data["id"] not in known:
                    self._held.nameless.add(data["id"])
                known[data["id"]] = known.get(data["id"], "") + data["arguments"]
            case "tool_result":
                assert data["id"] not in self._held.results, "a call has one result"
                self._held.results[data["id"]] = data["result"]
            case "usage":
                self._held.spent += data["total_tokens"]
            case _:
                raise AssertionError(f"the model says no {kind}")


class AgUi(FrameFollower):
    """AG-UI: a POST that streams, resumed where its Location says."""

    wire = "ag-ui"

    def __init__(self, *run: Any) -> None:
        super().__init__(*run)
        self._client = ag_ui_client.Client()
        self._location = ""
        self._resets = False
        self._input = agui_input(self._message, threadId=self._conversation_id, runId=self._key)

    async def start(self) -> None:
        # The run's own stream starts it.
        self.correlation_id = run_of_key(AGENT, run_key(self._conversation_id, self._key), None)

    @property
    def held(self) -> Held:
        messages = self._client.messages
        calls: dict[str, str] = next((m.get("toolCalls", {}) for m in messages if m["id"] == self.correlation_id), {})
        results = {m["toolCallId"]: m["content"] for m in messages if m["role"] == "tool"}
        reset = "unknown" if self._resets else ""
        return Held(self._client.text(self.correlation_id), calls, results, end=self._end, reset=reset)

    @property
    def _end(self) -> str:
        ended = self._client.ended
        if ended is None:
            return ""
        if ended["type"] == "RUN_ERROR":
            return "error"
        return "cancelled" if ended.get("outcome") == {"type": "cancelled"} else "done"

    def _request(self) -> tuple[str, str, Any]:
        return ("GET", self._location, None) if self._location else ("POST", AGUI_ROUTE, self._input)

    def _accepted(self, headers: httpx.Headers) -> None:
        self._location = headers["location"]

    def _take(self, frame: event_stream.ParsedEvent) -> None:
        data = json.loads(frame.data)
        self._resets |= data["type"] == "MESSAGES_SNAPSHOT"
        self._client.take(data)


class UiMessage(FrameFollower):
    """UI messages of the AI SDK: a POST that streams, resumed where its Location says."""

    wire = "ui message"
    ENDS: ClassVar[dict[Any, str]] = {"finish": "done", "abort": "cancelled", "error": "error"}

    def __init__(self, *run: Any) -> None:
        super().__init__(*run)
        self._client = ui_message_client.Client()
        self._location = ""
        self._resets = False
        said = {"id": self._key, "role": "user", "parts": [{"type": "text", "text": self._message}]}
        self._input = chat_input("", id=self._conversation_id, messages=[said])

    async def start(self) -> None:
        # The run's own stream starts it.
        self.correlation_id = run_of_key(AGENT, f"chat {self._conversation_id} {self._key}", None)

    @property
    def held(self) -> Held:
        tools = self._client.tools
        calls = {call_id: tool["text"] for call_id, tool in tools.items()}
        results = {call_id: tool["output"] for call_id, tool in tools.items() if "output" in tool}
        ended = self._client.ended
        end = self.ENDS[ended[-2]] if ended[-1:] == ["[DONE]"] else ""
        text = "".join(text for kind, text in self._client.parts if kind == "text")
        return Held(text, calls, results, end=end, reset="unknown" if self._resets else "")

    def _request(self) -> tuple[str, str, Any]:
        return ("GET", self._location, None) if self._location else ("POST", CHAT_ROUTE, self._input)

    def _accepted(self, headers: httpx.Headers) -> None:
        self._location = headers["location"]
        assert self._location.endswith(f"={self.correlation_id}")

    def _take(self, frame: event_stream.ParsedEvent) -> None:
        data: Any = frame.data if frame.data == "[DONE]" else json.loads(frame.data)
        self._resets |= data == {"type": "reset-step"}
        self._client.take(data)


class Text(Follower):
    """The bare text, as a terminal shows it.

    A response that ends by itself in the middle of an answer says where to go on. One that is cut says nothing, so what
    it brought is worth nothing.
    """

    wire = "text"
    tells_tools = False
    tells_cancelled = False

    def __init__(self, *run: Any) -> None:
        super().__init__(*run)
        self._read = ""
        self._cursor = ""
        self._held = Held()

    @property
    def held(self) -> Held:
        return self._held

    async def _connect(self) -> None:
        cursor = f"&cursor={self._cursor}" if self._cursor else ""
        response = await self._http.get(self._stream + cursor, headers={"Accept": "text/plain"})
        if self._is_refused(response):
            return
        text = response.content.decode()
        more = MORE_TO_COME.search(text)
        if more:
            self._read, self._cursor = self._read + text[: more.start()], more[1]
            return
        *reset, text = (self._read + text).split(STARTS_AGAIN)
        error = ERROR.search(text)
        assert error or text.endswith("\n"), "a line ends what is shown"
        end = "error" if error else "done"
        self._held = Held(text[: error.start() if error else -1], end=end, reset="unknown" if reset else "")


class PythonClient(Follower):
    """``agentstream.client``."""

    wire = "python client"
    tells_tools = False
    base_path = "/api"

    def __init__(self, *run: Any) -> None:
        super().__init__(*run)
        self._held = Held()
        self._client = AgentClient(
            self._http, RetryPolicy(tries=100, max_pause_seconds=PATIENCE_SECONDS, silence_seconds=5)
        )

    @property
    def held(self) -> Held:
        return self._held

    async def start(self) -> None:
        self._run = await self._client.start(
            AGENT, self._message, conversation_id=self._conversation_id, idempotency_key=self._key
        )
        self.correlation_id = self._run.correlation_id

    async def _connect(self) -> None:
        async for event in self._run.events():
            self.ids.append(event.id)
            if event.kind == "reset":
                self._held.reset = json.loads(event.data)["reason"]
        assert self._run.end is not None, "something follows before the end"
        self._held.text, self._held.end = self._run.text, self._run.end.kind


FOLLOWERS: tuple[type[Follower], ...] = (Sse, SseJson, Text, AgUi, UiMessage, PythonClient)
