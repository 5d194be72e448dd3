import json
import re
from pathlib import Path

import pytest

from agentstream.settings import FUNCTION_TIMEOUT_SETTING, Settings, SettingsError

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("REDIS_STREAM_TTL_MINUTES", "soon", "minutes"),
        ("REDIS_STREAM_TTL_MINUTES", "0", "more than 0"),
        ("RUN_TIMEOUT_SECONDS", "-1", "more than 0"),
        ("STREAM_MAX_SECONDS", "230", "below 230"),
        ("STREAM_MAX_FOLLOWERS", "1.5", "whole number"),
        ("MAX_MESSAGE_BYTES", "0", "1 to 1048576"),
        ("OPENAI_BASE_URL", "localhost", "a URL"),
        ("NON_STREAMING_FALLBACK", "maybe", "true or false"),
        ("ALLOWED_ORIGINS", "https://a.example/chat", "scheme://host"),
        ("ALLOWED_ORIGINS", "a.example", "scheme://host"),
        ("ALLOWED_ORIGINS", "https://*.example", "scheme://host"),
        ("RETENTION_DAYS", "-1", "0 keeps everything"),
        ("RETENTION_SCHEDULE", "0 * * * *", "six fields"),
        ("RETENTION_BATCH", "0", "1 to 10000"),
    ],
)
def test_a_wrong_value_is_told_in_one_line(
    name: str, value: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError) as caught:
        Settings.load()

    message = str(caught.value)
    assert name in message
    assert repr(value) in message
    assert allowed in message
    assert "\n" not in message


def test_a_wrong_connection_string_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_CONNECTION_STRING", "cache.example:6380,password=hunter2,ssl=True")

    with pytest.raises(SettingsError, match="REDIS_CONNECTION_STRING") as caught:
        Settings.load()

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("rediss://:hunter2@cache.example:10000", "no password"),
        ("rediss://app@cache.example:10000", "no user"),
        ("rediss://cache.example:10000/1", "one database"),
        ("rediss://cache.example:10000/0", "one database"),
        ("rediss://cache.example:10000?db=2", "one database"),
    ],
)
def test_the_apps_identity_goes_with_no_key_and_no_database(
    url: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_ENTRA_ID", "true")
    monkeypatch.setenv("REDIS_CONNECTION_STRING", url)

    with pytest.raises(SettingsError, match=problem) as caught:
        Settings.load()

    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_page_of_any_site_acts_for_whoever_is_signed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AUTH": "easy_auth", "WEBSITE_AUTH_ENABLED": "True", "ALLOWED_ORIGINS": "*"}.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError, match="ALLOWED_ORIGINS"):
        Settings.load()


def test_no_secret_is_in_the_settings_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_CONNECTION_STRING", "rediss://:hunter2@cache.example:6380/0")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hunter2")

    assert "hunter2" not in repr(Settings.load())


def test_origins_are_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOWED_ORIGINS", "https://a.example, http://localhost:3000")

    assert Settings.load().allowed_origins == ("https://a.example", "http://localhost:3000")


def test_an_empty_value_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTBEAT_SECONDS", "")

    assert Settings.load().heartbeat_seconds == Settings.model_fields["heartbeat_seconds"].default


def test_the_defaults_are_those_of_the_readme() -> None:
    table = dict(
        re.findall(r"^\| `([A-Z_]+)` \| `?([^`|]*?)`? \|", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    )

    for name, field in Settings.model_fields.items():
        assert name.upper() in table, f"{name.upper()} is not in the README"
        documented, default = table[name.upper()], field.get_default()
        if default is None or default == ():
            assert documented == "none"
        elif isinstance(default, bool):
            assert documented == str(default).lower()
        elif isinstance(default, int | float):
            assert float(documented) == default
        else:
            secret = getattr(default, "get_secret_value", None)
            assert documented == (secret() if secret else default)


def test_the_local_settings_hold_no_secret_and_the_worker_settings() -> None:
    values = json.loads((REPOSITORY / "local.settings.json").read_text())["Values"]

    assert values["FUNCTIONS_WORKER_RUNTIME"] == "python"
    assert values["AzureWebJobsStorage"] == "UseDevelopmentStorage=true"
    assert values["PYTHON_ENABLE_INIT_INDEXING"] == "1"
    assert int(values["PYTHON_THREADPOOL_THREAD_COUNT"]) >= 32
    assert values["REDIS_CONNECTION_STRING"] == "redis://localhost:6379"
    assert not [name for name in values if "KEY" in name or "PASSWORD" in name]


class TestHost:
    """host.json, and the settings that have to agree with it."""

    host = json.loads((REPOSITORY / "host.json").read_text())

    def test_a_run_may_take_as_long_as_its_timer(self) -> None:
        Settings.load(REPOSITORY / "host.json")

    @pytest.mark.parametrize("seconds", ["2400", "86400"])
    def test_a_run_timer_beyond_the_functions_timeout_stops_the_start(
        self, seconds: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RUN_TIMEOUT_SECONDS", seconds)

        with pytest.raises(SettingsError) as caught:
            Settings.load(REPOSITORY / "host.json")

        assert str(caught.value) == (
            f"RUN_TIMEOUT_SECONDS={seconds} is not valid; allowed: below the functionTimeout of host.json, "
            "which is 2400 seconds"
        )

    @pytest.mark.parametrize(("span", "is_enough"), [("-1", True), ("1.00:00:00", True), ("00:10:00", False)])
    def test_the_platforms_override_of_the_functions_timeout_counts(
        self, span: str, is_enough: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(FUNCTION_TIMEOUT_SETTING, span)

        if is_enough:
            Settings.load(REPOSITORY / "host.json")
        else:
            with pytest.raises(SettingsError, match="600 seconds"):
                Settings.load(REPOSITORY / "host.json")

    def test_without_a_functions_timeout_the_hosts_own_counts(self, tmp_path: Path) -> None:
        (tmp_path / "host.json").write_text("{}")

        with pytest.raises(SettingsError, match="1800 seconds"):
            Settings.load(tmp_path / "host.json")

    def test_entities_and_orchestrations_have_one_limit_and_idle_queues_are_looked_at_each_second(self) -> None:
        durable = self.host["extensions"]["durableTask"]

        # With the SDK 1.x the entities take the orchestrations' slots, so a limit of their own would limit nothing.
        assert "maxConcurrentEntityFunctions" not in durable
        assert durable["maxConcurrentOrchestratorFunctions"] >= 1000
        assert durable["maxEntityOperationBatchSize"] == 1
        assert durable["storageProvider"]["maxQueuePollingInterval"] == "00:00:01"

    def test_the_extension_is_new_enough(self) -> None:
        assert self.host["extensionBundle"]["version"] == "[4.38.1, 5.0.0)"
