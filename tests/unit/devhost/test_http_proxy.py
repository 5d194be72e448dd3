"""The proxy between real sockets: a client, the host's server, and a server in the worker's place."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from devhost.http_proxy import HttpProxy, replayed
from devhost.http_server import bind, make_server, origin

Handler = Callable[[Request], Awaitable[Response]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """Serve an app and yield its origin."""
    listener = bind(0)
    server = make_server(app)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await server.ready.wait()
    try:
        yield origin(listener)
    finally:
        server.should_exit = True
        await task


class Front:
    """The host's server: all requests are forwarded; ``answered`` is what ``forward`` said of each."""

    def __init__(self, proxy: HttpProxy) -> None:
        self._proxy = proxy
        self.answered: list[bool] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.answered.append(await self._proxy.forward(scope, receive, send, "the-invocation"))


@asynccontextmanager
async def forwarding(handler: Handler) -> AsyncIterator[str]:
    async def worker(scope: Scope, receive: Receive, send: Send) -> None:
        response = await handler(Request(scope, receive))
        await response(scope, receive, send)

    async with serving(worker) as worker_origin, HttpProxy(worker_origin) as proxy, serving(Front(proxy)) as address:
        yield address


@asynccontextmanager
async def client(address: str, request: str) -> AsyncIterator[Streams]:
    """Send a request, or the beginning of one, and yield the connection."""
    url = httpx.URL(address)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        async with asyncio.timeout(10):
            writer.write(request.encode())
            yield reader, writer
    finally:
        writer.close()


async def echo(request: Request) -> Response:
    return JSONResponse(
        {
            "method": request.method,
            "path": request.scope["raw_path"].decode(),
            "query": request.scope["query_string"].decode(),
            "headers": {name: request.headers.getlist(name) for name in request.headers},
            "body": (await request.body()).decode(),
        }
    )


async def test_each_part_of_a_response_comes_at_once() -> None:
    read = [asyncio.Event() for _ in range(3)]

    async def parts() -> AsyncIterator[str]:
        for number, event in enumerate(read):
            yield f"part {number}\n"
            await event.wait()

    async def stream(request: Request) -> Response:
        return StreamingResponse(parts())

    async with forwarding(stream) as address, client(address, "GET / HTTP/1.1\r\nHost: h\r\n\r\n") as (reader, _):
        for number, event in enumerate(read):
            await reader.readuntil(f"part {number}\n".encode())
            event.set()
        await reader.readuntil(b"0\r\n\r\n")


async def test_each_part_of_a_request_comes_at_once() -> None:
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    async def take(request: Request) -> Response:
        async for part in request.stream():
            arrived.put_nowait(part)
        return Response("taken")

    head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with forwarding(take) as address, client(address, head) as (reader, writer):
        for part in (b"one", b"two", b"six"):
            writer.write(b"3\r\n" + part + b"\r\n")
            assert await arrived.get() == part
        writer.write(b"0\r\n\r\n")
        await reader.readuntil(b"taken")


async def test_a_client_that_leaves_ends_the_stream() -> None:
    ended = asyncio.Event()

    async def parts() -> AsyncIterator[str]:
        try:
            yield "begin"
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def stream(request: Request) -> Response:
        return StreamingResponse(parts())

    async with forwarding(stream) as address, client(address, "GET / HTTP/1.1\r\nHost: h\r\n\r\n") as (reader, writer):
        await reader.readuntil(b"begin")
        assert not ended.is_set()
        writer.close()
        await ended.wait()


async def test_a_client_that_leaves_within_its_request(caplog: pytest.LogCaptureFixture) -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def take(request: Request) -> Response:
        try:
            async for _ in request.stream():
                begun.set()
        except ClientDisconnect:
            left.set()
        return Response()

    head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nbegin"
    async with forwarding(take) as address, client(address, head) as (_, writer):
        await begun.wait()
        writer.close()
        await left.wait()
    assert not caplog.records


async def test_what_the_worker_gets() -> None:
    headers = [
        ("Connection", "X-Hop, keep-alive"), ("X-Hop", "1"), ("Keep-Alive", "5"), ("TE", "trailers"), ("Upgrade", "h2"),
        ("Proxy-Authorization", "secret"), ("X-Ms-Invocation-Id", "another"),
        ("X-Many", "1"), ("X-Many", "2"), ("Cookie", "a=b"), ("Host", "app.example:80"),
    ]  # fmt: skip
    async with forwarding(echo) as address, httpx.AsyncClient() as http:
        answer = await http.put(f"{address}/%41%2Fb/%C3%A9?q=%20&q=+&q=%7E", headers=headers, content=b"body")
    got = answer.json()
    assert [got[name] for name in ("method", "path", "query", "body")] == [
        "PUT",
        "/%41%2Fb/%C3%A9",
        "q=%20&q=+&q=%7E",
        "body",
    ]
    assert got["headers"]["x-many"] == ["1", "2"]
    assert got["headers"]["cookie"] == ["a=b"]
    assert got["headers"]["content-length"] == ["4"]
    assert got["headers"]["x-ms-invocation-id"] == ["the-invocation"]
    assert got["headers"]["x-forwarded-for"] == ["127.0.0.1"]
    assert got["headers"]["x-forwarded-proto"] == ["http"]
    assert got["headers"]["x-forwarded-host"] == ["app.example:80"]
    assert got["headers"]["host"] != ["app.example:80"]
    assert not {"x-hop", "keep-alive", "te", "upgrade", "proxy-authorization"} & got["headers"].keys()
    # Nothing that the client did not say.
    assert not {"content-type", "transfer-encoding"} & got["headers"].keys()


async def test_what_the_client_gets() -> None:
    compressed = gzip.compress(b"text")

    async def answer(request: Request) -> Response:
        response = Response(compressed, 418, {"Content-Encoding": "gzip", "X-Hop": "1", "Connection": "X-Hop"})
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    async with forwarding(answer) as address, httpx.AsyncClient() as http:
        got = await http.get(address)
    assert (got.status_code, got.text) == (418, "text")
    assert got.headers["content-length"] == str(len(compressed))
    assert len(got.headers.get_list("set-cookie")) == 2
    assert [len(got.headers.get_list(name)) for name in ("date", "server")] == [1, 1]
    assert "x-hop" not in got.headers


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_a_response_without_a_body(method: str, status: int) -> None:
    async def answer(request: Request) -> Response:
        return Response(status_code=status, headers={"X-Which": "this"})

    async with forwarding(answer) as address, httpx.AsyncClient() as http:
        for _ in range(2):
            got = await http.request(method, address)
            assert (got.status_code, got.content, got.headers["x-which"]) == (status, b"", "this")


async def test_an_answer_before_the_end_of_the_request() -> None:
    async def refuse(request: Request) -> Response:
        await anext(request.stream())
        return Response("too large", 413)

    head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\nbegin"
    async with forwarding(refuse) as address, client(address, head) as (reader, _):
        assert (await reader.readuntil(b"too large")).startswith(b"HTTP/1.1 413 ")


async def test_a_redirect_is_the_clients_to_follow() -> None:
    async def redirect(request: Request) -> Response:
        return RedirectResponse("/elsewhere")

    async with forwarding(redirect) as address, httpx.AsyncClient() as http:
        got = await http.get(address)
    assert (got.status_code, got.headers["location"]) == (307, "/elsewhere")


async def test_a_response_that_breaks_off_stays_unfinished() -> None:
    async def parts() -> AsyncIterator[str]:
        yield "begin"
        raise RuntimeError("it breaks")

    async def stream(request: Request) -> Response:
        return StreamingResponse(parts())

    async with forwarding(stream) as address, client(address, "GET / HTTP/1.1\r\nHost: h\r\n\r\n") as (reader, _):
        got = await reader.read()
    assert b"begin" in got
    assert not got.endswith(b"0\r\n\r\n")


async def test_a_worker_that_is_not_there() -> None:
    listener = bind(0)
    gone = origin(listener)
    listener.close()
    async with HttpProxy(gone) as proxy:
        front = Front(proxy)
        async with serving(front) as address, httpx.AsyncClient() as http:
            assert (await http.get(address)).status_code == 502
    assert front.answered == [False]


async def test_two_hundred_streams_at_once() -> None:
    followers = 200
    everybody = asyncio.Barrier(followers)

    async def parts() -> AsyncIterator[str]:
        yield "begin"
        await everybody.wait()
        yield "end"

    async def stream(request: Request) -> Response:
        return StreamingResponse(parts())

    limits = httpx.Limits(max_connections=followers)
    async with forwarding(stream) as address, httpx.AsyncClient(limits=limits, timeout=30) as http:
        got = await asyncio.gather(*(http.get(address) for _ in range(followers)))
    assert {response.text for response in got} == {"beginend"}


async def test_a_request_whose_client_left_while_it_waited_does_not_reach_the_worker() -> None:
    proxy_of, answered = list[HttpProxy](), asyncio.Queue[bool]()

    async def wait_and_forward(scope: Scope, receive: Receive, send: Send) -> None:
        first = await receive()
        assert (await receive())["type"] == "http.disconnect"
        await answered.put(await proxy_of[0].forward(scope, replayed(first, receive), send, "the-invocation"))

    async def worker(scope: Scope, receive: Receive, send: Send) -> None:
        await Response()(scope, receive, send)

    async with serving(worker) as worker_origin, HttpProxy(worker_origin) as proxy:
        proxy_of.append(proxy)
        async with serving(wait_and_forward) as address:
            async with client(address, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"):
                pass
            async with asyncio.timeout(10):
                assert not await answered.get()
