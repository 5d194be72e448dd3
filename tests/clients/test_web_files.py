"""The files of the web page, as the app serves them."""

from pathlib import Path

import httpx
import pytest

from agentstream.http.origins import Origins
from agentstream.http.web_files import create_web_functions
from devhost.testing import REPOSITORY
from tests.app import App

FETCH = REPOSITORY / "agentstream" / "http" / "resumable-fetch.js"
ROUTE = f"/api/chat/{FETCH.name}"


@pytest.mark.asyncio(loop_scope="session")
class TestServed:
    async def test_a_script_is_served_as_a_script(self, app: App) -> None:
        response = await app.client.get(ROUTE)

        assert response.status_code == httpx.codes.OK
        assert response.content == FETCH.read_bytes()
        assert response.headers["content-type"].split(";")[0] == "text/javascript"
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-content-type-options"] == "nosniff"

    @pytest.mark.parametrize("given", ["{tag}", 'W/{tag}, "other"', "*"])
    async def test_one_that_is_known_is_not_sent_again(self, app: App, given: str) -> None:
        tag = (await app.client.get(ROUTE)).headers["etag"]

        response = await app.client.get(ROUTE, headers={"If-None-Match": given.format(tag=tag)})

        assert (response.status_code, response.content) == (httpx.codes.NOT_MODIFIED, b"")
        assert response.headers["etag"] == tag

    async def test_the_chat_of_the_same_path_is_another_method(self, app: App) -> None:
        page, chat = await app.client.get("/api/chat"), await app.client.post("/api/chat", json={})

        assert page.headers["content-type"].split(";")[0] == "text/html"
        assert chat.status_code == httpx.codes.BAD_REQUEST

    async def test_another_version_is_sent(self, app: App) -> None:
        response = await app.client.get(ROUTE, headers={"If-None-Match": '"other"'})

        assert response.status_code == httpx.codes.OK

    @pytest.mark.parametrize(
        "name", ["nothing.js", "..%2fhost.json", "%2e%2e%2fhost.json", "..%5chost.json", "%2fetc%2fpasswd", ".."]
    )
    async def test_nothing_else_is_served(self, app: App, name: str) -> None:
        response = await app.client.get(f"/api/chat/{name}")

        assert response.status_code == httpx.codes.NOT_FOUND
        assert b"passwd" not in response.content
        assert b"functionTimeout" not in response.content


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "index.html").write_text("<p>a page</p>")
        return tmp_path

    def test_a_file_of_which_no_media_type_is_known_stops_the_start(self, folder: Path) -> None:
        (folder / "secrets.pem").write_text("")

        with pytest.raises(ValueError, match=r"secrets\.pem"):
            create_web_functions(folder, Origins([]))

    def test_hidden_files_and_folders_are_left_alone(self, folder: Path) -> None:
        (folder / ".env").write_text("")
        (folder / "drafts").mkdir()

        create_web_functions(folder, Origins([]))
