"""The platform's CORS in front of the app."""

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from devhost.host_config import Cors
from devhost.http_server import make_app, with_cors

PREFLIGHT = {"Origin": "https://a.example", "Access-Control-Request-Method": "DELETE"}


async def handler(request: Request) -> Response:
    return Response(request.method, headers={"Access-Control-Allow-Origin": "https://of-the-app.example"})


def client(cors: Cors) -> httpx.AsyncClient:
    app = with_cors(make_app([Route("/", handler, methods=["GET", "OPTIONS"])]), cors)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app.example")


async def test_the_platform_answers_a_preflight_itself() -> None:
    async with client(Cors(("https://a.example",))) as platform:
        response = await platform.options("/", headers=PREFLIGHT | {"Access-Control-Request-Headers": "x-any"})

    assert response.text != "OPTIONS"
    assert response.headers["access-control-allow-origin"] == "https://a.example"
    assert "DELETE" in response.headers["access-control-allow-methods"]
    assert response.headers["access-control-allow-headers"] == "x-any"


async def test_the_platform_has_the_last_word_on_the_headers() -> None:
    async with client(Cors(("https://a.example",))) as platform:
        response = await platform.get("/", headers={"Origin": "https://a.example"})

    assert response.headers["access-control-allow-origin"] == "https://a.example"


@pytest.mark.parametrize(("method", "headers"), [("OPTIONS", PREFLIGHT), ("GET", {"Origin": "https://a.example"})])
async def test_without_cors_of_the_platform_the_app_answers(method: str, headers: dict[str, str]) -> None:
    async with client(Cors()) as platform:
        response = await platform.request(method, "/", headers=headers)

    assert response.text == method
    assert response.headers["access-control-allow-origin"] == "https://of-the-app.example"
