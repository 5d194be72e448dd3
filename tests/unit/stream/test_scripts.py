from importlib.resources import files
from typing import Any

import pytest
from redis.exceptions import ResponseError

from agentstream.stream import scripts
from agentstream.stream.handler import RedisStreamHandler

FILES = {path.name.removesuffix(".lua") for path in files(scripts).iterdir() if path.name.endswith(".lua")}
SCRIPTS = {name.lower(): text for name, text in vars(scripts).items() if name.isupper()}


def test_every_file_is_a_script_but_the_prelude_which_is_part_of_each() -> None:
    prelude = (files(scripts) / "prelude.lua").read_text(encoding="utf-8")

    assert FILES - {"prelude"} == set(SCRIPTS)
    assert all(prelude in script for script in SCRIPTS.values())


@pytest.mark.parametrize("name", sorted(SCRIPTS))
async def test_every_script_compiles(redis: Any, name: str) -> None:
    assert await redis.script_load(SCRIPTS[name])


async def test_a_script_that_does_not_compile_would_be_told(redis: Any) -> None:
    with pytest.raises(ResponseError, match="compiling script"):
        await redis.script_load(SCRIPTS["look"] + "\nend")


async def test_a_redis_that_does_not_know_a_script_yet_is_told_it(
    handler: RedisStreamHandler, redis: Any, conversation_id: str
) -> None:
    for run in ("first", "second"):
        await redis.script_flush()

        assert await handler.accept_run(conversation_id, run, "A")
