"""The files the Functions host reads at start: ``host.json`` and ``local.settings.json``."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devhost.functions import Trigger

# maxConcurrentEntityFunctions is not among them: entities share the limit of orchestrations.
CONCURRENCY_SETTINGS = {
    Trigger.ORCHESTRATION: "maxConcurrentOrchestratorFunctions",
    Trigger.ACTIVITY: "maxConcurrentActivityFunctions",
}
# As for the real host, ``AzureFunctionsJobHost__a__b`` in the environment is ``{"a": {"b": ...}}`` of host.json.
OVERRIDE_PREFIX = "AzureFunctionsJobHost__"
DEFAULT_FUNCTION_TIMEOUT = "00:30:00"
UNLIMITED = "-1"


class HostConfigError(Exception):
    """A host file is missing or is not the JSON it should be. The message is one line."""


@dataclass(frozen=True)
class HostConfig:
    """What this host takes from ``host.json``; everything else in it is ignored.

    ``concurrency`` is how many functions of a trigger may be in progress at once, for the triggers it limits.
    ``function_timeout`` is in seconds; None is for ever.
    """

    route_prefix: str
    hub_name: str
    concurrency: dict[Trigger, int]
    function_timeout: float | None


def read_host_config(directory: Path) -> HostConfig:
    """Read ``host.json``, with the defaults of the real host for what it leaves out.

    Raises:
        HostConfigError: the file is missing or not a JSON object, or functionTimeout is not a time.
    """
    path = directory / "host.json"
    if not path.exists():
        raise HostConfigError(f"{path} not found: start the host in the directory of the function app")
    config = _read_json(path)
    _override(config)
    extensions = config.get("extensions", {})
    durable_task = extensions.get("durableTask", {})
    return HostConfig(
        route_prefix=extensions.get("http", {}).get("routePrefix", "api").strip("/"),
        hub_name=durable_task.get("hubName", "TestHubName"),
        concurrency={
            trigger: int(durable_task[name]) for trigger, name in CONCURRENCY_SETTINGS.items() if name in durable_task
        },
        function_timeout=_seconds(str(config.get("functionTimeout", DEFAULT_FUNCTION_TIMEOUT))),
    )


def _override(config: dict[str, Any]) -> None:
    for name, value in os.environ.items():
        if name.startswith(OVERRIDE_PREFIX):
            *sections, setting = name.removeprefix(OVERRIDE_PREFIX).split("__")
            target = config
            for section in sections:
                target = target.setdefault(section, {})
            target[setting] = value


def _seconds(text: str) -> float | None:
    """The seconds of a .NET time span, ``[days.]hours:minutes:seconds[.fraction]``; None for ever."""
    if text in (UNLIMITED, f"{UNLIMITED}.00:00:00"):
        return None
    span = re.fullmatch(r"(?:(\d+)\.)?(\d+):(\d+):(\d+(?:\.\d+)?)", text)
    if span is None:
        raise HostConfigError(f"host.json: functionTimeout must be hh:mm:ss, or -1 for ever, not {text}")
    days, hours, minutes, seconds = (float(part or 0) for part in span.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def load_local_settings(directory: Path) -> None:
    """Put the ``Values`` of ``local.settings.json`` into the environment, which wins where both name a setting.

    Raises:
        HostConfigError: the file is not a JSON object.
    """
    path = directory / "local.settings.json"
    if path.exists():
        for name, value in _read_json(path).get("Values", {}).items():
            os.environ.setdefault(name, str(value))


@dataclass(frozen=True)
class Cors:
    """Which origins' pages may read the app's responses; ``origins`` is empty where the host leaves that to the app."""

    origins: tuple[str, ...] = ()
    credentials: bool = False


def read_cors(directory: Path) -> Cors:
    """Read ``Host.CORS``, origins with commas between them or ``*``, and ``Host.CORSCredentials``.

    Raises:
        HostConfigError: the file is not a JSON object.
    """
    path = directory / "local.settings.json"
    host = _read_json(path).get("Host", {}) if path.exists() else {}
    origins = (origin.strip().rstrip("/") for origin in str(host.get("CORS", "")).split(","))
    return Cors(tuple(filter(None, origins)), bool(host.get("CORSCredentials", False)))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise HostConfigError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise HostConfigError(f"{path} must hold a JSON object")
    return content
