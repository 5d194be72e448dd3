"""HTTP functions of the classic types, which are invoked with the whole request."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from devhost.testing import HostProcess
from tests.e2e.durable.client import Programs


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    directory = tmp_path_factory.mktemp("classic")
    with HostProcess(directory / "state", app_dir=Path(__file__).parent / "classic") as host:
        yield Programs(host.base_url, directory)


def start(classic: Programs, **plan: Any) -> str:
    """Start an orchestration and return its id."""
    identifier: str = classic.webhooks.post("orchestrators/echo", json=plan).json()["id"]
    return identifier


def test_request_context_and_text(classic: Programs) -> None:
    answer = classic.http.put("text/word", content="body")
    assert answer.text == "PUT word body text"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_response(classic: Programs) -> None:
    answer = classic.http.get("made?a=1&b=%20")
    assert (answer.status_code, answer.content) == (418, b"\x00\xff")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-query"] == '{"a": "1", "b": " "}'
    assert answer.headers["set-cookie"] == "name=value; HttpOnly; Path=/made; SameSite=lax"


@pytest.mark.parametrize("route", ["broken", "nothing"])
def test_failure(classic: Programs, route: str) -> None:
    answer = classic.http.get(route)
    assert (answer.status_code, answer.content) == (500, b"")


def test_wait_for_completion_gives_the_output_or_the_status_urls(classic: Programs) -> None:
    assert classic.http.get(f"wait/{start(classic, value=3)}?milliseconds=10000").json() == 3
    answer = classic.http.get(f"wait/{start(classic, value=3, after='go')}?milliseconds=50")
    assert answer.status_code == 202
    status = httpx.get(answer.headers["location"])
    assert (status.status_code, status.json()["runtimeStatus"]) == (202, "Running")
    assert httpx.get(answer.json()["terminatePostUri"]).status_code == 404
    assert httpx.post(answer.json()["terminatePostUri"]).status_code == 202
