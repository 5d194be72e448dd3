"""A way to an app that moves from one host to another and whose responses are cut at random bytes."""

import random
from collections.abc import AsyncIterator, Callable

import httpx

# Some thousand bytes at most, and a few as often: a short answer is to be cut, too.
MAX_DECADES = 3.6


class CuttingTransport(httpx.AsyncBaseTransport):
    """Sends requests to where the app is at the moment, and may cut the responses.

    Args:
        origin: Asked for the app's origin before each request.
        cuts: Says which responses are cut, and after how many bytes: after none the client does not know of one. None
            for no cuts.

    Attributes:
        cut: How many responses it has cut.
    """

    def __init__(self, origin: Callable[[], str], cuts: random.Random | None = None) -> None:
        self.cut = 0
        self._origin = origin
        self._cuts = cuts
        self._http = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        origin = httpx.URL(self._origin())
        request.url = request.url.copy_with(scheme=origin.scheme, host=origin.host, port=origin.port)
        response = await self._http.handle_async_request(request)
        if self._cuts is None or self._cuts.random() < 0.3:
            return response
        left = round(10 ** self._cuts.uniform(-1, MAX_DECADES))
        if not left:
            await response.aclose()
            self.cut += 1
            raise httpx.ReadError("cut before the response", request=request)
        return httpx.Response(response.status_code, headers=response.headers, stream=_CutStream(self, response, left))

    async def aclose(self) -> None:
        await self._http.aclose()


class _CutStream(httpx.AsyncByteStream):
    def __init__(self, transport: CuttingTransport, response: httpx.Response, left: int) -> None:
        self._transport = transport
        self._response = response
        self._left = left

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert isinstance(self._response.stream, httpx.AsyncByteStream)
        async for data in self._response.stream:
            yield data[: self._left]
            self._left -= len(data)
            if self._left <= 0:
                self._transport.cut += 1
                raise httpx.ReadError("cut")

    async def aclose(self) -> None:
        await self._response.aclose()
