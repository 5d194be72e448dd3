"""host.json and local.settings.json."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from devhost.functions import Trigger
from devhost.host_config import Cors, HostConfigError, load_local_settings, read_cors, read_host_config


def write(directory: Path, name: str, content: Any) -> None:
    (directory / name).write_text(json.dumps(content))


def test_defaults(tmp_path: Path) -> None:
    write(tmp_path, "host.json", {"version": "2.0"})
    config = read_host_config(tmp_path)
    assert (config.route_prefix, config.concurrency, config.function_timeout) == ("api", {}, 1800)


def test_settings(tmp_path: Path) -> None:
    durable_task = {"hubName": "Hub", "maxConcurrentEntityFunctions": 7, "maxConcurrentOrchestratorFunctions": 8}
    write(tmp_path, "host.json", {"extensions": {"http": {"routePrefix": "/v1/"}, "durableTask": durable_task}})
    config = read_host_config(tmp_path)
    assert (config.route_prefix, config.hub_name, config.concurrency) == ("v1", "Hub", {Trigger.ORCHESTRATION: 8})


def test_the_environment_overrides_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "host.json", {"functionTimeout": "00:10:00", "extensions": {"durableTask": {"hubName": "Hub"}}})
    limit = "AzureFunctionsJobHost__extensions__durableTask__maxConcurrentActivityFunctions"
    monkeypatch.setenv("AzureFunctionsJobHost__functionTimeout", "00:00:02")
    monkeypatch.setenv(limit, "3")
    config = read_host_config(tmp_path)
    assert (config.function_timeout, config.hub_name, config.concurrency) == (2, "Hub", {Trigger.ACTIVITY: 3})


@pytest.mark.parametrize(
    ("text", "seconds"), [("01:02:03", 3723), ("1.00:00:00.5", 86400.5), ("-1", None), ("-1.00:00:00", None)]
)
def test_function_timeout(tmp_path: Path, text: str, seconds: float | None) -> None:
    write(tmp_path, "host.json", {"functionTimeout": text})
    assert read_host_config(tmp_path).function_timeout == seconds


def test_function_timeout_that_is_none(tmp_path: Path) -> None:
    write(tmp_path, "host.json", {"functionTimeout": "10 minutes"})
    with pytest.raises(HostConfigError, match="functionTimeout must be hh:mm:ss"):
        read_host_config(tmp_path)


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


def test_cors_is_left_to_the_app_where_nothing_is_said(tmp_path: Path) -> None:
    assert read_cors(tmp_path) == Cors()
    write(tmp_path, "local.settings.json", {"Values": {}})
    assert read_cors(tmp_path) == Cors()


def test_cors(tmp_path: Path) -> None:
    host = {"CORS": "https://a.example/, http://localhost:3000", "CORSCredentials": True}
    write(tmp_path, "local.settings.json", {"Host": host})
    assert read_cors(tmp_path) == Cors(("https://a.example", "http://localhost:3000"), credentials=True)
