import asyncio
import threading

from agentstream.attempt.agent_loop import AgentLoop

MAX_TOOLS = 3


class Blocking:
    """Tools that block until they are released."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.at_once = threading.Semaphore(0)

    def block(self) -> None:
        self.at_once.release()
        self.release.wait(30)


async def test_promise_8_bounded_tools_that_block_and_what_else_the_agents_do_goes_on() -> None:
    loop, tools = AgentLoop(MAX_TOOLS), Blocking()
    blocked = [asyncio.create_task(loop.run(asyncio.to_thread(tools.block))) for _ in range(2 * MAX_TOOLS)]
    for _ in range(MAX_TOOLS):
        assert await asyncio.to_thread(tools.at_once.acquire, timeout=10)

    async def connect() -> None:
        # By a name, for which asyncio takes a thread.
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1")
        _, writer = await asyncio.open_connection("localhost", server.sockets[0].getsockname()[1])
        writer.close()
        server.close()

    async with asyncio.timeout(10):
        await loop.run(connect())

    assert not tools.at_once.acquire(blocking=False)
    tools.release.set()
    await asyncio.gather(*blocked)
