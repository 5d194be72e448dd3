import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from agent_framework import Agent
from agent_framework_durabletask import RunRequest

from agentstream.agent_memory import AgentMemory, entry_text, is_error
from agentstream.attempt import attempt
from agentstream.attempt import writer as attempt_writer
from agentstream.attempt.attempt import AbandonedError
from agentstream.attempt.entity import Entity
from agentstream.model import CANCELLED, DONE, Outcome, RunKey, RunStatus, Verdict
from agentstream.stream.handler import RedisStreamHandler
from tests.chat_clients import Script, says, scripted_agent
from tests.waiting import eventually

FAILED = Outcome(RunStatus.FAILED, "error", '{"code": "internal_error"}')


class EntityRun:
    """An agent's entity and one run of it, executed as the durable runtime does."""

    def __init__(self, handler: RedisStreamHandler, key: RunKey) -> None:
        self.handler = handler
        self.key = key
        self.state: str | None = None

    async def execute(
        self,
        agent: Any,
        operation: str = "run",
        argument: Any = None,
        *,
        fallback: bool = True,
        turns: asyncio.Semaphore | None = None,
    ) -> Any:
        """Execute an operation on the committed state, and return ``(what was answered, the new state)``."""
        if argument is None:
            argument = RunRequest("Plan a trip", self.key.correlation_id, options=self.key.options()).to_dict()
        batch = {
            "self": {"name": "dafx-travelplanner", "key": self.key.conversation_id},
            "state": self.state,
            "batch": [{"name": operation, "input": json.dumps(json.dumps(argument)), "isSignal": False}],
        }
        executed = json.loads(
            await Entity(agent, turns or asyncio.Semaphore(), fallback=fallback).execute(json.dumps(batch))
        )
        [result] = executed["results"]
        assert not result["isError"], result
        return json.loads(result["result"]), executed["entityState"]

    async def answer(self, agent: Any, *, fallback: bool = True) -> str:
        """Execute the run, commit its state, and return the text that it answered; of an error nothing."""
        answered, self.state = await self.execute(agent, fallback=fallback)
        return text_of(answered)

    @property
    def memory(self) -> AgentMemory:
        """What is committed."""
        return AgentMemory(json.loads(self.state or "null"), self.key.conversation_id)

    @property
    def said(self) -> list[str]:
        """The texts that are committed, the user's too."""
        return [entry_text(entry) for entry in self.memory.entries]

    async def end(self, outcome: Outcome = DONE, answer: str | None = None) -> None:
        await self.handler.write_completion(
            self.key.conversation_id, correlation_id=self.key.correlation_id, outcome=outcome, answer=answer
        )

    async def events(self) -> list[tuple[str, str]]:
        batches = self.handler.read_stream(self.key.conversation_id, follow=False)
        return [(event.kind, event.data) async for batch in batches for event in batch]

    async def streamed(self) -> str:
        return "".join(text for event, text in await self.events() if event == "message")


def text_of(answered: dict[str, Any]) -> str:
    contents = [content for message in answered["messages"] for content in message["contents"]]
    return "".join(content.get("text") or "" for content in contents if content["type"] == "text")


@pytest.fixture
async def run(handler: RedisStreamHandler, conversation_id: str, correlation_id: str) -> EntityRun:
    accepted = await handler.accept_run(conversation_id, correlation_id, "TravelPlanner")
    assert accepted is not None
    return EntityRun(handler, RunKey(conversation_id, correlation_id, accepted.created))


def endless(said: asyncio.Event) -> Script:
    async def script() -> AsyncIterator[str]:
        yield "so "
        yield "far"
        said.set()
        await asyncio.Event().wait()

    return script


def failing(*texts: str) -> Script:
    async def script() -> AsyncIterator[str]:
        for text in texts:
            yield text
        raise ConnectionError("the model is down")

    return script


async def test_what_streams_is_the_answer_that_is_committed(run: EntityRun) -> None:
    agent, model = scripted_agent(says("Day 1:", " arrive\n", "", "Day 2"))

    assert await run.answer(agent) == "Day 1: arrive\nDay 2"

    assert run.said == ["Plan a trip", "Day 1: arrive\nDay 2"]
    assert await run.streamed() == "Day 1: arrive\nDay 2"
    assert (model.streaming_calls, model.other_calls) == (1, 0)


async def test_a_cancelled_run_stops_the_model_and_commits_the_partial_answer(run: EntityRun) -> None:
    said = asyncio.Event()
    agent, model = scripted_agent(endless(said))
    answering = asyncio.create_task(run.answer(agent))
    await said.wait()

    await run.handler.cancel_run(run.key.conversation_id, run.key.correlation_id)

    async with asyncio.timeout(5):
        assert await answering == "so far"
    assert model.other_calls == 0
    assert run.said == ["Plan a trip", "so far"]


async def test_a_run_cancelled_while_queued_never_calls_the_model(run: EntityRun) -> None:
    agent, model = scripted_agent(says("never"))
    await run.handler.cancel_run(run.key.conversation_id, run.key.correlation_id)

    assert await run.answer(agent) == ""

    assert (model.streaming_calls, model.other_calls) == (0, 0)


class TestOneAnswer:
    """Promise 6, with the guarantees of the real backends: whatever is executed twice answers once."""

    async def test_promise_6_one_writer_a_fenced_attempt_gives_the_newest_ones_answer(self, run: EntityRun) -> None:
        said = asyncio.Event()
        agent, _ = scripted_agent(endless(said))
        zombie = asyncio.create_task(run.execute(agent))
        await said.wait()

        newest, _ = scripted_agent(says("the ", "answer"))
        answered, state = await run.execute(newest)

        async with asyncio.timeout(5):
            late, late_state = await zombie
        assert text_of(late) == text_of(answered) == "the answer"
        for run.state in (state, late_state):
            assert run.said == ["Plan a trip", "the answer"]
        await run.end(answer="the answer")
        events = await run.events()
        reset = [event for event, _ in events].index("reset")
        assert events[reset + 1 :] == [("message", "the "), ("message", "answer"), ("done", "[DONE]")]

    async def test_an_answer_that_was_sent_and_not_committed_is_given_again_without_the_model(
        self, run: EntityRun
    ) -> None:
        agent, _ = scripted_agent(says("the ", "answer"))
        await run.execute(agent)

        again, model = scripted_agent(says("another"))

        assert await run.answer(again) == "the answer"
        assert model.streaming_calls == 0
        assert run.said == ["Plan a trip", "the answer"]
        assert [event for event, _ in await run.events()] == ["message", "message"], "no reset"

    @pytest.mark.parametrize("redis_has_lost_it", [False, True])
    async def test_an_operation_repeated_after_its_commit_answers_what_was_committed(
        self, run: EntityRun, redis: Any, redis_has_lost_it: bool
    ) -> None:
        agent, _ = scripted_agent(says("the ", "answer"))
        await run.answer(agent)
        await run.end(answer="the answer")
        if redis_has_lost_it:
            await redis.flushall()
        committed = run.state
        again, model = scripted_agent(says("another"))

        assert await run.answer(again) == "the answer"

        assert model.streaming_calls == 0
        assert json.loads(run.state or "") == json.loads(committed or "")

    async def test_a_failure_counts_once_too(self, run: EntityRun) -> None:
        said = asyncio.Event()
        agent, _ = scripted_agent(endless(said))
        zombie = asyncio.create_task(run.answer(agent))
        await said.wait()
        newest, _ = scripted_agent(failing("Day"))

        assert await run.answer(newest, fallback=False) == ""

        async with asyncio.timeout(5):
            assert await zombie == ""
        assert is_error(run.memory.entries[-1])  # type: ignore[arg-type]

    async def test_a_run_that_timed_out_gets_no_partial_answer(self, run: EntityRun) -> None:
        said = asyncio.Event()
        agent, _ = scripted_agent(endless(said))
        answering = asyncio.create_task(run.answer(agent))
        await said.wait()

        await run.end(Outcome(RunStatus.TIMED_OUT, "error", "{}"))

        async with asyncio.timeout(5):
            assert await answering == ""
        assert run.said == ["Plan a trip", ""]

    async def test_once_answered_a_run_does_not_time_out(self, run: EntityRun) -> None:
        agent, _ = scripted_agent(says("in time"))
        await run.execute(agent)

        status = await run.handler.write_completion(
            run.key.conversation_id,
            correlation_id=run.key.correlation_id,
            outcome=Outcome(RunStatus.TIMED_OUT, "error", "{}"),
        )

        assert status is None
        assert await run.events() == [("message", "in time")]

    async def test_a_run_that_was_answered_by_an_error_is_not_left_alone(self, run: EntityRun) -> None:
        agent, _ = scripted_agent(failing("Day"))
        await run.execute(agent, fallback=False)

        status = await run.handler.write_completion(
            run.key.conversation_id, correlation_id=run.key.correlation_id, outcome=FAILED, unless_answered=True
        )

        assert status is RunStatus.FAILED

    async def test_it_is_executed_again_when_the_newest_attempt_is_dead(
        self, run: EntityRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attempt, "DEAD_AFTER_SECONDS", 0.3)
        monkeypatch.setattr(attempt, "LOOK_SECONDS", 0.05)
        said = asyncio.Event()
        agent, _ = scripted_agent(endless(said))
        zombie = asyncio.create_task(run.execute(agent))
        await said.wait()
        # An attempt that dies at once.
        await run.handler.begin_attempt(run.key.conversation_id, run.key.correlation_id)

        async with asyncio.timeout(5):
            with pytest.raises(AbandonedError, match="dead"):
                await zombie

    async def test_a_fenced_attempt_does_not_begin_anew_by_the_second_call_to_the_model(
        self, run: EntityRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        # Only by beginning does it learn that it is fenced.
        monkeypatch.setattr(attempt_writer, "KEEP_ALIVE_SECONDS", 60)
        said, fail = asyncio.Event(), asyncio.Event()

        async def script() -> AsyncIterator[str]:
            said.set()
            await fail.wait()
            raise ConnectionError("the model is down")
            yield ""

        agent, model = scripted_agent(script, once=lambda: "a zombie's")
        zombie = asyncio.create_task(run.execute(agent))
        await said.wait()
        conversation_id, correlation_id = run.key.conversation_id, run.key.correlation_id
        _, newest = await run.handler.begin_attempt(conversation_id, correlation_id)

        async def is_stopped() -> bool:
            return "the attempt ends: stop" in caplog.text

        with caplog.at_level(logging.INFO, "agentstream.attempt.writer"):
            fail.set()
            await eventually(is_stopped)
        await run.handler.write_chunk(conversation_id, "the newest's", 0, correlation_id=correlation_id, attempt=newest)
        await run.handler.answer_run(conversation_id, correlation_id, newest)

        assert text_of((await zombie)[0]) == "the newest's"
        assert model.other_calls == 0


async def test_promise_8_bounded_a_run_waits_for_its_turn_and_can_be_cancelled_before_its_model_is_called(
    run: EntityRun,
) -> None:
    turns = asyncio.Semaphore(1)
    await turns.acquire()
    agent, model = scripted_agent(says("never"))
    waiting = asyncio.create_task(run.execute(agent, turns=turns))
    conversation_id, correlation_id = run.key.conversation_id, run.key.correlation_id
    await run.handler.cancel_run(conversation_id, correlation_id)

    assert (await run.handler.runs(conversation_id))[correlation_id].attempt == 0
    await run.handler.end_unstarted(conversation_id, correlation_id=correlation_id, outcome=CANCELLED)
    turns.release()

    answered, _ = await waiting
    assert text_of(answered) == ""
    assert model.streaming_calls == 0
    assert not turns.locked()


class TestErased:
    async def test_promise_7_deleted_is_gone_for_an_attempt_that_wakes_up_late(self, run: EntityRun) -> None:
        conversation_id, correlation_id = run.key.conversation_id, run.key.correlation_id
        _, zombie = await run.handler.begin_attempt(conversation_id, correlation_id)
        await run.end(FAILED)
        assert await run.handler.erase(conversation_id)
        await run.handler.erase(conversation_id, finished=True)
        agent, model = scripted_agent(says("never"))

        answered, state = await run.execute(agent)

        assert (answered, json.loads(state)) == ({"status": "erased"}, None)
        assert model.streaming_calls == 0
        assert (
            await run.handler.write_chunk(conversation_id, "late", 0, correlation_id=correlation_id, attempt=zombie)
            is Verdict.STOP
        )
        assert await run.handler.runs(conversation_id) == {}

    async def test_the_memory_remembers_the_erasure_when_redis_does_not(self, run: EntityRun, redis: Any) -> None:
        agent, model = scripted_agent(says("never"))
        _, run.state = await run.execute(agent, "erase", run.key.created)
        await redis.flushall()

        answered, state = await run.execute(agent)

        assert answered == {"status": "erased"}
        assert json.loads(state)["data"]["conversationHistory"] == []
        assert model.streaming_calls == 0


async def test_the_second_call_after_a_failed_stream_is_told_in_the_log_and_streams_its_answer(
    run: EntityRun, caplog: pytest.LogCaptureFixture
) -> None:
    agent, model = scripted_agent(failing("Day ", "1"), once=lambda: "All days")

    with caplog.at_level(logging.WARNING, "agentstream.attempt.attempt"):
        assert await run.answer(agent) == "All days"

    assert (model.streaming_calls, model.other_calls) == (1, 1)
    assert [record.getMessage() for record in caplog.records if run.key.correlation_id in record.getMessage()]
    await run.end(answer="All days")
    events = await run.events()
    assert [event for event, _ in events if event == "reset"] == ["reset"]
    assert events[-2:] == [("message", "All days"), ("done", "[DONE]")]


async def test_the_second_call_can_be_turned_off(run: EntityRun) -> None:
    agent, model = scripted_agent(failing("Day "), once=lambda: "never")

    answered, run.state = await run.execute(agent, fallback=False)

    assert model.other_calls == 0
    [error] = answered["messages"][0]["contents"]
    assert error["type"] == "error"
    assert run.said == ["Plan a trip", ""]


async def test_a_second_call_can_be_cancelled_too(run: EntityRun) -> None:
    called, never = asyncio.Event(), asyncio.Event()
    agent, model = scripted_agent(failing())

    async def hang() -> Any:
        called.set()
        await never.wait()

    model._answer = hang  # type: ignore[method-assign]
    answering = asyncio.create_task(run.answer(agent))
    await called.wait()

    await run.handler.cancel_run(run.key.conversation_id, run.key.correlation_id)

    async with asyncio.timeout(5):
        assert await answering == ""


async def test_a_timeout_of_the_models_own_is_an_error_not_a_cancellation(run: EntityRun) -> None:
    async def script() -> AsyncIterator[str]:
        yield "a"
        raise TimeoutError("the model took too long")

    agent, _ = scripted_agent(script)

    answered, _ = await run.execute(agent, fallback=False)

    assert answered["messages"][0]["contents"][0]["type"] == "error"


@pytest.mark.parametrize("texts", [(), ("",)])
async def test_an_answer_without_a_word_is_a_failure(run: EntityRun, texts: tuple[str, ...]) -> None:
    agent, _ = scripted_agent(says(*texts))

    await run.answer(agent)

    assert is_error(run.memory.entries[-1])  # type: ignore[arg-type]


async def test_what_is_committed_is_well_formed_unicode(run: EntityRun) -> None:
    agent, _ = scripted_agent(says("a lone \ud83d", " and a split \ud83d", "\ude00"))

    answered, run.state = await run.execute(agent)

    assert text_of(answered) == run.said[-1] == "a lone \ufffd and a split \U0001f600"
    assert run.said[-1].encode()
    assert await run.streamed() == run.said[-1]


async def test_the_next_message_after_a_failure_is_answered(run: EntityRun, handler: RedisStreamHandler) -> None:
    failed, _ = scripted_agent(failing("Day"))
    await run.answer(failed, fallback=False)
    await run.end(FAILED)
    run.key = RunKey(run.key.conversation_id, run.key.correlation_id + "-next", run.key.created)

    agent, _ = scripted_agent(says("Fine."))

    assert await run.answer(agent) == "Fine."


async def test_a_call_without_a_run_is_passed_on(run: EntityRun) -> None:
    agent, _ = scripted_agent(says("plain"))

    answered, run.state = await run.execute(agent, "run", RunRequest("Plan", "r").to_dict())

    assert text_of(answered) == "plain"
    assert run.said == ["Plan", "plain"]
    assert await run.events() == []


async def test_a_reset_forgets_and_an_unknown_operation_fails(run: EntityRun) -> None:
    agent, _ = scripted_agent(says("a"))
    await run.answer(agent)

    _, run.state = await run.execute(agent, "reset")

    assert run.said == []
    with pytest.raises(AssertionError, match="no operation"):
        await run.execute(agent, "dance")


class DoesNotStream(Agent):
    """An agent that has only the call which does not stream."""

    def run(self, *messages: Any, stream: bool = False, **options: Any) -> Any:
        if stream:
            raise TypeError("this agent does not stream")
        return super().run(*messages, **options)


async def test_a_failed_run_leaks_nothing_into_another_agents_call_in_the_same_task(
    handler: RedisStreamHandler,
) -> None:
    async def run(agent: Any) -> Any:
        key = RunKey(f"c-{uuid.uuid4()}", f"r-{uuid.uuid4()}")
        accepted = await handler.accept_run(key.conversation_id, key.correlation_id, "TravelPlanner")
        assert accepted is not None
        each = EntityRun(handler, replace(key, created=accepted.created))
        return (await each.execute(agent, fallback=False))[0]

    _, model = scripted_agent(says(), once=lambda: "at once")
    failed = await run(scripted_agent(failing("half "))[0])
    other = await run(DoesNotStream(model, "Plan.", name="TravelPlanner"))

    assert "error" in json.dumps(failed)
    # It was called once, so that the fallback, a second call, need not be allowed.
    assert text_of(other) == "at once"
    assert (model.streaming_calls, model.other_calls) == (0, 1)


async def test_promise_8_bounded_a_run_does_not_begin_while_others_have_all_turns(run: EntityRun) -> None:
    turns = asyncio.Semaphore(1)
    await turns.acquire()
    agent, model = scripted_agent(says("at last"))
    waiting = asyncio.create_task(run.execute(agent, turns=turns))
    other = EntityRun(run.handler, replace(run.key, correlation_id=f"r-{uuid.uuid4()}"))

    await other.execute(scripted_agent(says("meanwhile"))[0])

    assert model.streaming_calls == 0
    turns.release()
    assert text_of((await waiting)[0]) == "at last"
