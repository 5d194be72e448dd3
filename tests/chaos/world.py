"""The real parts of one scenario, and the faults that can be done to them."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.hostprocess import HostProcess
from tests.model_server import ModelServer
from tests.proxy import Proxy
from tests.redis_process import RedisProcess
from tests.scripts import scripted_reply

LEASE_SECONDS = 1


@dataclass
class World:
    """Two hosts over one state directory, of which at first one runs; the model; and Redis behind a proxy."""

    hosts: tuple[HostProcess, HostProcess]
    redis: RedisProcess
    proxy: Proxy
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
        await asyncio.sleep(rng.uniform(0, 1))
        await asyncio.to_thread(self.redis.start)

    async def wipe_redis(self, rng: random.Random) -> None:
        """SIGKILL Redis and start it again with nothing."""
        await asyncio.to_thread(self.redis.kill)
        self.redis.lose_data()
        await asyncio.sleep(rng.uniform(0, 1))
        await asyncio.to_thread(self.redis.start)

    async def stall_redis(self, rng: random.Random) -> None:
        """Let Redis answer nobody for a while."""
        async with Redis.from_url(self.redis.url, single_connection_client=True) as client:
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
        ]


@asynccontextmanager
async def running_world(directory: Path) -> AsyncIterator[World]:
    """Start the parts, and end all of them."""
    redis = RedisProcess(directory / "redis")
    await asyncio.to_thread(redis.start)
    async with ModelServer(scripted_reply) as model, Proxy(redis.port) as proxy:
        env = {
            "REDIS_CONNECTION_STRING": f"redis://127.0.0.1:{proxy.port}",
            "OPENAI_BASE_URL": model.base_url,
            "HEARTBEAT_SECONDS": "1",
            "RUN_TIMEOUT_SECONDS": "60",
            "DEVHOST_LEASE_SECONDS": str(LEASE_SECONDS),
        }
        first, second = (HostProcess(directory / "state", env=env) for _ in range(2))
        try:
            await asyncio.to_thread(first.start)
            yield World((first, second), redis, proxy)
        finally:
            for host in (first, second):
                if host.running:
                    host.resume()
                    await asyncio.to_thread(host.kill)
            await asyncio.to_thread(redis.kill)
