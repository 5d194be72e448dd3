"""What is exported of runs and followers, by the app on the embedded host, to a collector."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.app import RUN_ROUTE, App, running_app, text_of
from tests.model_server import ModelServer
from tests.otlp_collector import OtlpCollector, Record, Span
from tests.scripts import script
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

FAULTS = "/runtime/webhooks/durabletask/faults"
LONG = [f"{number} " for number in range(40)]
WEATHER = ("get_weather_forecast", {"destination": "Tokyo", "date": "2026-05-01"})


@pytest.fixture(scope="module")
def collector() -> Iterator[OtlpCollector]:
    with OtlpCollector() as collector:
        yield collector


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def app(
    redis_url: str, model: ModelServer, collector: OtlpCollector, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[App]:
    env = {
        "REDIS_CONNECTION_STRING": redis_url,
        "OPENAI_BASE_URL": model.base_url,
        "DEVHOST_FAULTS": "1",
        "DEVHOST_LEASE_SECONDS": "2",
        "DEVHOST_TELEMETRY": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_BLRP_SCHEDULE_DELAY": "50",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
    }
    async with running_app(tmp_path_factory.mktemp("state"), env) as app:
        yield app


@pytest.fixture
def trace() -> str:
    """The id of a trace that a client has begun."""
    return secrets.token_hex(16)


def traced(trace: str, span: str = "00f067aa0ba902b7") -> dict[str, str]:
    return {"traceparent": f"00-{trace}-{span}-01"}


async def start(app: App, trace: str, message: str) -> dict[str, Any]:
    response = await app.client.post(RUN_ROUTE, json={"message": message}, headers=traced(trace))
    assert response.status_code == httpx.codes.ACCEPTED, response.text
    run: dict[str, Any] = response.json()
    return run


async def exported(collector: OtlpCollector, trace: str, name: str, count: int = 1) -> list[Span]:
    """Wait until the trace has so many spans of this name, and return the whole trace."""

    async def are_there() -> bool:
        return [span.name for span in collector.trace(trace)].count(name) >= count

    try:
        await eventually(are_there)
    except TimeoutError:
        raise AssertionError(f"{count} {name}: {collector.spans}") from None
    return collector.trace(trace)


def named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name.startswith(name)]


def only(spans: list[Span], name: str) -> Span:
    (span,) = named(spans, name)
    return span


async def test_a_run_is_one_trace_from_its_post_to_its_end(app: App, collector: OtlpCollector, trace: str) -> None:
    run = await start(app, trace, script(chunks=["the ", "answer"], tool_calls=[WEATHER]))
    assert text_of(await app.finish(run)) == "the answer"

    spans = await exported(collector, trace, "finish run")

    accept, execute, finish = (only(spans, name) for name in ("accept run", "execute run", "finish run"))
    assert accept.parent == "00f067aa0ba902b7"
    assert execute.parent == finish.parent == accept.id
    assert only(spans, "invoke_agent").parent == execute.id
    assert len(named(spans, "chat")) == 2
    assert len(named(spans, "execute_tool")) == 1
    for span in (accept, execute, finish):
        assert span.attributes["agentstream.run.id"] == run["correlation_id"]
        assert span.attributes["gen_ai.conversation.id"] == run["conversation_id"]
        assert span.attributes["gen_ai.agent.name"] == "TravelPlanner"
    assert execute.attributes["agentstream.run.outcome"] == "answered"
    assert execute.attributes["agentstream.run.attempt"] > 0
    assert 0 < execute.attributes["agentstream.run.time_to_first_chunk"] < 30
    assert finish.attributes["agentstream.run.outcome"] == "completed"


async def test_the_second_attempt_after_a_crash_is_in_the_same_trace(
    app: App, collector: OtlpCollector, trace: str
) -> None:
    run = await start(app, trace, script(chunks=LONG, delay_seconds=0.05))
    await anext(app.follow(run["stream_url"]))
    await exported(collector, trace, "accept run")

    await asyncio.to_thread(app.host.restart)
    assert text_of(await app.finish(run)) == "".join(LONG)

    spans = await exported(collector, trace, "finish run")
    accept = only(spans, "accept run")
    # That of the first attempt died with its process.
    assert only(spans, "execute run").parent == only(spans, "finish run").parent == accept.id

    async def is_counted() -> bool:
        # By the new process, which has counted nothing before.
        return (
            collector.value("agentstream.attempt.repeated") == 1
            and collector.value("agentstream.reset", reset__reason="attempt") == 1
            and collector.value("agentstream.run.duration", run__outcome="completed") == 1
        )

    await eventually(is_counted)


async def test_attempts_that_overlap_are_both_in_the_trace_and_the_fenced_one_says_so(
    app: App, collector: OtlpCollector, trace: str
) -> None:
    run = await start(app, trace, script(chunks=LONG, delay_seconds=0.05))
    await anext(app.follow(run["stream_url"]))
    await app.client.post(f"{FAULTS}/overlap", params={"match": run["conversation_id"], "skip": 0})
    await app.finish(run)

    spans = await exported(collector, trace, "execute run", 2)

    attempts = named(spans, "execute run")
    assert {span.attributes["agentstream.run.outcome"] for span in attempts} == {"answered", "fenced"}
    assert len({span.attributes["agentstream.run.attempt"] for span in attempts}) == 2

    async def is_counted() -> bool:
        return collector.value("agentstream.attempt.fenced") == 1 and collector.value("agentstream.run.open") == 0

    await eventually(is_counted)


@pytest.mark.parametrize("accept", ["text/event-stream", "text/plain"])
async def test_a_stream_of_many_chunks_is_three_spans_at_most(
    app: App, collector: OtlpCollector, trace: str, accept: str
) -> None:
    run = await app.start_run(script(chunks=["word "] * 200, delay_seconds=0.005))

    async with app.client.stream("GET", run["stream_url"], headers={"Accept": accept, **traced(trace)}) as response:
        parts = [part async for part in response.aiter_text()]

    assert "".join(parts).count("word ") == 200
    assert len(parts) > 50, "they came one by one"
    spans = await exported(collector, trace, "follow stream")
    assert len(spans) <= 3
    followed = only(spans, "follow stream").attributes
    assert followed["agentstream.follower.events"] == 201
    assert followed["agentstream.follower.end"] == "terminal"
    assert followed["agentstream.follower.resumed"] is False


async def test_the_wires_that_stream_a_post_are_the_same_trace_and_no_more_spans(
    app: App, collector: OtlpCollector, trace: str, conversation_id: str
) -> None:
    message = {"id": "m", "role": "user", "parts": [{"type": "text", "text": script(chunks=["word "] * 200)}]}
    response = await app.client.post(
        "/api/chat", json={"id": conversation_id, "messages": [message]}, headers=traced(trace)
    )
    assert response.status_code == httpx.codes.OK, response.text

    spans = await exported(collector, trace, "finish run")
    spans = await exported(collector, trace, "follow stream")

    assert only(spans, "follow stream").attributes["agentstream.follower.end"] == "terminal"
    ours = [span for span in spans if span.name in ("accept run", "execute run", "finish run", "follow stream")]
    assert len(spans) - len(ours) <= 6, "the framework's, and those of the model's client"


async def test_a_follower_that_leaves_and_comes_back_is_told_of(app: App, collector: OtlpCollector, trace: str) -> None:
    run = await start(app, trace, script(chunks=["a", "b"], hangs_after=2))
    first = await anext(app.follow(run["stream_url"], headers=traced(trace)))

    spans = await exported(collector, trace, "follow stream")
    assert only(spans, "follow stream").attributes["agentstream.follower.end"] == "client_left"
    await app.client.post(f"{run['status_url']}/cancel")
    await app.events(run["stream_url"], headers={"Last-Event-ID": first.id, **traced(trace)})

    spans = await exported(collector, trace, "follow stream", 2)
    resumed = [span for span in spans if span.attributes.get("agentstream.follower.resumed")]
    assert [span.attributes["agentstream.follower.end"] for span in resumed] == ["terminal"]

    async def is_counted() -> bool:
        return (
            collector.value("agentstream.run.duration", run__outcome="cancelled") == 1
            and collector.value("agentstream.follower.open") == 0
        )

    await eventually(is_counted)


async def test_log_lines_name_their_run_and_their_trace(app: App, collector: OtlpCollector, trace: str) -> None:
    run = await start(app, trace, script(chunks=["a"]))
    await app.finish(run)
    await exported(collector, trace, "finish run")

    async def are_there() -> bool:
        return len(of_the_run()) == 2

    def of_the_run() -> list[Record]:
        return [record for record in collector.logs if record.text.startswith(f"run {run['correlation_id']}: ")]

    await eventually(are_there)
    for record in of_the_run():
        assert record.trace == trace, record
        assert record.attributes["agentstream.run.id"] == run["correlation_id"], record


async def test_nothing_that_is_exported_holds_what_was_said(app: App, collector: OtlpCollector, trace: str) -> None:
    asked, said = f"asked-{secrets.token_hex(8)}", f"said-{secrets.token_hex(8)}"
    message = script(chunks=[said, " ", said], tool_calls=[(WEATHER[0], {"destination": asked, "date": "2026-05-01"})])
    run = await start(app, trace, message)
    assert text_of(await app.finish(run)) == f"{said} {said}"
    failed_trace = secrets.token_hex(16)
    failed = await start(app, failed_trace, script(chunks=[said], fails_after=1, streams_only=True))
    await app.finish(failed)
    await exported(collector, trace, "finish run")
    await exported(collector, failed_trace, "finish run")

    async def is_counted() -> bool:
        return collector.value("agentstream.run.duration", run__outcome="failed") == 1

    await eventually(is_counted)
    assert {path for path, _ in collector.received} == {"/v1/traces", "/v1/metrics", "/v1/logs"}
    for path, body in list(collector.received):
        assert asked.encode() not in body, path
        assert said.encode() not in body, path
