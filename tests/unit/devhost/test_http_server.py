import asyncio
import contextlib
from itertools import pairwise
from socket import create_connection

from starlette.responses import Response

from devhost.http_server import ACCEPTED_AT_ONCE, bind, make_server

CONNECTIONS = 100


async def test_a_flood_of_connections_is_accepted_a_few_at_a_time_and_none_is_refused() -> None:
    listener = bind(0)
    server = make_server(Response())
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.ready.wait()
    accepted = [0]
    with contextlib.ExitStack() as stack:
        # Without a turn of the loop, so that all of them wait to be accepted.
        for _ in range(CONNECTIONS):
            stack.enter_context(create_connection(listener.getsockname(), timeout=10))
        async with asyncio.timeout(10):
            while accepted[-1] < CONNECTIONS:
                await asyncio.sleep(0)
                accepted.append(len(server.server_state.connections))
    server.should_exit = True
    await serving

    assert max(later - earlier for earlier, later in pairwise(accepted)) <= ACCEPTED_AT_ONCE + 1
