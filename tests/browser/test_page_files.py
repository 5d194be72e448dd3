"""What the page is made of, and with which headers it is served."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from devhost.testing import REPOSITORY, HostProcess

WEB = REPOSITORY / "web"
VENDORED: dict[str, dict[str, Any]] = json.loads((WEB / "vendor" / "versions.json").read_text())
PACKAGES = REPOSITORY / "tests" / "clients" / "node_modules"


@pytest.mark.parametrize("path", ["chat", "chat/page.js", "chat/vendor/purify.es.mjs"])
def test_everything_is_served_to_everybody_with_a_policy(planner: HostProcess, path: str) -> None:
    response = httpx.get(f"{planner.base_url}/api/{path}")

    assert response.status_code == httpx.codes.OK
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert {policy[f"{kind}-src"] for kind in ("script", "style", "connect", "img")} == {"'self'"}
    assert "unsafe" not in str(policy)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


def test_nothing_but_a_vendored_file_is_served_under_vendor(planner: HostProcess) -> None:
    for name in ("page.js", "..%2fpage.js", "nothing.js"):
        assert httpx.get(f"{planner.base_url}/api/chat/vendor/{name}").status_code == httpx.codes.NOT_FOUND


def test_the_page_names_no_other_host() -> None:
    own = [path for path in WEB.iterdir() if path.is_file()]
    names = {name for path in own for name in re.findall(r"https?://[\w./-]+", path.read_text())}

    assert names <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("name", VENDORED)
def test_a_vendored_file_is_the_version_that_it_says_to_be(name: str) -> None:
    content = (WEB / "vendor" / name).read_bytes()
    vendored = VENDORED[name]

    assert hashlib.sha256(content).hexdigest() == vendored["sha256"]
    assert vendored["version"].encode() in content[:300]
    assert vendored["license"].partition("-")[0] in (WEB / "vendor" / f"{vendored['package']}.LICENSE.txt").read_text()


@pytest.mark.parametrize("name", VENDORED)
def test_a_vendored_file_is_the_one_of_its_package(name: str) -> None:
    package = PACKAGES / VENDORED[name]["package"]
    if not package.is_dir():
        pytest.skip("the npm packages are not installed: run make test, or npm ci in tests/clients")

    assert (package / VENDORED[name]["path"]).read_bytes() == (WEB / "vendor" / name).read_bytes()
    assert json.loads((package / "package.json").read_text())["version"] == VENDORED[name]["version"]


def test_all_that_is_vendored_is_listed() -> None:
    names = {path.name for path in (WEB / "vendor").iterdir()}

    licenses = {f"{vendored['package']}.LICENSE.txt" for vendored in VENDORED.values()}
    assert names == {*VENDORED, *licenses, Path("versions.json").name}
