"""What an agent's contents tell. The shapes are those that the framework's clients were seen to stream."""

import json
import random
from collections.abc import Iterable
from typing import Any

import pytest
from agent_framework import AgentResponse, AgentResponseUpdate, Content, Message
from agent_framework_durabletask import RunRequest
from hypothesis import given
from hypothesis import strategies as st

from agentstream.agent_events import AgentEvents, committed_pieces
from agentstream.agent_memory import AgentMemory, answer_text, entry_contents, to_json
from agentstream.model import Piece
from agentstream.stream.text import normalized

ARGUMENTS = st.dictionaries(st.text(), st.none() | st.integers() | st.text(), max_size=4)
TEXTS = st.text(st.characters(codec=None))
CHOICES = st.integers(0, 2**32).map(random.Random)
# How the pieces of a call name it: which of the first, the later and the last have the model's id.
ALWAYS, FIRST, LATE, NEVER = "always", "first", "late", "never"


def tell(*contents: Content, max_result_bytes: int = 1000) -> list[tuple[str, Any]]:
    """Return what these contents tell, with the data parsed."""
    events = AgentEvents("r", max_result_bytes)
    return parsed([*events.feed(contents), *events.rest()])


def parsed(pieces: Iterable[Piece]) -> list[tuple[str, Any]]:
    return [(kind, data if kind == "message" else json.loads(data)) for kind, data in pieces]


def calls_of(told: list[tuple[str, Any]]) -> dict[str, tuple[str, str]]:
    """Return the calls' names and joined arguments by their ids, after checking that the first piece has the name."""
    calls: dict[str, tuple[str, str]] = {}
    for kind, data in told:
        if kind == "tool_call":
            assert ("name" in data) == (data["id"] not in calls)
            name, arguments = calls.get(data["id"], (data.get("name"), ""))
            calls[data["id"]] = (name, arguments + data["arguments"])
    return calls


def results_of(told: list[tuple[str, Any]]) -> dict[str, str]:
    return {data["id"]: data["result"] for kind, data in told if kind == "tool_result"}


def cut(text: str, choices: random.Random) -> list[str]:
    """Return the text in pieces, some of them empty."""
    cuts = sorted(choices.randint(0, len(text)) for _ in range(choices.randint(0, 6)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def pieces_of(number: int, arguments: str, named: str, choices: random.Random, **known: Any) -> list[Content]:
    """Return a call as the model streams it: the name in the first piece, the id as told."""
    texts = ["", *cut(arguments, choices)]
    last = len(texts) - 1
    with_id = {ALWAYS: range(last + 1), FIRST: (0,), LATE: (last,), NEVER: ()}[named]
    return [
        Content.from_function_call(
            f"id-{number}" if place in with_id else "",
            "" if place else f"tool-{number}",
            arguments=text,
            merge_mode="append",
            **known,
        )
        for place, text in enumerate(texts)
    ]


class TestCalls:
    @given(ARGUMENTS, CHOICES, st.sampled_from([ALWAYS, FIRST, LATE, NEVER]))
    def test_any_split_of_the_arguments_joins_to_the_json(
        self, arguments: dict[str, Any], choices: random.Random, named: str
    ) -> None:
        told = tell(*pieces_of(1, json.dumps(arguments, ensure_ascii=False), named, choices))

        [(call_id, (name, joined))] = calls_of(told).items()
        assert (name, json.loads(joined)) == ("tool-1", arguments)
        assert call_id == ("id-1" if named in (ALWAYS, FIRST) else "r-call-1")

    @given(st.lists(ARGUMENTS, min_size=1, max_size=4), CHOICES, st.data())
    def test_parallel_calls_however_they_interleave_are_told_apart_and_have_their_results(
        self, calls: list[dict[str, Any]], choices: random.Random, data: st.DataObject
    ) -> None:
        named = data.draw(st.sampled_from([ALWAYS, FIRST, LATE, NEVER]))
        # What the OpenAI client notes on each piece; without it, only ids can tell interleaved pieces apart.
        has_index = data.draw(st.booleans()) or named != ALWAYS
        queues = [
            pieces_of(
                number,
                json.dumps(arguments),
                named,
                choices,
                additional_properties={"tool_call_choice_index": 0, "tool_call_index": number} if has_index else {},
            )
            for number, arguments in enumerate(calls)
        ]
        streamed = []
        while any(queues):
            streamed.append(choices.choice([queue for queue in queues if queue]).pop(0))
        results = [
            Content.from_function_result("" if named == NEVER else f"id-{n}", result=f"r{n}") for n in range(len(calls))
        ]
        if named != NEVER:
            choices.shuffle(results)

        told = tell(*streamed, *results)

        by_name = {name: (call_id, joined) for call_id, (name, joined) in calls_of(told).items()}
        assert [json.loads(by_name[f"tool-{number}"][1]) for number in range(len(calls))] == calls
        answers = results_of(told)
        if named == NEVER:
            assert sorted(answers) == sorted(calls_of(told))
        else:
            assert [answers[by_name[f"tool-{number}"][0]] for number in range(len(calls))] == [
                f"r{number}" for number in range(len(calls))
            ]

    def test_the_frameworks_own_name_of_a_call_ties_its_pieces_and_its_result_together(self) -> None:
        told = tell(
            Content.from_function_call("", "f", arguments='{"a"', id="af-1", merge_mode="append"),
            Content.from_function_call("", "g", arguments="{", id="af-2", merge_mode="append"),
            Content.from_function_call("", "", arguments=":1}", id="af-1", merge_mode="append"),
            Content.from_function_call("", "", arguments="}", id="af-2", merge_mode="append"),
            Content.from_function_result("", id="af-2", result="two"),
            Content.from_function_result("", id="af-1", result="one"),
        )

        assert calls_of(told) == {"r-call-1": ("f", '{"a":1}'), "r-call-2": ("g", "{}")}
        assert results_of(told) == {"r-call-1": "one", "r-call-2": "two"}

    def test_a_call_that_the_model_names_late_keeps_the_id_under_which_it_was_told(self) -> None:
        told = tell(
            Content.from_function_call("", "f", arguments="{", merge_mode="append"),
            Content.from_function_call("late", "", arguments="}", merge_mode="append"),
            Content.from_function_result("late", result="done"),
        )

        assert [data["id"] for _, data in told] == ["r-call-1"] * 3

    def test_an_id_that_was_another_calls_is_not_told_again(self) -> None:
        turn = (
            Content.from_function_call("call_0", "f", arguments="{}"),
            Content.from_function_result("call_0", result="done"),
        )

        told = tell(*turn, *turn)

        assert [data["id"] for _, data in told] == ["call_0", "call_0", "r-call-2", "r-call-2"]

    @pytest.mark.parametrize("arguments", [{}, {"a": "é"}, None, "", '{"a": 1}'])
    def test_arguments_that_come_whole_are_json_too(self, arguments: Any) -> None:
        told = tell(Content.from_function_call("1", "f", arguments=arguments))

        [(_, joined)] = calls_of(told).values()
        assert json.loads(joined) == (
            json.loads(arguments) if arguments and isinstance(arguments, str) else arguments or {}
        )

    def test_a_call_is_told_at_once_and_not_with_its_result(self) -> None:
        events = AgentEvents("r", 1000)

        told = parsed(events.feed([Content.from_function_call("1", "f", arguments="", merge_mode="append")]))

        assert told == [("tool_call", {"id": "1", "name": "f", "arguments": ""})]

    def test_nothing_is_told_of_a_call_before_its_name(self) -> None:
        events = AgentEvents("r", 1000)

        assert not list(events.feed([Content.from_function_call("1", "", arguments="{", merge_mode="append")]))
        [told] = parsed(events.feed([Content.from_function_call("1", "f", arguments="}", merge_mode="append")]))
        assert told == ("tool_call", {"id": "1", "name": "f", "arguments": "{}"})

    @pytest.mark.parametrize("restated", ['{"a": 1}', {"a": 1}])
    def test_arguments_that_are_stated_once_more_are_told_once(self, restated: Any) -> None:
        told = tell(
            Content.from_function_call("1", "f", arguments='{"a"', merge_mode="append"),
            Content.from_function_call("1", "f", arguments=": 1}", merge_mode="append"),
            Content.from_function_call("1", "f", arguments=restated, merge_mode="replace"),
        )

        assert calls_of(told) == {"1": ("f", '{"a": 1}')}

    def test_arguments_that_only_come_as_a_replacement_are_told(self) -> None:
        told = tell(Content.from_function_call("1", "f", arguments='{"a": 1}', merge_mode="replace"))

        assert calls_of(told) == {"1": ("f", '{"a": 1}')}

    def test_a_character_that_is_split_over_two_pieces_is_whole(self) -> None:
        told = tell(
            Content.from_function_call("1", "f", arguments='{"a": "\ud83d', merge_mode="append"),
            Content.from_function_call("1", "", arguments='\ude00"}', merge_mode="append"),
        )

        assert calls_of(told) == {"1": ("f", '{"a": "😀"}')}


class TestResults:
    @given(TEXTS, st.integers(1, 40))
    def test_a_result_is_cut_at_a_whole_character_and_says_so(self, result: str, max_bytes: int) -> None:
        [(kind, data)] = tell(Content.from_function_result("1", result=result), max_result_bytes=max_bytes)

        whole = result.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        assert kind == "tool_result"
        assert whole.startswith(data["result"])
        assert len(data["result"].encode()) <= max_bytes
        assert data.get("truncated", False) == (data["result"] != whole)
        assert len(whole.encode()) <= max_bytes or len(data["result"].encode()) > max_bytes - 4

    @pytest.mark.parametrize(
        ("result", "text"), [(None, ""), ("plain", "plain"), ({"a": "é"}, '{"a": "é"}'), ([1, 2], "[1, 2]"), (5, "5")]
    )
    def test_a_result_is_always_a_text(self, result: Any, text: str) -> None:
        assert tell(Content("function_result", call_id="1", result=result)) == [
            ("tool_result", {"id": "1", "result": text})
        ]

    def test_what_went_wrong_inside_a_tool_is_not_told(self) -> None:
        [(_, data)] = tell(Content.from_function_result("1", result="Error: failed.", exception="password=hunter2"))

        assert data == {"id": "1", "result": "Error: failed."}


class TestTextAndReasoning:
    def test_the_order_of_all_that_is_told_is_kept(self) -> None:
        told = tell(
            Content.from_text_reasoning(text="hm"),
            Content.from_text("Let me look."),
            Content.from_function_call("1", "f", arguments="{}"),
            Content.from_function_result("1", result="x"),
            Content.from_text("Sunny."),
        )

        assert [kind for kind, _ in told] == ["reasoning", "message", "tool_call", "tool_result", "message"]

    @given(st.lists(TEXTS, min_size=1), st.booleans())
    def test_reasoning_in_any_pieces_is_told_once_though_it_is_stated_as_a_whole_at_the_end(
        self, texts: list[str], is_restated: bool
    ) -> None:
        pieces = [Content.from_text_reasoning(id="rs", text=text, merge_mode="append") for text in texts]
        whole = Content.from_text_reasoning(id="rs", text="".join(texts), merge_mode="replace")

        told = tell(*pieces, *[whole] * is_restated)

        assert {kind for kind, _ in told} <= {"reasoning"}
        assert "".join(data["text"] for _, data in told) == normalized("".join(texts))

    def test_reasoning_that_nobody_may_read_is_not_told(self) -> None:
        assert tell(Content.from_text_reasoning(protected_data='[{"text": "secret"}]')) == []

    @given(st.lists(st.lists(st.text(min_size=1), min_size=1), min_size=1, max_size=3), st.booleans())
    def test_the_text_that_is_told_is_the_answer_that_the_framework_makes_of_the_same_updates(
        self, turns: list[list[str]], is_restated: bool
    ) -> None:
        contents: list[list[Content]] = []
        for number, texts in enumerate(turns):
            contents += [[Content.from_text(text, merge_mode="append")] for text in texts]
            contents += [[Content.from_text("".join(texts), merge_mode="replace")]] * is_restated
            contents += [[Content.from_function_call(str(number), "f", arguments="{}")]]
            contents += [[Content.from_function_result(str(number), result="x")]]
        response = AgentResponse.from_updates(
            [
                AgentResponseUpdate(contents=each, role="tool" if each[0].type == "function_result" else "assistant")
                for each in contents
            ]
        )

        told = tell(*(content for each in contents for content in each))

        assert "".join(data for kind, data in told if kind == "message") == answer_text(response)

    def test_other_contents_are_passed_over(self) -> None:
        assert tell(Content.from_error(message="secret"), Content.from_uri("http://a", media_type="image/png")) == []


class TestUsage:
    def usage(self, read: int, written: int, mode: Any = "replace") -> Content:
        details: Any = {"input_token_count": read, "output_token_count": written, "total_token_count": read + written}
        return Content.from_usage(details, merge_mode=mode)

    def turn(self, number: int) -> tuple[Content, Content]:
        return (
            Content.from_function_call(f"{number}", "f", arguments="{}"),
            Content.from_function_result(f"{number}", result="x"),
        )

    def test_each_call_of_the_model_is_told_alone_though_the_framework_restates_their_sum(self) -> None:
        call, result = self.turn(1)

        told = tell(call, self.usage(10, 2), result, Content.from_text("a"), self.usage(10 + 30, 2 + 5))

        assert [(kind, data) for kind, data in told if kind == "usage"] == [
            ("usage", {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}),
            ("usage", {"input_tokens": 30, "output_tokens": 5, "total_tokens": 35}),
        ]
        assert [kind for kind, _ in told] == ["tool_call", "usage", "tool_result", "message", "usage"]

    def test_a_count_that_grows_with_the_answer_is_told_once(self) -> None:
        told = tell(
            self.usage(10, 1), Content.from_text("a"), self.usage(10, 2), Content.from_text("b"), self.usage(10, 3)
        )

        assert told[2:] == [("usage", {"input_tokens": 10, "output_tokens": 3, "total_tokens": 13})]

    def test_counts_that_are_to_be_added_are_added(self) -> None:
        assert tell(self.usage(10, 0, None), self.usage(0, 3, "append")) == [
            ("usage", {"input_tokens": 10, "output_tokens": 3, "total_tokens": 13})
        ]

    def test_a_count_that_begins_anew_is_told_whole(self) -> None:
        call, result = self.turn(1)

        told = tell(self.usage(10, 5), call, result, self.usage(7, 6))

        assert [data["total_tokens"] for kind, data in told if kind == "usage"] == [15, 13]

    def test_what_the_model_service_leaves_out_counts_as_none(self) -> None:
        assert tell(Content.from_usage({"output_token_count": 3, "input_token_count": None})) == [
            ("usage", {"input_tokens": 0, "output_tokens": 3, "total_tokens": 3})
        ]
        assert tell(Content.from_usage({})) == []


class TestCommitted:
    def committed(self, *messages: Message) -> list[tuple[str, Any]]:
        memory = AgentMemory(None, "c")
        memory.remember(RunRequest("Hi", "r"), AgentResponse(messages=list(messages)))
        state = AgentMemory(json.loads(to_json(memory.committed)), "c")
        return parsed(committed_pieces(entry_contents(state.entries[1]), "r", 1000))

    def test_calls_and_results_come_with_the_text_in_their_order_and_under_the_ids_that_were_streamed(self) -> None:
        messages = [
            Message(
                "assistant",
                [Content.from_text("Let me look.\r"), Content.from_function_call("", "f", arguments='{"a": 1}')],
            ),
            Message("tool", [Content.from_function_result("", result="one")]),
            Message("assistant", [Content.from_function_call("b", "g", arguments={})]),
            Message("tool", [Content.from_function_result("b", result="two")]),
            Message("assistant", [Content.from_text_reasoning(text="hm"), Content.from_text("\nSunny.")]),
        ]

        told = self.committed(*messages)

        assert told == [
            ("message", "Let me look."),
            ("tool_call", {"id": "r-call-1", "name": "f", "arguments": '{"a": 1}'}),
            ("tool_result", {"id": "r-call-1", "result": "one"}),
            ("tool_call", {"id": "b", "name": "g", "arguments": "{}"}),
            ("tool_result", {"id": "b", "result": "two"}),
            ("message", "\nSunny."),
        ]
        streamed = tell(*(content for message in messages for content in message.contents))
        assert (calls_of(streamed), results_of(streamed)) == (calls_of(told), results_of(told))

    @given(st.lists(TEXTS))
    def test_its_text_is_the_answer_as_the_stream_has_it(self, texts: list[str]) -> None:
        contents = [Content.from_text(text) for text in texts]
        told = committed_pieces(contents, "r", 1000)

        assert "".join(piece.data for piece in told) == normalized("".join(texts))
        assert all(piece.data for piece in told)
