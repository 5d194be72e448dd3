"""``pip wheel .``: the package as others install it."""

import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from devhost.testing import REPOSITORY
from tests.app import running_app, text_of
from tests.model_server import ModelServer
from tests.scripts import script

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder that holds the installed wheel, and nothing of the repository but the host that is to serve it."""
    source = shutil.copytree(
        REPOSITORY, tmp_path / "source", ignore=shutil.ignore_patterns(".*", "tests", "benchmarks", "devhost")
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    built = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(built, check=True)
    [wheel] = tmp_path.glob("agentstream-*.whl")
    folder = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)], check=True)
    shutil.copytree(REPOSITORY / "devhost", folder / "devhost")
    return folder


async def test_the_wheel_alone_serves_an_app_of_a_few_lines_under_any_route_prefix(
    model: ModelServer, redis_url: str, state_dir: Path, installed: Path
) -> None:
    env = {
        "PYTHONPATH": str(installed),
        "REDIS_CONNECTION_STRING": redis_url,
        "OPENAI_BASE_URL": model.base_url,
    }

    async with running_app(state_dir, env, Path(__file__).parent / "wheel") as app:
        response = await app.client.post(
            "/v1/agents-api/agents/Mine/run", content=script(chunks=["from ", "the wheel"])
        )
        run = response.json()
        events = await app.finish(run)
        status = await app.client.get(run["status_url"])
        fetch = await app.client.get("/v1/agents-api/chat/resumable-fetch.js")
        page = await app.client.get("/v1/agents-api/chat")

    assert (text_of(events), events[-1].event) == ("from the wheel", "done")
    assert response.headers["location"] == run["stream_url"]
    assert status.json()["response"] == "from the wheel"
    assert b"export function resumableFetch" in fetch.content
    assert page.status_code == httpx.codes.NOT_FOUND
    assert (installed / "agentstream" / "py.typed").exists()
