"""Responses before their first frame."""

import asyncio
import time
from collections.abc import AsyncGenerator
from http import HTTPStatus

import pytest

from agentstream.http.stream_response import frames_response
from agentstream.model import Event, StreamLostError
from agentstream.wire.frames import Position
from agentstream.wire.ui_message import UiMessageEncoder
from tests.unit.wire.a_run import RUN, event


@pytest.mark.parametrize(
    ("is_lost", "status"), [(True, HTTPStatus.OK), (False, HTTPStatus.NO_CONTENT)], ids=["lost", "ended"]
)
async def test_promise_1_nothing_lost_no_content_is_answered_only_where_nothing_will_come(
    is_lost: bool, status: HTTPStatus
) -> None:
    async def batches() -> AsyncGenerator[list[Event], None]:
        yield [event("1-0", "message", "Day 1")]
        if is_lost:
            raise StreamLostError
        yield [event("2-0", "message", "Day 2"), event("3-0", "done", "[DONE]")]

    encoder = UiMessageEncoder(RUN, after=Position.parse("3-0"))

    response = await frames_response(encoder, batches(), time.monotonic() + 60, {})

    assert response.status_code == status


async def test_who_has_all_so_far_is_answered_at_once_and_not_when_something_new_comes() -> None:
    async def batches() -> AsyncGenerator[list[Event], None]:
        yield [event("1-0", "message", "Day 1")]
        await asyncio.Event().wait()

    encoder = UiMessageEncoder(RUN, after=Position.parse("1-0"))

    async with asyncio.timeout(10):
        response = await frames_response(encoder, batches(), time.monotonic() + 60, {})

    assert response.status_code == HTTPStatus.OK
