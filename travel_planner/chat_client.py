"""The way to a model: Azure OpenAI, a service that speaks OpenAI's protocol, or the built-in offline planner."""

import logging
from typing import Any

from agent_framework import BaseChatClient

from agentstream.settings import Settings

# A compatible server on one's own machine wants no key, but the client library does.
NO_KEY = "not-needed"

logger = logging.getLogger(__name__)


def create_chat_client(settings: Settings) -> BaseChatClient[Any]:
    """Return the client of the first model that the settings name, and tell in the log which and why."""
    # Each way imports what it needs and nothing else, which keeps the others' cold start short.
    if settings.azure_openai_endpoint is not None:
        return _azure_openai(settings)
    if settings.openai_api_key is not None or settings.openai_base_url is not None:
        return _openai_compatible(settings)
    from travel_planner.offline.client import OfflinePlanner

    logger.info(
        "model: the offline planner, because none of AZURE_OPENAI_ENDPOINT, OPENAI_API_KEY and OPENAI_BASE_URL is set"
    )
    return OfflinePlanner(settings.offline_tokens_per_second)


def _azure_openai(settings: Settings) -> BaseChatClient[Any]:
    from agent_framework.openai import OpenAIChatCompletionClient

    key = settings.azure_openai_api_key
    credential = None
    if key is None:
        from azure.identity.aio import DefaultAzureCredential

        credential = DefaultAzureCredential()
    logger.info(
        "model: Azure OpenAI, deployment %s, signed in by %s, because AZURE_OPENAI_ENDPOINT is set",
        settings.azure_openai_model,
        "identity" if key is None else "key",
    )
    return OpenAIChatCompletionClient(
        settings.azure_openai_model,
        azure_endpoint=str(settings.azure_openai_endpoint),
        api_key=None if key is None else key.get_secret_value(),
        credential=credential,
        api_version=settings.azure_openai_api_version,
    )


def _openai_compatible(settings: Settings) -> BaseChatClient[Any]:
    from agent_framework.openai import OpenAIChatCompletionClient

    key, url = settings.openai_api_key, settings.openai_base_url
    logger.info(
        "model: %s at %s, because %s is set",
        settings.openai_model,
        "OpenAI" if url is None else f"{url.host}:{url.port}",
        "OPENAI_API_KEY" if url is None else "OPENAI_BASE_URL",
    )
    return OpenAIChatCompletionClient(
        settings.openai_model,
        api_key=NO_KEY if key is None else key.get_secret_value(),
        base_url=None if url is None else str(url),
    )
