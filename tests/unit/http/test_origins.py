from collections.abc import Mapping

import pytest
from azurefunctions.extensions.http.fastapi import Request, Response
from starlette.datastructures import Headers

from agentstream.http.origins import Origins
from agentstream.http.problems import ProblemError

OWN = {"x-forwarded-host": "app.example", "host": "127.0.0.1:50001"}
PARTNER = "https://partner.example"


def request(headers: Mapping[str, str]) -> Request:
    raw = [(name.lower().encode(), value.encode()) for name, value in (OWN | dict(headers)).items()]
    return Request({"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": raw})


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://app.example:8443"},
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://other.app.example", "Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_page_of_another_site_changes_nothing(headers: dict[str, str]) -> None:
    with pytest.raises(ProblemError) as refused:
        Origins([]).check(request(headers))

    assert refused.value.status == 403
    assert "ALLOWED_ORIGINS" in refused.value.detail


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "https://app.example"},
        {"Origin": "https://APP.example"},
        {"Origin": "https://app.example", "Sec-Fetch-Site": "same-origin"},
        # A proxy in front has another name than we have.
        {"Origin": "https://public.example", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_what_is_no_page_or_our_own_passes(headers: dict[str, str]) -> None:
    Origins([]).check(request(headers))


def test_the_host_itself_is_asked_where_nothing_was_forwarded() -> None:
    direct = Request({"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"app.example")]})
    direct.scope["headers"].append((b"origin", b"https://app.example"))

    Origins([]).check(direct)


@pytest.mark.parametrize("allowed", [[PARTNER], ["*"], ["https://other.example", PARTNER]])
def test_an_allowed_page_passes(allowed: list[str]) -> None:
    Origins(allowed).check(request({"Origin": PARTNER, "Sec-Fetch-Site": "cross-site"}))


def test_one_that_is_not_on_the_list_does_not() -> None:
    with pytest.raises(ProblemError):
        Origins([PARTNER]).check(request({"Origin": "https://evil.example"}))


def answer(allowed: list[str], headers: Mapping[str, str]) -> Headers:
    response = Response()
    Origins(allowed).expose(request(headers), response)
    exposed: Headers = response.headers
    return exposed


def test_an_allowed_page_reads_the_answer_and_where_to_resume() -> None:
    headers = answer([PARTNER], {"Origin": PARTNER})

    assert headers["access-control-allow-origin"] == PARTNER
    assert "location" in headers["access-control-expose-headers"]
    assert headers["vary"] == "Origin"
    assert answer(["*"], {"Origin": PARTNER})["access-control-allow-origin"] == "*"


def test_any_other_page_does_not() -> None:
    headers = answer([PARTNER], {"Origin": "https://evil.example"})

    assert "access-control-allow-origin" not in headers
    # Or a cache gives this answer to the page that may read it.
    assert headers["vary"] == "Origin"
    assert "access-control-allow-origin" not in answer([], {"Origin": PARTNER})


def preflight(allowed: list[str], **headers: str) -> Response:
    asked = {"Origin": PARTNER, "Access-Control-Request-Method": "POST"}
    return Origins(allowed).preflight(request(asked | {name.replace("_", "-"): each for name, each in headers.items()}))


def test_a_preflight_says_what_may_be_sent() -> None:
    response = preflight([PARTNER], Access_Control_Request_Headers="x-functions-key, last-event-id, content-type")

    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == PARTNER
    assert {"GET", "POST", "DELETE"} <= set(response.headers["access-control-allow-methods"].split(", "))


def test_a_preflight_of_another_page_is_refused() -> None:
    response = preflight([PARTNER], Origin="https://evil.example")

    assert response.status_code == 400
    assert "access-control-allow-origin" not in response.headers


def test_options_without_a_preflight_are_a_problem() -> None:
    with pytest.raises(ProblemError, match="preflight"):
        Origins([PARTNER]).preflight(request({}))
