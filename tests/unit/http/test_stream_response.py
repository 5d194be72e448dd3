"""Responses whose stream is lost before they have begun."""

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

    encoder = UiMessageEncoder(RUN, after=Position.parse("1-0"))

    response = await frames_response(encoder, batches(), time.monotonic() + 60, {})

    assert response.status_code == status
