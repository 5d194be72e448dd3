"""Signing in with the app's identity: a real Valkey with users, and the endpoint that gives an app its tokens."""

import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
from pydantic import SecretStr
from redis.exceptions import ConnectionError, RedisError

from agentstream.model import Chunk
from agentstream.settings import Settings
from agentstream.stream.clients import create_stream_handler
from agentstream.stream.handler import RedisStreamHandler
from tests.identity import ADMIN, OBJECT_ID, Identity
from tests.proxy import Proxy
from tests.redis_process import RedisClusterProcesses, RedisProcess
from tests.waiting import eventually

NAME = "redis.example"


@pytest.fixture(params=["server", "cluster"])
async def identity(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Identity]:
    is_cluster = request.param == "cluster"
    processes = RedisClusterProcesses(tmp_path) if is_cluster else RedisProcess(tmp_path)
    with processes:
        ports = (
            [node.port for node in processes.nodes]
            if isinstance(processes, RedisClusterProcesses)
            else [processes.port]
        )
        async with Identity(*ports, seconds=2) as identity:
            for name, value in identity.env.items():
                monkeypatch.setenv(name, value)
            monkeypatch.setenv("REDIS_CONNECTION_STRING", processes.url)
            monkeypatch.setenv("REDIS_CLUSTER", str(is_cluster))
            yield identity


async def append_and_read(handler: RedisStreamHandler, conversation_id: str, correlation_id: str) -> list[str]:
    """Append a chunk of a run, and read the stream live until it is there."""
    await handler.accept_run(conversation_id, correlation_id, "A")
    _, attempt = await handler.begin_attempt(conversation_id, correlation_id, in_order=True)
    await handler.append(conversation_id, correlation_id, attempt, 0, [Chunk("hello", 1)])
    async for events in handler.read_stream(conversation_id):
        if events:
            return [event.data for event in events]
    return []


async def test_every_connection_signs_in_as_the_identity(
    identity: Identity, conversation_id: str, correlation_id: str
) -> None:
    handler = create_stream_handler(Settings.load())
    try:
        assert await append_and_read(handler, conversation_id, correlation_id) == ["hello"]
        await handler.ping()
        users = set()
        for admin in identity.admins():
            with admin:
                users |= {client["user"] for client in admin.client_list()}
        # Of a cluster's nodes the handler needs to know only that of the conversation.
        assert users - {ADMIN[0], "(superuser)"} == {OBJECT_ID}
    finally:
        await handler.aclose()


async def test_after_an_expiry_a_new_token_signs_in(
    identity: Identity, conversation_id: str, correlation_id: str
) -> None:
    handler = create_stream_handler(Settings.load())
    try:
        await handler.ping()
        used = len(identity.tokens)
        identity.expire()
        # The library gives an expiring token for up to its last second.
        await eventually(lambda: _answers(handler))
        assert len(identity.tokens) > used
        assert await append_and_read(handler, conversation_id, correlation_id) == ["hello"]
    finally:
        await handler.aclose()


async def test_without_a_token_redis_is_out_of_reach(identity: Identity) -> None:
    identity.works = False
    handler = create_stream_handler(Settings.load())
    try:
        with pytest.raises(ConnectionError, match="no token for Redis"):
            await handler.ping()
    finally:
        await handler.aclose()


async def _answers(handler: RedisStreamHandler) -> bool:
    try:
        await handler.ping()
    except RedisError:
        return False
    return True


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return authority


@pytest.fixture
def name_of_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolves NAME: redis-py's cluster client takes ``localhost`` for its address."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        return resolve("127.0.0.1" if host == NAME else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    """What a server has whose certificate is for its name, and for none of its addresses."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(NAME).configure_cert(context)
    return context


@pytest.mark.usefixtures("name_of_loopback")
async def test_a_cluster_behind_one_name_of_tls_is_reached_by_it(
    tls: ssl.SSLContext, tmp_path: Path, conversation_id: str, correlation_id: str
) -> None:
    with RedisClusterProcesses(tmp_path / "cluster", size=1) as cluster:
        port = cluster.nodes[0].port
        async with Proxy(port, tls) as proxy:
            with redis.Redis(port=port) as client:
                client.config_set("cluster-announce-ip", "127.0.0.1")
                client.config_set("cluster-announce-port", proxy.port)
            url = f"rediss://{NAME}:{proxy.port}?ssl_ca_certs={tmp_path / 'ca.pem'}"
            handler = create_stream_handler(Settings(redis_connection_string=SecretStr(url), redis_cluster=True))
            try:
                assert await append_and_read(handler, conversation_id, correlation_id) == ["hello"]
            finally:
                await handler.aclose()


@pytest.mark.usefixtures("name_of_loopback")
async def test_tls_of_a_stranger_is_refused(tls: ssl.SSLContext, redis_url: str, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    async with Proxy(int(redis_url.rpartition(":")[2]), tls) as proxy:
        url = f"rediss://{NAME}:{proxy.port}?ssl_ca_certs={tmp_path / 'other.pem'}"
        handler = create_stream_handler(Settings(redis_connection_string=SecretStr(url)))
        try:
            with pytest.raises(ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
                await handler.ping()
        finally:
            await handler.aclose()
