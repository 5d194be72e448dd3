"""host.json and local.settings.json."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from devhost.functions import Trigger
from devhost.host_config import HostConfigError, load_local_settings, read_host_config


def write(directory: Path, name: str, content: Any) -> None:
    (directory / name).write_text(json.dumps(content))


def test_defaults(tmp_path: Path) -> None:
    write(tmp_path, "host.json", {"version": "2.0"})
    config = read_host_config(tmp_path)
    assert (config.route_prefix, config.concurrency) == ("api", {})


def test_settings(tmp_path: Path) -> None:
    durable_task = {"hubName": "Hub", "maxConcurrentEntityFunctions": 7}
    write(tmp_path, "host.json", {"extensions": {"http": {"routePrefix": "/v1/"}, "durableTask": durable_task}})
    config = read_host_config(tmp_path)
    assert (config.route_prefix, config.hub_name, config.concurrency) == ("v1", "Hub", {Trigger.ENTITY: 7})


@pytest.mark.parametrize("content", ["{", "[]"])
def test_unreadable_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "host.json").write_text(content)
    with pytest.raises(HostConfigError, match=r"host\.json"):
        read_host_config(tmp_path)


def test_the_environment_wins_over_local_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "local.settings.json", {"Values": {"FROM_FILE": "file", "FROM_BOTH": "file"}})
    monkeypatch.setenv("FROM_BOTH", "environment")
    monkeypatch.setenv("FROM_FILE", "to be removed afterwards")
    monkeypatch.delenv("FROM_FILE")
    load_local_settings(tmp_path)
    assert (os.environ["FROM_FILE"], os.environ["FROM_BOTH"]) == ("file", "environment")
