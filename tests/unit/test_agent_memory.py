import json
from datetime import datetime
from typing import Any

import pytest
from agent_framework import AgentResponse, Content, Message
from agent_framework_durabletask import DurableAgentState, DurableAgentStateResponse, RunRequest
from hypothesis import given
from hypothesis import strategies as st

from agentstream.agent_memory import (
    AgentMemory,
    answer_text,
    entry_text,
    error_response,
    has_failed,
    is_error,
    text_response,
    to_json,
)

# Surrogates too: some models' JSON splits a character over two texts.
TEXTS = st.text(st.characters(codec=None))
ERROR = Content.from_error(message="the model is down", error_code="server_error")


def response(*contents: Content, **options: Any) -> AgentResponse:
    return AgentResponse(messages=[Message("assistant", [content]) for content in contents], **options)


def memory_of(*answers: AgentResponse) -> AgentMemory:
    memory = AgentMemory(None, "c")
    for number, answer in enumerate(answers):
        memory.remember(RunRequest("Hi", f"r{number}"), answer)
    return memory


class TestMemory:
    def test_a_new_one_knows_nothing(self) -> None:
        memory = AgentMemory(None, "c")

        assert (memory.entries, memory.erased_since, memory.committed) == ([], -1, None)
        assert memory.response_to("r0") is None

    def test_it_remembers_a_run_over_the_state_as_the_durable_runtime_keeps_it(self) -> None:
        state = json.loads(to_json(memory_of(text_response("Day 1")).committed))

        memory = AgentMemory(state, "c")

        answer = memory.response_to("r0")
        assert answer is not None
        assert answer_text(answer) == "Day 1"
        assert [entry_text(entry) for entry in memory.entries] == ["Hi", "Day 1"]

    def test_its_state_is_the_frameworks_own(self) -> None:
        state: Any = memory_of(text_response("Day 1")).committed

        assert DurableAgentState.from_dict(state).to_dict() == state

    def test_a_copy_changes_alone(self) -> None:
        memory = memory_of(text_response("one"))

        memory.copy().remember(RunRequest("Hi", "r1"), text_response("two"))

        assert memory.response_to("r1") is None
        assert "two" not in str(memory.committed)

    def test_an_erased_one_knows_only_when(self) -> None:
        memory = memory_of(text_response("one"))
        memory.erase(1_700_000_000_000)

        kept = AgentMemory(json.loads(to_json(memory.committed)), "c")

        assert (kept.entries, kept.erased_since) == ([], 1_700_000_000_000)

    def test_a_reset_forgets_what_was_said_and_not_the_erasure_before_it(self) -> None:
        memory = AgentMemory(None, "c")
        memory.erase(5)
        memory.remember(RunRequest("Hi", "r"), text_response("later"))

        memory.reset()

        assert (memory.entries, memory.erased_since) == ([], 5)

    @given(st.lists(st.text(), min_size=1))
    def test_what_is_committed_reads_as_what_was_streamed(self, texts: list[str]) -> None:
        contents = [Content.from_text(text) for text in texts]
        for answer in (response(*contents), AgentResponse(messages=[Message("assistant", contents)])):
            state = json.loads(to_json(memory_of(answer).committed))

            assert answer_text(answer) == "".join(texts)
            assert entry_text(AgentMemory(state, "c").entries[1]) == "".join(texts)


class TestAnswerOrFailure:
    @pytest.mark.parametrize(
        ("given_", "failed"),
        [
            (response(Content.from_text("a")), False),
            (response(Content.from_text("a"), finish_reason="length"), False),
            (response(Content.from_text("a"), finish_reason="content_filter"), True),
            (response(Content.from_text("a"), ERROR), True),
            (response(ERROR), True),
            (response(Content.from_text("")), True),
            (response(Content.from_function_call("1", "f", arguments="{}")), True),
            (AgentResponse(messages=[]), True),
        ],
    )
    def test_an_error_a_filter_and_silence_are_failures(self, given_: AgentResponse, failed: bool) -> None:
        assert has_failed(given_) is failed

    def test_a_tool_call_is_no_part_of_the_text(self) -> None:
        call = Content.from_function_call("1", "f", arguments="{}")

        assert answer_text(response(Content.from_text("a"), call, Content.from_text("b"))) == "ab"

    @pytest.mark.parametrize("failed", [None, response(Content.from_text("half")), response()])
    def test_the_error_that_stands_in_for_no_answer_is_committed_as_one(self, failed: AgentResponse | None) -> None:
        error = error_response(failed)

        [entry] = [each for each in memory_of(error).entries if isinstance(each, DurableAgentStateResponse)]
        assert has_failed(error)
        assert is_error(entry)
        assert answer_text(error) == ""

    def test_an_error_keeps_what_it_says_and_drops_the_half_answer(self) -> None:
        error = error_response(response(Content.from_text("half"), ERROR))

        assert [content.message for message in error.messages for content in message.contents] == ["the model is down"]

    def test_an_answer_is_committed_as_none(self) -> None:
        [entry] = [
            each for each in memory_of(text_response("a")).entries if isinstance(each, DurableAgentStateResponse)
        ]

        assert not is_error(entry)

    @pytest.mark.parametrize("made", [text_response("a"), error_response()])
    def test_a_response_of_ours_has_the_time_which_the_state_needs(self, made: AgentResponse) -> None:
        assert datetime.fromisoformat(str(made.created_at)).tzinfo is not None


@given(st.recursive(TEXTS | st.none(), st.lists, max_leaves=4))
def test_json_of_any_text_has_a_utf_8_encoding(value: object) -> None:
    json.loads(to_json(value).encode())


def test_json_keeps_every_text_that_is_well_formed() -> None:
    assert json.loads(to_json({"é🚀": "\u2028"})) == {"é🚀": "\u2028"}
