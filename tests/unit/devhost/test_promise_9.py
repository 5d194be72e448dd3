"""Promise 9: the app runs where it says."""

import re
import shutil
from pathlib import Path

import pytest

from devhost.testing import REPOSITORY
from tests.unit.devhost.load_apps import WORKERS, loaded

NO_PART_OF_THE_APP = shutil.ignore_patterns(".*", "__pycache__", "benchmarks", "devhost", "docs", "tests")


@pytest.mark.parametrize("worker", WORKERS)
def test_promise_9_the_worker_of_azure_loads_the_app(worker: str, tmp_path: Path) -> None:
    """Beside it an app with the annotation that kept it from loading: the worker that accepts that proves nothing."""
    broken = shutil.copytree(REPOSITORY, tmp_path / "broken", ignore=NO_PART_OF_THE_APP)
    module = next(path for path in broken.rglob("*.py") if "def finish_run(" in path.read_text())
    source, changes = re.subn(r"(def finish_run\(\w+): dict\b", r"\1: dict[str, Any]", module.read_text())
    assert changes == 1
    module.write_text(source)

    app, refused = loaded(worker, [REPOSITORY, broken], REDIS_CONNECTION_STRING="redis://127.0.0.1")

    assert {"finish_run", "run_agent"} <= app.get("bindings", {}).keys(), app
    assert app["serves http"]
    assert refused["refused by"] == "worker"
    assert "cannot load the finish_run function" in refused["message"]
    assert "dict[str, typing.Any]" in refused["message"]
