"""Pages of other sites, as a browser sends their requests."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.app import RUN_ROUTE, App, running_app
from tests.model_server import ModelServer
from tests.scripts import script

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELLO = script(chunks=["hello"])
PARTNER = "https://partner.example"
EVIL = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def open_app(model: ModelServer, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    env = {"REDIS_CONNECTION_STRING": redis_url, "OPENAI_BASE_URL": model.base_url, "ALLOWED_ORIGINS": PARTNER}
    async with running_app(tmp_path_factory.mktemp("state"), env) as app:
        yield app


async def test_a_foreign_page_cannot_run_cancel_or_delete(app: App) -> None:
    run = await app.start_run(HELLO)
    await app.finish(run)
    conversation = f"/api/agent/conversations/{run['conversation_id']}"

    refused = [
        await app.client.post(RUN_ROUTE, content="hello", headers={**EVIL, "Content-Type": "text/plain"}),
        await app.client.post(f"{run['status_url']}/cancel", headers=EVIL),
        await app.client.delete(conversation, headers=EVIL),
    ]

    assert [response.status_code for response in refused] == [403] * 3
    assert all(response.headers["content-type"] == "application/problem+json" for response in refused)
    assert (await app.client.get(conversation)).status_code == 200


async def test_a_page_of_the_app_itself_passes(app: App) -> None:
    own = {"Origin": app.host.base_url, "Sec-Fetch-Site": "same-origin"}

    assert (await app.client.post(RUN_ROUTE, content=HELLO, headers=own)).status_code == 202
    # A browser that does not send Sec-Fetch-Site.
    del own["Sec-Fetch-Site"]
    assert (await app.client.post(RUN_ROUTE, content=HELLO, headers=own)).status_code == 202


async def test_an_allowed_page_starts_a_run_and_follows_it(open_app: App) -> None:
    page = {"Origin": PARTNER, "Sec-Fetch-Site": "cross-site"}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,idempotency-key"}

    preflight = await open_app.client.options(RUN_ROUTE, headers=page | asked)
    accepted = await open_app.client.post(RUN_ROUTE, json={"message": HELLO}, headers=page)
    stream = await open_app.client.get(accepted.json()["stream_url"], headers=page)

    assert preflight.status_code == 200
    assert accepted.status_code == 202
    assert "event: done" in stream.text
    for response in (preflight, accepted, stream):
        assert response.headers["access-control-allow-origin"] == PARTNER
    assert "location" in accepted.headers["access-control-expose-headers"]


async def test_another_page_is_refused_and_reads_nothing(open_app: App) -> None:
    asked = {"Access-Control-Request-Method": "POST"}

    preflight = await open_app.client.options(RUN_ROUTE, headers=EVIL | asked)
    health = await open_app.client.get("/api/health", headers=EVIL)

    assert preflight.status_code == 400
    assert (await open_app.client.post(RUN_ROUTE, content="hello", headers=EVIL)).status_code == 403
    assert all("access-control-allow-origin" not in response.headers for response in (preflight, health))
