import logging
import subprocess
import sys
from typing import Any

import pytest
from agent_framework.openai import OpenAIChatCompletionClient

from agentstream.agent_memory import answer_text
from agentstream.settings import Settings
from devhost.testing import REPOSITORY
from tests.model_server import ModelServer, Reply, says
from travel_planner import create_agents
from travel_planner.chat_client import create_chat_client
from travel_planner.offline.client import OfflinePlanner

ALL = {
    "AZURE_OPENAI_ENDPOINT": "https://example.openai.azure.com",
    "AZURE_OPENAI_API_KEY": "azure-secret",
    "OPENAI_API_KEY": "openai-secret",
    "OPENAI_BASE_URL": "http://localhost:11434/v1",
}


@pytest.fixture(autouse=True)
def no_model_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ALL:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("names", "choice"),
    [
        (ALL, "Azure OpenAI, deployment gpt-4o-mini, signed in by key, because AZURE_OPENAI_ENDPOINT is set"),
        (["AZURE_OPENAI_ENDPOINT"], "signed in by identity"),
        (["OPENAI_API_KEY", "OPENAI_BASE_URL"], "gpt-4o-mini at localhost:11434, because OPENAI_BASE_URL is set"),
        (["OPENAI_BASE_URL"], "localhost:11434"),
        (["OPENAI_API_KEY"], "gpt-4o-mini at OpenAI, because OPENAI_API_KEY is set"),
        ([], "the offline planner, because none of"),
    ],
)
def test_the_settings_choose_the_model_and_the_log_tells_why(
    names: list[str], choice: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in names:
        monkeypatch.setenv(name, ALL[name])

    with caplog.at_level(logging.INFO, "travel_planner"):
        client = create_chat_client(Settings.load())

    assert isinstance(client, OpenAIChatCompletionClient if names else OfflinePlanner)
    [line] = [record.getMessage() for record in caplog.records if record.name == "travel_planner.chat_client"]
    assert choice in line
    assert "secret" not in line


def test_the_offline_choice_loads_no_model_library() -> None:
    code = (
        "import sys; from travel_planner import create_agents; from agentstream import Settings;"
        "create_agents(Settings.load());"
        "print([name for name in ('openai', 'azure.identity') if name in sys.modules])"
    )

    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60
    )

    assert loaded.stdout.strip() == "[]"


class TestOpenAICompatible:
    async def answer(self, reply: Any, monkeypatch: pytest.MonkeyPatch, *, streams: bool) -> tuple[str, ModelServer]:
        async with ModelServer(reply) as server:
            monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
            [agent] = create_agents(Settings.load())
            if not streams:
                return answer_text(await agent.run("Plan a trip to Tokyo")), server
            updates = agent.run("Plan a trip to Tokyo", stream=True)
            text = "".join([update.text async for update in updates])
            assert text == answer_text(await updates.get_final_response())
            return text, server

    @pytest.mark.parametrize("streams", [True, False])
    async def test_an_answer(self, streams: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        text, server = await self.answer(lambda _: says("Day 1:", " 東京", "\n😀"), monkeypatch, streams=streams)

        assert text == "Day 1: 東京\n😀"
        [call] = server.calls
        assert call["model"] == "gpt-4o-mini"
        assert {tool["function"]["name"] for tool in call["tools"]} == {"get_weather_forecast", "get_local_events"}
        assert call["messages"][0]["role"] in ("system", "developer")

    @pytest.mark.parametrize("streams", [True, False])
    async def test_a_tool_call(self, streams: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        arguments = {"destination": "Tokyo", "date": "day 1"}

        def reply(messages: list[dict[str, Any]]) -> Reply:
            if messages[-1]["role"] != "tool":
                return Reply(tool_calls=(("get_weather_forecast", arguments), ("get_local_events", arguments)))
            return says("It is: ", messages[-2]["content"])

        text, server = await self.answer(reply, monkeypatch, streams=streams)

        assert "chance of rain" in text
        assert [message["role"] for message in server.calls[1]["messages"]][-3:] == ["assistant", "tool", "tool"]

    async def test_a_refusal_is_raised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(Exception, match="401"):
            await self.answer(lambda _: Reply(status=401), monkeypatch, streams=True)

    async def test_a_broken_stream_is_raised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(Exception, match=r".+"):
            await self.answer(lambda _: Reply(("a", "b"), fails_after=1), monkeypatch, streams=True)
