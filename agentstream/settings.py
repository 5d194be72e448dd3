"""The app's settings: read once from the environment, typed, validated at start.

On Azure these are the function app's application settings; locally they are the ``Values`` of ``local.settings.json``.
"""

import json
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    AnyHttpUrl,
    BeforeValidator,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from redis.asyncio.connection import parse_url

# Azure's load balancer cuts a request whose response is idle or longer than 230 s:
# https://learn.microsoft.com/azure/azure-functions/functions-scale#timeout
AZURE_REQUEST_LIMIT_SECONDS = 230
# The host's own, where host.json names none, and the application setting that overrides it there:
# https://learn.microsoft.com/azure/azure-functions/functions-host-json
FUNCTION_TIMEOUT = "00:30:00"
FUNCTION_TIMEOUT_SETTING = "AzureFunctionsJobHost__functionTimeout"
# Set by App Service where its authentication is on:
# https://learn.microsoft.com/azure/app-service/reference-app-settings#authentication--authorization
PLATFORM_SIGN_IN = "WEBSITE_AUTH_ENABLED"
MAX_TOOL_RESULT_BYTES = 16_384


_ORIGIN = re.compile(r"https?://[^/?#@,*\s]+")


class SettingsError(ValueError):
    """A setting is missing or wrong. The message is one line: the setting, its value and what is allowed."""


def _redis_url(value: SecretStr) -> SecretStr:
    parse_url(value.get_secret_value())
    return value


def _origins(value: str | tuple[str, ...]) -> tuple[str, ...]:
    origins = tuple(origin.strip().lower() for origin in value.split(",")) if isinstance(value, str) else value
    if not all(origin == "*" or _ORIGIN.fullmatch(origin) for origin in origins):
        raise ValueError
    return origins


class Settings(BaseSettings):
    """Each field is the environment variable of the same name in upper case."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    redis_connection_string: Annotated[
        SecretStr,
        AfterValidator(_redis_url),
        Field(description="a URL redis://[user:password@]host[:port][/db], or rediss:// for TLS"),
    ] = SecretStr("redis://localhost:6379")
    redis_cluster: Annotated[bool, Field(description="true or false")] = False
    redis_entra_id: Annotated[bool, Field(description="true or false")] = False
    redis_key_prefix: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="1 to 64 letters, digits, dots, underscores and hyphens"),
    ] = "agent"
    redis_stream_ttl_minutes: Annotated[
        float, Field(gt=0, le=10_080, description="minutes, more than 0, at most 10080")
    ] = 10

    max_runs_at_a_time: Annotated[int, Field(ge=1, description="a whole number, 1 or more")] = 1000
    max_tools_at_a_time: Annotated[int, Field(ge=1, le=256, description="a whole number, 1 to 256")] = 32
    run_timeout_seconds: Annotated[float, Field(gt=0, le=86_400, description="seconds, more than 0, at most 86400")] = (
        1800
    )
    non_streaming_fallback: Annotated[bool, Field(description="true or false")] = True
    wait_for_response_seconds: Annotated[
        float, Field(gt=0, lt=AZURE_REQUEST_LIMIT_SECONDS, description="seconds, more than 0, below 230")
    ] = 120
    max_message_bytes: Annotated[int, Field(ge=1, le=1_048_576, description="bytes, 1 to 1048576")] = 65_536
    max_tool_result_bytes: Annotated[int, Field(ge=1, le=1_048_576, description="bytes, 1 to 1048576")] = (
        MAX_TOOL_RESULT_BYTES
    )

    heartbeat_seconds: Annotated[float, Field(gt=0, le=120, description="seconds, more than 0, at most 120")] = 15
    stream_max_seconds: Annotated[
        float, Field(gt=0, lt=AZURE_REQUEST_LIMIT_SECONDS, description="seconds, more than 0, below 230")
    ] = 210
    stream_max_followers: Annotated[int, Field(ge=1, description="a whole number, 1 or more")] = 1000

    auth: Annotated[Literal["keys", "easy_auth"], Field(description="keys or easy_auth")] = "keys"
    allowed_origins: Annotated[
        tuple[str, ...],
        NoDecode,
        BeforeValidator(_origins),
        Field(description="origins scheme://host[:port] with commas between them, or *"),
    ] = ()

    retention_days: Annotated[float, Field(ge=0, le=36_500, description="days, 0 to 36500; 0 keeps everything")] = 0
    retention_schedule: Annotated[
        str,
        Field(
            pattern=r"^\S+( \S+){5}$",
            description="an NCRONTAB expression of six fields, the first of which is the second",
        ),
    ] = "0 0 * * * *"
    retention_batch: Annotated[int, Field(ge=1, le=10_000, description="a whole number, 1 to 10000")] = 500

    azure_openai_endpoint: Annotated[
        AnyHttpUrl | None, Field(description="a URL https://<resource>.openai.azure.com")
    ] = None
    azure_openai_api_key: SecretStr | None = None
    azure_openai_model: Annotated[
        str,
        Field(
            validation_alias=AliasChoices("azure_openai_model", "azure_openai_chat_deployment_name"),
            description="the name of a chat model's deployment",
        ),
    ] = "gpt-4o-mini"
    azure_openai_api_version: str | None = None

    openai_api_key: SecretStr | None = None
    openai_base_url: Annotated[AnyHttpUrl | None, Field(description="a URL, such as http://localhost:11434/v1")] = None
    openai_model: Annotated[str, Field(description="the name of a chat model")] = "gpt-4o-mini"

    offline_tokens_per_second: Annotated[
        float, Field(gt=0, le=1_000_000, description="tokens per second, more than 0, at most 1000000")
    ] = 30

    @classmethod
    def load(cls, host_json: Path | None = None) -> Self:
        """Read the settings from the environment.

        Args:
            host_json: The host's configuration, which has to agree with them; None where there is none.

        Raises:
            SettingsError: one line naming the first wrong setting, its value and what is allowed.
        """
        try:
            settings = cls()
        except ValidationError as error:
            raise SettingsError(_one_line(error.errors()[0])) from None
        if settings.auth == "easy_auth" and os.environ.get(PLATFORM_SIGN_IN, "").lower() != "true":
            raise SettingsError(
                f"AUTH='easy_auth' is not valid where {PLATFORM_SIGN_IN} does not say that App Service Authentication "
                "is on, which is what makes its header true; allowed: keys"
            )
        if settings.auth == "easy_auth" and "*" in settings.allowed_origins:
            raise SettingsError(
                "ALLOWED_ORIGINS='*' is not valid with AUTH=easy_auth, where a page of any site could act for whoever "
                "is signed in; allowed: origins scheme://host[:port] with commas between them"
            )
        if settings.redis_entra_id:
            _check_is_keyless(settings.redis_connection_string.get_secret_value())
        if host_json is not None:
            _check_function_timeout(settings, host_json)
        return settings


def _check_is_keyless(redis_url: str) -> None:
    url = urlsplit(redis_url)
    if url.password or url.username:
        raise SettingsError(
            "REDIS_ENTRA_ID=true signs in with the app's identity, so REDIS_CONNECTION_STRING must name no user and no "
            "password; allowed: rediss://<host>:10000"
        )
    if url.path.strip("/") or parse_url(redis_url).get("db"):
        # Azure Managed Redis has no SELECT.
        raise SettingsError(
            "REDIS_ENTRA_ID=true goes with a Redis that has one database, so REDIS_CONNECTION_STRING must name none; "
            "allowed: rediss://<host>:10000"
        )


def _check_function_timeout(settings: Settings, host_json: Path) -> None:
    """Check that the host lets a run take as long as its timer does: over its functionTimeout it restarts the worker,
    with all other runs in it."""
    host = json.loads(host_json.read_text(encoding="utf-8-sig"))
    span = str(os.environ.get(FUNCTION_TIMEOUT_SETTING) or host.get("functionTimeout", FUNCTION_TIMEOUT))
    if span.startswith("-1"):
        return
    # .NET puts the days before a dot.
    days, _, time = span.partition(".") if "." in span.partition(":")[0] else ("0", "", span)
    limit = int(days) * 86_400 + TypeAdapter(timedelta).validate_python(time).total_seconds()
    if settings.run_timeout_seconds >= limit:
        raise SettingsError(
            f"RUN_TIMEOUT_SECONDS={settings.run_timeout_seconds:g} is not valid; allowed: below the functionTimeout of "
            f"host.json, which is {limit:g} seconds"
        )


def _one_line(error: ErrorDetails) -> str:
    name = str(error["loc"][0])
    field = Settings.model_fields.get(name.lower())
    allowed = (field.description if field else None) or error["msg"]
    # A connection string may hold a password, so a wrong one is named but never shown.
    value = "(not shown)" if name.lower() == "redis_connection_string" else repr(error["input"])
    return f"{name.upper()}={value} is not valid; allowed: {allowed}"
