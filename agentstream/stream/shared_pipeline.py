"""Calls of one script by many callers that travel together: a round trip carries all that wait for it.

A round trip of its own costs a caller several times what its call does: the client's way to a connection and back, two
system calls, and in Redis a wake-up of a process whose caches others have filled meanwhile.
"""

import asyncio
import copy
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from agentstream.stream import scripts

# Round trips begin this far apart at the least, so that what comes in quick succession goes together. Who comes after
# a longer silence does not wait.
GATHER_SECONDS = 0.005
# What goes together also succeeds or fails together where the connection does, so it has to be done soon.
MAX_CALLS = 500
MAX_BYTES = 256 * 1024

Argument = str | int | bytes


@dataclass(frozen=True, slots=True)
class _Call:
    arguments: Sequence[Argument]
    size: int
    answer: asyncio.Future[Any]


class SharedPipeline:
    """Calls a script for many callers. It belongs to the event loop on which it is first used.

    Args:
        script: The script; one that can be repeated, since a round trip is when the connection breaks.
        turn: Waits for the caller's turn, and gives the client for as long as it lasts.
    """

    def __init__(self, script: str, turn: Callable[[], AbstractAsyncContextManager[Redis]]) -> None:
        self._script = script
        self._turn = turn
        self._waiting: deque[_Call] = deque()
        self._is_leaving = False
        self._not_before = 0.0
        self._journeys: set[asyncio.Task[None]] = set()

    async def call(self, arguments: Sequence[Argument]) -> Any:
        """Call the script, and return what it answers.

        A caller that is cancelled disturbs nobody else; its call is made or not.

        Args:
            arguments: How many of them are keys, then the keys, then the others. A text that may have no encoding has
                to come as bytes, for it would fail all that goes with it.

        Raises:
            RedisError: What Redis says of this call; or there was no turn, or no round trip.
        """
        size = sum(len(argument) for argument in arguments if not isinstance(argument, int))
        call = _Call(arguments, size, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if not self._is_leaving:
            self._leave()
        return await call.answer

    def _leave(self) -> None:
        self._is_leaving = True
        journey = asyncio.create_task(self._travel())
        self._journeys.add(journey)
        journey.add_done_callback(self._journeys.discard)

    async def _travel(self) -> None:
        loop = asyncio.get_running_loop()
        calls: list[_Call] = []
        try:
            if (pause := self._not_before - loop.time()) > 0:
                await asyncio.sleep(pause)
            async with self._turn() as redis:
                self._not_before = loop.time() + GATHER_SECONDS
                calls = self._board()
                answers = await self._ask(redis, calls) if calls else []
            for call, answer in zip(calls, answers, strict=True):
                _answer(call, answer)
        except BaseException as error:
            # Nobody waits for ever, whatever it was.
            for call in calls or self._board(all_of_them=True):
                _answer(call, copy.copy(error))
            if not isinstance(error, RedisError):
                raise

    def _board(self, *, all_of_them: bool = False) -> list[_Call]:
        """Take the calls that go together; for those that are left there is the next journey."""
        calls: list[_Call] = []
        size = 0
        while self._waiting and (all_of_them or (len(calls) < MAX_CALLS and size < MAX_BYTES)):
            call = self._waiting.popleft()
            if not call.answer.done():
                calls.append(call)
                size += call.size
        self._is_leaving = False
        if self._waiting:
            self._leave()
        return calls

    async def _ask(self, redis: Redis, calls: Sequence[_Call]) -> list[Any]:
        answers = await self._round_trip(redis, calls)
        unknown = [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            again = await self._round_trip(redis, [calls[place] for place in unknown], load=True)
            for place, answer in zip(unknown, again, strict=True):
                answers[place] = answer
        return answers

    async def _round_trip(self, redis: Redis, calls: Sequence[_Call], *, load: bool = False) -> list[Any]:
        async with redis.pipeline(transaction=False) as pipeline:
            if load:
                pipeline.execute_command("SCRIPT LOAD", self._script)
            for call in calls:
                pipeline.execute_command("EVALSHA", scripts.digest(self._script), *call.arguments)
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
        return answers[1:] if load else answers


def _answer(call: _Call, answer: Any) -> None:
    if call.answer.done():
        return
    if isinstance(answer, BaseException):
        call.answer.set_exception(answer)
    else:
        call.answer.set_result(answer)
