"""A smoke test of a running app: health, a run, its live stream, a cut, resume; it says in words what failed.

    python3 infra/smoke_test.py [URL]      the app that runs there; http://localhost:7071 by default
    python3 infra/smoke_test.py --azure    the app that azd has deployed

A function key is taken from the environment (FUNCTION_KEY), else, for azd's app, asked for with azd's sign-in.

Python alone suffices. Redis cannot be reached from outside; that it passes on what is published (``SSUBSCRIBE``, and
``SPUBLISH`` in a script) is seen by its effect: a follower hears what comes next on the same connection, while the run
goes on.
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException
from typing import Any

LOCAL = "http://localhost:7071"
MESSAGE = "Plan a 3-day trip to Tokyo"
AGENT = "TravelPlanner"
MANAGEMENT = "https://management.azure.com"
# Azure makes an instance for the first request, and roles take minutes to spread after they were assigned.
START_SECONDS = float(os.environ.get("SMOKE_START_SECONDS", "300"))
RUN_SECONDS = float(os.environ.get("SMOKE_RUN_SECONDS", "300"))
RETRY_SECONDS = 5.0
# The app sends a comment at least every HEARTBEAT_SECONDS (120 at most).
SILENCE_SECONDS = 130.0
EVENTS_BEFORE_THE_CUT = 3
ENDS = ("done", "error", "cancelled")


class SmokeError(Exception):
    """What does not work, and what to look at, for a person."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


@dataclass(frozen=True)
class App:
    """The app at an address.

    Args:
        url: Its origin.
        key: A function key; empty where none is asked for.
    """

    url: str
    key: str = ""

    def send(self, method: str, path: str, text: str | None = None, **headers: str) -> Any:
        """Send a request, and return the response whatever its status; its body is read as it comes.

        Raises:
            SmokeError: Nobody answers.
        """
        if self.key:
            headers["x-functions-key"] = self.key
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        body = None if text is None else text.encode()
        request = urllib.request.Request(self.url + path, data=body, method=method, headers=names)
        try:
            return urllib.request.build_opener(_NoRedirect).open(request, timeout=SILENCE_SECONDS)
        except urllib.error.HTTPError as refusal:
            return refusal
        except OSError as error:
            raise SmokeError(f"{self.url} does not answer ({error}). Is the app deployed and started?") from None


@dataclass(frozen=True)
class Event:
    id: str
    name: str
    data: str


@dataclass
class Heard:
    """What a follower has heard of a run, over all its connections."""

    events: list[Event] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Take the next event.

        Raises:
            SmokeError: It is not newer than the one before.
        """
        if self.events and _position(event.id) <= _position(self.events[-1].id):
            raise SmokeError(
                f"resume: event {event.id} came after {self.events[-1].id}: something was lost or repeated"
            )
        # An id begins with the time at which Redis took the event, by its own clock.
        self.delays.append(time.time() - _position(event.id)[0] / 1000)
        self.events.append(event)

    @property
    def last_id(self) -> str:
        return self.events[-1].id if self.events else "0-0"

    @property
    def ended(self) -> bool:
        return bool(self.events) and self.events[-1].name in ENDS

    @property
    def text(self) -> str:
        text = ""
        for event in self.events:
            text = "" if event.name == "reset" else text + event.data if event.name == "message" else text
        return text


def _position(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)


def read_events(response: Any, deadline: float) -> Iterator[Event]:
    """Yield a response's events as they come, to its end.

    Raises:
        SmokeError: The deadline (by ``time.monotonic``) has passed, or nothing at all came for too long.
    """
    fields: dict[str, list[str]] = {}
    while line := _line(response):
        if time.monotonic() > deadline:
            raise SmokeError("stream: it stays open, but the run's end does not come")
        name, _, value = line.decode().rstrip("\n").partition(":")
        if name:
            fields.setdefault(name, []).append(value.removeprefix(" "))
            continue
        if not value and "id" in fields:
            yield Event(fields["id"][-1], fields.get("event", ["message"])[-1], "\n".join(fields.get("data", [])))
        if not value:
            fields = {}


def _line(response: Any) -> bytes:
    try:
        line: bytes = response.readline()
    except (ConnectionError, HTTPException):
        # A cut: the run is followed over another connection.
        return b""
    except TimeoutError:
        raise SmokeError("stream: not even a heartbeat comes, so something between holds the response back") from None
    return line


def wait_for_health(app: App, seconds: float) -> dict[str, Any]:
    """Wait until the app and its Redis are well, and return what it says of itself."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return _health(app)
        except SmokeError:
            if time.monotonic() + RETRY_SECONDS > deadline:
                raise
            time.sleep(RETRY_SECONDS)


def _health(app: App) -> dict[str, Any]:
    with app.send("GET", "/api/health") as response:
        status, body = response.status, response.read().decode(errors="replace")
    if status == HTTPStatus.OK:
        health: dict[str, Any] = json.loads(body)
        return health
    if status == HTTPStatus.SERVICE_UNAVAILABLE and '"redis"' in body:
        raise SmokeError(
            "health: the app runs, but its Redis does not answer. Right after a deployment its access may still be "
            "spreading: wait some minutes. Else look at REDIS_CONNECTION_STRING, and at the log."
        )
    if status == HTTPStatus.NOT_FOUND:
        raise SmokeError(
            "health: the host runs, but has no functions: the package was not built, or the app does not load. The log "
            "stream has the reason."
        )
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.FOUND):
        raise SmokeError(f"health: {status}; it should need no sign-in. Is /api/health among the excluded paths?")
    raise SmokeError(
        f"health: {status} {body[:200]!r}. The host does not start: where its roles on the storage account are still "
        "spreading, 'azd deploy' in some minutes helps; else the log stream has the reason."
    )


def start_run(app: App) -> dict[str, Any]:
    """Start a run and return its ids and addresses."""
    with app.send("POST", f"/api/agents/{AGENT}/run", MESSAGE, content_type="text/plain") as response:
        status, body = response.status, response.read().decode(errors="replace")
    if status == HTTPStatus.ACCEPTED:
        run: dict[str, Any] = json.loads(body)
        return run
    if status == HTTPStatus.UNAUTHORIZED:
        raise SmokeError("run: the function key was refused, or there was none. Set FUNCTION_KEY.")
    raise SmokeError(f"run: not accepted but {status}: {_detail(body)}")


def follow(app: App, run: dict[str, Any], seconds: float) -> tuple[Heard, int]:
    """Follow a run to its end, cutting the first connection, and return what was heard over how many connections.

    Raises:
        SmokeError: Something was lost, repeated or held back, or the end did not come.
    """
    heard, connections, deadline = Heard(), 0, time.monotonic() + seconds
    while not heard.ended:
        if time.monotonic() > deadline:
            raise SmokeError(f"stream: no end within {seconds:g} s; the run is {_run(app, run)['status']}")
        connections += 1
        with app.send("GET", run["stream_url"], accept="text/event-stream", last_event_id=heard.last_id) as response:
            if response.status != HTTPStatus.OK:
                raise SmokeError(
                    f"stream: {response.status} to connection {connections}: {_detail(response.read().decode())}"
                )
            for event in read_events(response, deadline):
                if not heard.events and event.name not in ENDS:
                    _check_that_it_is_live(app, run)
                heard.add(event)
                if connections == 1 and len(heard.events) == EVENTS_BEFORE_THE_CUT:
                    break
    return heard, connections


def _check_that_it_is_live(app: App, run: dict[str, Any]) -> None:
    status = _run(app, run)["status"]
    if status not in ("queued", "running"):
        raise SmokeError(
            f"stream: its first event came when the run was {status} already. Either something between buffers the "
            "response, or Redis does not pass on what is published (SSUBSCRIBE, SPUBLISH)."
        )


def _run(app: App, run: dict[str, Any]) -> dict[str, Any]:
    with app.send("GET", run["status_url"]) as response:
        body = response.read().decode(errors="replace")
    if response.status != HTTPStatus.OK:
        raise SmokeError(f"run status: {response.status}: {_detail(body)}")
    view: dict[str, Any] = json.loads(body)
    return view


def check_end(app: App, run: dict[str, Any], heard: Heard) -> None:
    """Check that the run ended well, and that what was heard is the committed answer, with nothing to come."""
    end = heard.events[-1]
    if end.name != "done":
        raise SmokeError(
            f"stream: the run ended with {end.name}: {end.data}. A model_error means the model: is it deployed, has "
            "the app's identity its role, is the quota used up?"
        )
    committed = _run(app, run)["response"] or ""
    if heard.text != committed.replace("\r\n", "\n").replace("\r", "\n"):
        raise SmokeError(
            f"done: the follower holds {len(heard.text)} characters that are not the committed {len(committed)}"
        )
    with app.send("GET", run["stream_url"], last_event_id=heard.last_id) as response:
        if response.status != HTTPStatus.NO_CONTENT:
            raise SmokeError(f"resume after the end: {response.status} instead of 204")


def erase(app: App, run: dict[str, Any]) -> None:
    """Delete the conversation."""
    with app.send("DELETE", f"/api/agent/conversations/{run['conversation_id']}") as response:
        if response.status != HTTPStatus.NO_CONTENT:
            raise SmokeError(f"delete: {response.status}: {_detail(response.read().decode(errors='replace'))}")


def check_sign_in(app: App) -> None:
    """Check that nobody gets in without signing in, not even who names a user himself."""
    with app.send(
        "POST", f"/api/agents/{AGENT}/run", MESSAGE, content_type="text/plain", x_ms_client_principal_id="somebody"
    ) as response:
        if response.status not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FOUND):
            raise SmokeError(f"sign-in: a request of nobody was answered {response.status} instead of being refused")


def function_key(app_id: str) -> str:
    """Ask Azure for the app's default function key, with the sign-in of azd.

    Args:
        app_id: The function app's resource id.
    """
    asked = subprocess.run(["azd", "auth", "token", "--output", "json"], capture_output=True, text=True, check=False)
    if asked.returncode:
        raise SmokeError(f"key: azd gives no token: {asked.stderr.strip()}")
    request = urllib.request.Request(
        f"{MANAGEMENT}{app_id}/host/default/listkeys?api-version=2024-11-01",
        data=b"",
        headers={"Authorization": f"Bearer {json.loads(asked.stdout)['token']}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return str(json.load(response)["functionKeys"]["default"])
    except (OSError, KeyError) as error:
        raise SmokeError(f"key: Azure does not tell the app's function key ({error!r}). Set FUNCTION_KEY.") from None


def smoke_test(app: App, say: Callable[[str], None]) -> None:
    """Run the whole test, telling each step that works.

    Raises:
        SmokeError: The first step that does not.
    """
    began = time.monotonic()
    run = start_run(app)
    say(f"run: accepted, conversation {run['conversation_id']}")
    heard, connections = follow(app, run, RUN_SECONDS)
    check_end(app, run, heard)
    say(f"stream: live, {len(heard.events)} events in {time.monotonic() - began:.1f} s, ending in done")
    say(f"resume: exact over {connections} connections; the text is the committed answer")
    slowest = max(heard.delays) - min(heard.delays)
    say(f"news: what is published arrives, the slowest {slowest * 1000:.0f} ms after the time of the quickest")
    erase(app, run)
    say("delete: done")


def main(arguments: list[str]) -> int:
    """Return the exit status: 0 if all works."""
    on_azure = arguments == ["--azure"]
    url = os.environ["APP_URL"] if on_azure else (arguments or [LOCAL])[0].rstrip("/")
    signs_in = on_azure and os.environ.get("AUTH") == "easy_auth"

    def say(what: str) -> None:
        print(f"  {what}", flush=True)

    print(f"Smoke test of {url}", flush=True)
    try:
        health = wait_for_health(App(url), START_SECONDS if on_azure else 0)
        say(f"health: the app and its Redis ({health['redis']['latency_ms']} ms) are well")
        if signs_in:
            check_sign_in(App(url))
            say("sign-in: refused without; sign in on the page and send a message to see the rest")
        else:
            key = os.environ.get("FUNCTION_KEY") or (function_key(os.environ["FUNCTION_APP_ID"]) if on_azure else "")
            smoke_test(App(url, key), say)
    except SmokeError as error:
        print(f"  FAILED: {error}", flush=True)
        return 1
    except (OSError, HTTPException) as error:
        print(f"  FAILED: after the last step that worked: {error!r}", flush=True)
        return 1
    if on_azure:
        print(f"\nThe page: {os.environ['PAGE_URL']}\nThe first call:\n  {os.environ['FIRST_CALL']}")
        print(
            "Its key: az functionapp keys list --query functionKeys.default --output tsv "
            f"--resource-group {os.environ['AZURE_RESOURCE_GROUP']} --name {os.environ['FUNCTION_APP_NAME']}"
        )
    return 0


def _detail(body: str) -> str:
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body[:200]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
