"""The rules of the project's structure."""

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
APP = [*REPOSITORY.glob("*.py"), *(REPOSITORY / "travel_planner").rglob("*.py")]
# From the composition root downward; a module imports only what stands below it.
ORDER = """
function_app http_api stream_response run_starter run_requests follower problems recovery shared_calls
run_orchestration agent_entity attempt conversations callbacks travel_planner attempt_writer agent_memory sse
redis_stream_handler cluster_watcher stream_watcher redis_scripts stream_text settings
""".split()
FOREIGN = {"azure", "azurefunctions", "agent_framework", "agent_framework_durabletask", "fastapi", "starlette"}


def imported(path: Path) -> set[str]:
    """Return the top-level names of what a module imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_imports_run_downward() -> None:
    modules = {path.stem for path in REPOSITORY.glob("*.py")} | {"travel_planner"}
    assert modules == set(ORDER)
    for path in APP:
        name = "travel_planner" if REPOSITORY / "travel_planner" in path.parents else path.stem
        for other in imported(path) & modules - {name}:
            assert ORDER.index(name) < ORDER.index(other), f"{path.name} imports {other}"


def test_the_app_does_not_know_the_embedded_host() -> None:
    for path in APP:
        assert "devhost" not in path.read_text(encoding="utf-8"), path


def test_the_sample_agent_knows_nothing_of_functions() -> None:
    for path in (REPOSITORY / "travel_planner").rglob("*.py"):
        assert not re.search(r"azure\.(durable_)?functions|azurefunctions", path.read_text(encoding="utf-8")), path


def test_the_stream_knows_nothing_of_functions_agents_and_http() -> None:
    for name in ("redis_stream_handler", "cluster_watcher", "stream_watcher", "redis_scripts", "sse", "stream_text"):
        assert not imported(REPOSITORY / f"{name}.py") & FOREIGN, name
