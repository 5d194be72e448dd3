"""The rules of the project's structure."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "agentstream"
# What each part may import of the others; within a part modules import each other as they like.
BELOW = {
    "app": {"http", "runs", "attempt", "wire", "stream", "settings", "telemetry", "model"},
    "client": set[str](),
    "http": {"runs", "wire", "stream", "settings", "telemetry", "model"},
    "runs": {"agent_events", "agent_memory", "stream", "settings", "telemetry", "model"},
    "attempt": {"agent_events", "agent_memory", "stream", "settings", "telemetry", "model"},
    "agent_events": {"agent_memory", "stream", "model"},
    "agent_memory": {"stream"},
    "wire": {"model"},
    "stream": {"settings", "telemetry", "model"},
    "settings": set[str](),
    "telemetry": set[str](),
    "model": set[str](),
}
# The identity with which Redis is signed in to is no part of Functions.
FOREIGN = re.compile(r"azure(?!\.(core|identity)\b)|azurefunctions|agent_framework|fastapi|starlette")
THE_SAMPLE = [*REPOSITORY.glob("*.py"), *(REPOSITORY / "travel_planner").rglob("*.py")]


def imported(path: Path) -> Iterator[str]:
    """Yield the full names of what a module imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(part: str) -> list[Path]:
    return sorted((PACKAGE / part).rglob("*.py")) or [PACKAGE / f"{part}.py"]


def test_every_module_belongs_to_a_part() -> None:
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}

    assert parts - {"__init__"} == set(BELOW)


@pytest.mark.parametrize("part", BELOW)
def test_imports_run_downward(part: str) -> None:
    for path in modules(part):
        parts = {name.split(".")[1] for name in imported(path) if name.startswith("agentstream.")}
        assert parts <= BELOW[part] | {part}, path


@pytest.mark.parametrize("part", ["stream", "wire", "telemetry", "model"])
def test_the_stream_and_the_wires_know_nothing_of_functions_agents_and_http(part: str) -> None:
    for path in modules(part):
        assert not list(filter(FOREIGN.match, imported(path))), path


def test_the_package_does_not_know_the_sample_or_the_embedded_host() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert not re.search(r"devhost|travel_planner|TravelPlanner", path.read_text(encoding="utf-8")), path


def test_the_app_does_not_know_the_embedded_host() -> None:
    for path in THE_SAMPLE:
        assert "devhost" not in path.read_text(encoding="utf-8"), path


def test_only_the_function_app_imports_an_agent() -> None:
    importing = [path.name for path in REPOSITORY.glob("*.py") if "travel_planner" in path.read_text(encoding="utf-8")]

    assert importing == ["function_app.py"]


def test_the_sample_agent_knows_nothing_of_functions() -> None:
    for path in (REPOSITORY / "travel_planner").rglob("*.py"):
        assert not re.search(r"azure\.(durable_)?functions|azurefunctions", path.read_text(encoding="utf-8")), path


def test_parsing_a_request_needs_no_agent_framework() -> None:
    code = "import agentstream.http.requests, sys; print(*(name for name in sys.modules if name.startswith('agent_f')))"

    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert run.stdout.split() == []


def test_the_client_loads_nothing_of_what_it_talks_to() -> None:
    code = "import agentstream.client, sys; print(*sys.modules)"

    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    loaded = set(run.stdout.split())
    assert "agentstream.client" in loaded
    assert not list(filter(FOREIGN.match, loaded))
    assert {name for name in loaded if name.startswith("agentstream.")} == {"agentstream.client"}
