import ast
import asyncio
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.trace import StatusCode

from agentstream import telemetry
from agentstream.model import DONE, Chunk, LostRun, RunInput, RunKey
from agentstream.stream.handler import MAX_COMMANDS_AT_ONCE, RedisStreamHandler
from tests.recorded import Recorded, recording

REPOSITORY = Path(__file__).resolve().parents[2]
OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
QUERIES = {path.name: path.read_text(encoding="utf-8") for path in (REPOSITORY / "infra" / "queries").glob("*.kql")}
IDS = telemetry.run_ids("c", "r", "TravelPlanner")
REQUEST = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RECORDING = [REPOSITORY / "agentstream" / "http", REPOSITORY / "agentstream" / "telemetry.py"]


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


def names() -> set[str]:
    """Return every name of a metric or an attribute of ours that the code records under."""
    files = [path for place in RECORDING for path in ([place] if place.is_file() else place.glob("*.py"))]
    texts = [
        node.value
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return {text for text in texts if re.fullmatch(r"agentstream(\.\w+)+", text)}


class TestOneTrace:
    def test_what_continues_a_request_is_its_child_wherever_it_is_executed(self, recorded: Recorded) -> None:
        with telemetry.run_span("execute run", IDS, continues=REQUEST):
            pass

        span = recorded.span("execute run")
        assert span.parent is not None
        assert f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}" in REQUEST
        assert dict(span.attributes or {}) == {
            "gen_ai.conversation.id": "c",
            "agentstream.run.id": "r",
            "gen_ai.agent.name": "TravelPlanner",
        }

    def test_a_span_of_the_host_in_the_same_trace_is_nearer_than_the_request(self, recorded: Recorded) -> None:
        with telemetry.run_span("host", {}, continues=REQUEST) as host, telemetry.run_span("ours", IDS, REQUEST):
            pass

        parent = recorded.span("ours").parent
        assert parent is not None
        assert parent.span_id == host.get_span_context().span_id

    def test_a_span_of_the_host_in_another_trace_is_not(self, recorded: Recorded) -> None:
        with telemetry.run_span("host", {}), telemetry.run_span("ours", IDS, REQUEST):
            pass

        parent = recorded.span("ours").parent
        assert parent is not None
        assert f"{parent.span_id:016x}" in REQUEST

    def test_the_trace_is_carried_from_the_request_by_the_runs_input_and_its_key(self, recorded: Recorded) -> None:
        with telemetry.run_span("accept run", {}) as span:
            carried = telemetry.traceparent()

        run = RunInput(
            agent="A", conversation_id="c", correlation_id="r", message="", timeout_seconds=1, traceparent=carried
        )
        key = RunKey.take_from(run.key.options())
        assert key is not None
        assert key.traceparent == carried
        assert f"{span.get_span_context().trace_id:032x}" in str(carried)

    def test_without_a_trace_nothing_is_carried_and_older_versions_read_it(self) -> None:
        assert telemetry.traceparent() is None
        assert "traceparent" not in str(RunKey("c", "r", 5).options())

    @pytest.mark.parametrize("damaged", ["", "x", "00-0-0-01", REQUEST[:-1]])
    def test_a_damaged_one_begins_a_trace_of_its_own(self, recorded: Recorded, damaged: str) -> None:
        with telemetry.run_span("execute run", IDS, continues=damaged):
            pass

        assert recorded.span("execute run").parent is None


class TestFailure:
    def test_a_failed_span_tells_the_type_of_the_exception_and_not_its_text(self, recorded: Recorded) -> None:
        with pytest.raises(ValueError, match="secret"), telemetry.run_span("execute run", IDS):
            raise ValueError("a secret that a user told")

        span = recorded.span("execute run")
        attributes = span.attributes or {}
        assert attributes["error.type"] == attributes["agentstream.error"] == "ValueError"
        assert span.status.status_code is StatusCode.ERROR
        assert "secret" not in span.to_json()


class TestLogs:
    def test_a_record_carries_the_ids_of_the_run_in_whose_span_it_is_made(
        self, recorded: Recorded, caplog: pytest.LogCaptureFixture
    ) -> None:
        logger = telemetry.logger("agentstream.test")
        with caplog.at_level(logging.INFO):
            with telemetry.run_span("execute run", IDS):
                logger.info("inside of %s", "it")
            logger.info("outside")

        inside, outside = caplog.records
        assert IDS.items() <= vars(inside).items()
        assert inside.getMessage() == "inside of it"
        assert not IDS.keys() & vars(outside).keys()
        # The exporter takes these from the span: twice would be double.
        assert not any("trace" in name.lower() for name in vars(inside))


class TestMetrics:
    def test_a_first_chunk_is_told_once_it_is_known_when_the_run_was_accepted(self, recorded: Recorded) -> None:
        with telemetry.run_span("execute run", IDS):
            telemetry.first_chunk(1000, 1250)
            telemetry.first_chunk(0, 1250)

        assert recorded.metric("agentstream.run.time_to_first_chunk") == {
            (("gen_ai.agent.name", "TravelPlanner"),): 0.25
        }
        assert (recorded.span("execute run").attributes or {})["agentstream.run.time_to_first_chunk"] == 0.25

    def test_how_a_run_ended_is_an_attribute_of_its_duration(self, recorded: Recorded) -> None:
        telemetry.run_ended("TravelPlanner", "completed", 1000, 3000)

        attributes = (("agentstream.run.outcome", "completed"), ("gen_ai.agent.name", "TravelPlanner"))
        assert recorded.metric("agentstream.run.duration") == {attributes: 2}

    def test_clocks_that_differ_give_no_negative_times(self, recorded: Recorded) -> None:
        telemetry.run_ended("TravelPlanner", "failed", 3000, 1000)
        telemetry.first_chunk(3000, 1000)

        assert recorded.metric("agentstream.run.duration") == {}
        assert recorded.metric("agentstream.run.time_to_first_chunk") == {}

    async def test_only_who_has_to_wait_for_redis_is_told_of(
        self, recorded: Recorded, handler: RedisStreamHandler, conversation_id: str
    ) -> None:
        await handler.runs(conversation_id)
        assert recorded.metric("agentstream.redis.wait") == {}

        await asyncio.gather(*(handler.runs(conversation_id) for _ in range(MAX_COMMANDS_AT_ONCE + 1)))
        assert recorded.metric("agentstream.redis.wait")[()] > 0

    async def test_resets_and_further_attempts_are_counted_where_redis_tells_of_them(
        self, recorded: Recorded, handler: RedisStreamHandler, conversation_id: str, correlation_id: str
    ) -> None:
        await handler.accept_run(conversation_id, correlation_id, "A")
        _, first = await handler.begin_attempt(conversation_id, correlation_id)
        await handler.append(conversation_id, correlation_id, first, 0, [Chunk("wrong", 0)])
        assert recorded.metric("agentstream.attempt.repeated") == recorded.metric("agentstream.reset") == {}

        _, second = await handler.begin_attempt(conversation_id, correlation_id)
        assert recorded.metric("agentstream.attempt.repeated") == {(): 1}
        assert recorded.metric("agentstream.reset") == {(("agentstream.reset.reason", "attempt"),): 1}

        # The same execution's second call of the model, which takes the place of the first.
        _, third = await handler.begin_attempt(conversation_id, correlation_id, instead_of=second)
        assert recorded.metric("agentstream.attempt.repeated") == {(): 1}

        await handler.append(conversation_id, correlation_id, third, 0, [Chunk("wrong", 0)])
        await handler.write_completion(conversation_id, correlation_id=correlation_id, answer="right")
        await handler.write_completion(conversation_id, correlation_id=correlation_id, answer="right")
        lost = [LostRun("known", "A", DONE), LostRun("lost", "A", DONE), LostRun("open", "A", None)]
        await handler.restore_runs(conversation_id, lost[:1], "")
        await handler.restore_runs(conversation_id, lost, "")

        assert recorded.metric("agentstream.reset") == {
            (("agentstream.reset.reason", "attempt"),): 1,
            (("agentstream.reset.reason", "repaired"),): 1,
            (("agentstream.reset.reason", "expired"),): 2,
        }


class TestOwner:
    def test_an_owner_is_told_apart_and_not_named(self) -> None:
        ids = telemetry.run_ids("c", "r", "A", owner="8b3f-alice")

        assert ids["user.hash"] == telemetry.owner_hash("8b3f-alice") != telemetry.owner_hash("8b3f-bob")
        assert "alice" not in str(ids)
        assert re.fullmatch("[0-9a-f]{16}", ids["user.hash"])


class TestWithoutASdk:
    def test_nothing_is_imported_that_records_or_exports(self) -> None:
        code = "import function_app, sys; print(*sys.modules)"
        env = {**os.environ, "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY": "false"}

        run = subprocess.run(
            [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True, env=env
        )

        modules = run.stdout.split()
        assert "agentstream.telemetry" in modules
        unwanted = re.compile(r"azure\.monitor|opentelemetry\.(exporter|instrumentation|sdk\.(trace|_logs)\.export)")
        assert list(filter(unwanted.match, modules)) == []


class TestPages:
    def test_every_name_is_on_the_operators_page(self) -> None:
        assert names()
        assert {name for name in names() if f"`{name}`" not in OPERATIONS} == set()

    def test_the_page_and_the_queries_ask_for_nothing_else(self) -> None:
        assert QUERIES
        for where, text in {"operations.md": OPERATIONS, **QUERIES}.items():
            assert set(re.findall(r"agentstream(?:\.\w+)+", text)) - names() == set(), where

    def test_every_query_is_on_the_operators_page(self) -> None:
        assert {name for name in QUERIES if f"infra/queries/{name}" not in OPERATIONS} == set()
