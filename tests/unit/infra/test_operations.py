"""The operator's page tells of every line that the app logs."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
LEVELS = {"info", "warning", "error", "exception", "critical"}


def logged() -> Iterator[tuple[str, str]]:
    """Yield each format that the app logs, and where."""
    for folder in ("agentstream", "travel_planner"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match node:
                    case ast.Call(func=ast.Attribute(value=ast.Name("logger"), attr=level), args=[message, *_]):
                        if level in LEVELS:
                            yield ast.literal_eval(message), f"{path.name}:{node.lineno}"


def test_every_log_line_is_on_the_page() -> None:
    page = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    lines = list(logged())
    assert lines

    for message, where in lines:
        told = max(re.split(r"%\w", message), key=len).strip(" :")
        # The models' own lines differ in what follows.
        assert ("model: " if message.startswith("model: ") else told) in page, f"{where}: {message}"
