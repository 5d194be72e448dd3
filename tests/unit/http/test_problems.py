import json
import logging

import pytest
from azurefunctions.extensions.http.fastapi import Response
from redis.exceptions import ConnectionError
from starlette.requests import ClientDisconnect

from agentstream.http.problems import answers_problems
from agentstream.stream.handler import OverloadedError


async def answer_to(error: Exception) -> tuple[int, str, str | None]:
    @answers_problems
    async def handler() -> Response:
        raise error

    response = await handler()
    return response.status_code, json.loads(response.body)["detail"], response.headers.get("retry-after")


async def test_overload_is_not_reported_as_an_outage_of_redis() -> None:
    status, detail, retry_after = await answer_to(OverloadedError())

    assert (status, retry_after) == (503, "5")
    assert "busy" in detail
    assert "Redis" not in detail
    assert "Redis does not answer" in (await answer_to(ConnectionError()))[1]


async def test_a_client_that_cuts_its_upload_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    await answer_to(ClientDisconnect())

    [record] = caplog.records
    assert (record.levelname, record.exc_info) == ("INFO", None)
