from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.exceptions import DataError

from agentstream.stream.packing import pack_in_c

arguments = st.lists(st.one_of(st.text(), st.binary(), st.integers(), st.characters(categories=["Cs"])), max_size=6)


def connections(url: str) -> list[Any]:
    """Return a connection that packs in C, and one of redis-py's."""
    clients: list[Any] = [Redis.from_url(url, encoding_errors="replace") for _ in range(2)]
    pack_in_c(clients[0])
    return [client.connection_pool.make_connection() for client in clients]


@pytest.mark.parametrize("url", ["redis://localhost", "rediss://localhost"])
@given(name=st.sampled_from(["EVALSHA", "SCRIPT LOAD", b"GET"]), arguments=arguments)
def test_a_command_is_packed_as_redis_py_does(url: str, name: str | bytes, arguments: list[Any]) -> None:
    packed = [connection.pack_command(name, *arguments) for connection in connections(url)]

    assert b"".join(packed[0]) == b"".join(packed[1])


def test_it_is_packed_in_one_piece_however_long() -> None:
    ours, theirs = (
        connection.pack_command("SET", "key", "x" * 10_000) for connection in connections("redis://localhost")
    )

    assert len(ours) == 1 < len(theirs)


@pytest.mark.parametrize("argument", [None, True, [], object()])
def test_what_is_no_argument_is_refused(argument: object) -> None:
    for connection in connections("redis://localhost"):
        with pytest.raises(DataError):
            connection.pack_command("GET", argument)
