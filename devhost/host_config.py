"""The files the Functions host reads at start: ``host.json`` and ``local.settings.json``."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devhost.functions import Trigger

CONCURRENCY_SETTINGS = {
    Trigger.ORCHESTRATION: "maxConcurrentOrchestratorFunctions",
    Trigger.ACTIVITY: "maxConcurrentActivityFunctions",
    Trigger.ENTITY: "maxConcurrentEntityFunctions",
}


class HostConfigError(Exception):
    """A host file is missing or is not the JSON it should be. The message is one line."""


@dataclass(frozen=True)
class HostConfig:
    """What this host takes from ``host.json``; everything else in it is ignored.

    ``concurrency`` is how many functions of a trigger may be in progress at once, for the triggers it limits.
    """

    route_prefix: str
    hub_name: str
    concurrency: dict[Trigger, int]


def read_host_config(directory: Path) -> HostConfig:
    """Read ``host.json``, with the defaults of the real host for what it leaves out.

    Raises:
        HostConfigError: the file is missing or not a JSON object.
    """
    path = directory / "host.json"
    if not path.exists():
        raise HostConfigError(f"{path} not found: start the host in the directory of the function app")
    extensions = _read_json(path).get("extensions", {})
    durable_task = extensions.get("durableTask", {})
    return HostConfig(
        route_prefix=extensions.get("http", {}).get("routePrefix", "api").strip("/"),
        hub_name=durable_task.get("hubName", "TestHubName"),
        concurrency={
            trigger: int(durable_task[name]) for trigger, name in CONCURRENCY_SETTINGS.items() if name in durable_task
        },
    )


def load_local_settings(directory: Path) -> None:
    """Put the ``Values`` of ``local.settings.json`` into the environment, which wins where both name a setting.

    Raises:
        HostConfigError: the file is not a JSON object.
    """
    path = directory / "local.settings.json"
    if path.exists():
        for name, value in _read_json(path).get("Values", {}).items():
            os.environ.setdefault(name, str(value))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise HostConfigError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise HostConfigError(f"{path} must hold a JSON object")
    return content
