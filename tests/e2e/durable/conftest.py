"""Hosts over the programs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devhost.testing import HostProcess
from tests.e2e.durable.client import Programs
from tests.redis_process import free_port

PROGRAMS = Path(__file__).parent / "programs"

NewHost = Callable[..., HostProcess]


@pytest.fixture
def journal_dir(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def new_host(tmp_path: Path, journal_dir: Path) -> NewHost:
    """Make a host of the programs; all of a test share one state directory."""

    def make(**env: str) -> HostProcess:
        settings = {"JOURNAL_DIR": str(journal_dir), **env}
        return HostProcess(tmp_path / "state", app_dir=PROGRAMS, port=free_port(), env=settings)

    return make


@pytest.fixture(scope="module")
def shared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def programs(shared_dir: Path) -> Iterator[Programs]:
    """The programs on one host for all tests of a module."""
    # A run that a test leaves at its gate holds a thread.
    env = {"JOURNAL_DIR": str(shared_dir), "PYTHON_THREADPOOL_THREAD_COUNT": "64"}
    with HostProcess(shared_dir / "state", app_dir=PROGRAMS, env=env) as host:
        yield Programs(host.base_url, shared_dir)
