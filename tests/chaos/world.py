"""The real parts of one scenario, and the faults that can be done to them."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from redis.asyncio import Redis
from redis.exceptions import RedisError

from devhost.testing import HostProcess
from tests.app import RUN_ROUTE
from tests.identity import ADMIN, Identity
from tests.model_server import ModelServer
from tests.proxy import Proxy
from tests.redis_process import RedisProcess, free_port
from tests.scripts import script, scripted_reply
from tests.waiting import eventually

LEASE_SECONDS = 1
TOKEN_SECONDS = 2
# Far more than a run takes; what dies in a step of its orchestration ends only then.
RUN_TIMEOUT_SECONDS = 15
# Of orchestrations and entities together: few enough to be taken, more than the runs of a scenario.
STEPS = 12
FAULTS_ROUTE = "/runtime/webhooks/durabletask/faults"


@dataclass
class World:
    """Two hosts over one state directory, of which at first one runs; the model; and Redis behind a proxy.

    ``identity`` is what the hosts sign in to Redis with, None where that takes no password.
    """

    hosts: tuple[HostProcess, HostProcess]
    redis: RedisProcess
    proxy: Proxy
    identity: Identity | None
    serving: int = 0

    @property
    def base_url(self) -> str:
        """Where clients find the app at the moment."""
        return self.hosts[self.serving].base_url

    async def kill_host(self, rng: random.Random) -> None:
        """SIGKILL the host and start it again."""
        host = self.hosts[self.serving]
        await asyncio.to_thread(host.kill)
        await asyncio.to_thread(host.start)

    async def pause_host(self, rng: random.Random) -> None:
        """SIGSTOP the host until its leases have run out and another host does its work; then let it go on."""
        paused = self.hosts[self.serving]
        paused.pause()
        self.serving = 1 - self.serving
        try:
            if not self.hosts[self.serving].running:
                await asyncio.to_thread(self.hosts[self.serving].start)
            await asyncio.sleep(LEASE_SECONDS * rng.uniform(1, 2))
        finally:
            paused.resume()

    async def kill_redis(self, rng: random.Random) -> None:
        """SIGKILL Redis and start it again with its append-only file."""
        await asyncio.to_thread(self.redis.kill)
        await self._start_redis(rng)

    async def wipe_redis(self, rng: random.Random) -> None:
        """SIGKILL Redis and start it again with nothing."""
        await asyncio.to_thread(self.redis.kill)
        self.redis.lose_data()
        await self._start_redis(rng)

    async def stall_redis(self, rng: random.Random) -> None:
        """Let Redis answer nobody for a while."""
        user, password = ADMIN if self.identity else (None, None)
        async with Redis.from_url(
            self.redis.url, username=user, password=password, single_connection_client=True
        ) as client:
            with contextlib.suppress(RedisError):
                await client.client_pause(int(rng.uniform(200, 1500)))

    async def reset_connections(self, rng: random.Random) -> None:
        """Cut the connections to Redis, several times."""
        for _ in range(rng.randint(1, 10)):
            self.proxy.reset_connections()
            await asyncio.sleep(rng.uniform(0, 0.1))

    async def cut_redis_off(self, rng: random.Random) -> None:
        """Refuse connections to Redis for a while."""
        with self.proxy.outage():
            await asyncio.sleep(rng.uniform(0.1, 1.5))

    async def slow_link(self, rng: random.Random) -> None:
        """Delay everything to and from Redis for a while."""
        self.proxy.delay_seconds = rng.uniform(0.01, 0.1)
        await asyncio.sleep(rng.uniform(0.2, 1.5))
        self.proxy.delay_seconds = 0.0

    async def overlap(self, rng: random.Random) -> None:
        """Execute an operation in progress a second time, or the next one that begins."""
        await self._order("overlap")

    async def refuse_commit(self, rng: random.Random) -> None:
        """Refuse the commit of the next entity state whose response has been sent."""
        await self._order("refuse_commit")

    async def crash_after_response(self, rng: random.Random) -> None:
        """SIGKILL the host between the next response and its state's commit, if there is one soon; start it again."""
        host = self.hosts[self.serving]
        await self._order("crash_after_response")
        with contextlib.suppress(TimeoutError):
            await eventually(lambda: _has_ended(host), 2)
        await self.kill_host(rng)

    async def die_in_step(self, rng: random.Random) -> None:
        """Let the worker die in the next step of an orchestration, which fails for good."""
        await self._order("die_in_step")

    async def function_timeout(self, rng: random.Random) -> None:
        """Let an entity function in progress exceed functionTimeout, so that the worker restarts."""

        async def is_ordered() -> bool:
            return await self._order("function_timeout", "@dafx-")

        with contextlib.suppress(TimeoutError):
            await eventually(is_ordered, 2)

    async def hang_models(self, rng: random.Random) -> None:
        """Take every slot of orchestrations and entities by runs whose models hang; cancel them after a while."""
        async with httpx.AsyncClient(base_url=self.base_url, timeout=5) as client:
            hung = [asyncio.create_task(_start_hung(client, rng.random())) for _ in range(STEPS)]
            await asyncio.sleep(rng.uniform(0.5, 2))
            for status_url in filter(None, await asyncio.gather(*hung)):
                with contextlib.suppress(httpx.HTTPError):
                    await client.post(f"{status_url}/cancel")

    async def expire_tokens(self, rng: random.Random) -> None:
        """Let the tokens of Microsoft Entra ID expire, which are the passwords of Redis, once or twice."""
        assert self.identity is not None
        for _ in range(rng.randint(1, 2)):
            with contextlib.suppress(RedisError):
                await asyncio.to_thread(self.identity.expire)
            await asyncio.sleep(rng.uniform(0, TOKEN_SECONDS))

    async def _start_redis(self, rng: random.Random) -> None:
        await asyncio.sleep(rng.uniform(0, 1))
        await asyncio.to_thread(self.redis.start)
        if self.identity:
            await asyncio.to_thread(self.identity.admit)

    async def _order(self, fault: str, match: str = "") -> bool:
        """Whether there is something it can happen to."""
        async with httpx.AsyncClient(timeout=5) as client:
            try:
                response = await client.post(f"{self.base_url}{FAULTS_ROUTE}/{fault}", params={"match": match})
            except httpx.HTTPError:
                # The host is gone before it has answered.
                return True
            return response.status_code == httpx.codes.ACCEPTED

    @property
    def faults(self) -> list[Callable[[random.Random], Awaitable[None]]]:
        return [
            self.kill_host,
            self.pause_host,
            self.kill_redis,
            self.wipe_redis,
            self.stall_redis,
            self.reset_connections,
            self.cut_redis_off,
            self.slow_link,
            self.overlap,
            self.refuse_commit,
            self.crash_after_response,
            self.die_in_step,
            self.function_timeout,
            self.hang_models,
        ]


async def _has_ended(host: HostProcess) -> bool:
    return not host.running


async def _start_hung(client: httpx.AsyncClient, number: float) -> str | None:
    message = script(chunks=["hung"], hangs_after=1)
    with contextlib.suppress(httpx.HTTPError):
        response = await client.post(RUN_ROUTE, json={"message": message, "conversation_id": f"hung-{number}"})
        if response.status_code == httpx.codes.ACCEPTED:
            status_url: str = response.json()["status_url"]
            return status_url
    return None


@asynccontextmanager
async def running_world(directory: Path, *, signs_in: bool) -> AsyncIterator[World]:
    """Start the parts, and end all of them.

    Args:
        directory: Where they keep their data.
        signs_in: Whether the hosts sign in to Redis with Microsoft Entra ID.
    """
    redis = RedisProcess(directory / "redis")
    await asyncio.to_thread(redis.start)
    async with contextlib.AsyncExitStack() as parts:
        model = await parts.enter_async_context(ModelServer(scripted_reply))
        proxy = await parts.enter_async_context(Proxy(redis.port))
        identity = Identity(redis.port, seconds=TOKEN_SECONDS) if signs_in else None
        if identity:
            await parts.enter_async_context(identity)
        env = {
            **(identity.env if identity else {}),
            "REDIS_CONNECTION_STRING": f"redis://127.0.0.1:{proxy.port}",
            "OPENAI_BASE_URL": model.base_url,
            "HEARTBEAT_SECONDS": "1",
            "RUN_TIMEOUT_SECONDS": str(RUN_TIMEOUT_SECONDS),
            "DEVHOST_LEASE_SECONDS": str(LEASE_SECONDS),
            "DEVHOST_FAULTS": "1",
            "AzureFunctionsJobHost__extensions__durableTask__maxConcurrentOrchestratorFunctions": str(STEPS),
        }
        first, second = (HostProcess(directory / "state", port=free_port(), env=env) for _ in range(2))
        try:
            await asyncio.to_thread(first.start)
            yield World((first, second), redis, proxy, identity)
        finally:
            for host in (first, second):
                if host.running:
                    host.resume()
                    await asyncio.to_thread(host.kill)
            await asyncio.to_thread(redis.kill)
