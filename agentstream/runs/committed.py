"""What the durable runtime has committed: runs, answers and messages, without Redis."""

import asyncio
import contextlib
import heapq
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Generic, TypeVar

import azure.durable_functions as df
from agent_framework_durabletask import AgentSessionId, DurableAgentStateResponse
from azure.durable_functions.models.DurableOrchestrationStatus import DurableOrchestrationStatus
from pydantic import BaseModel

from agentstream.agent_events import committed_pieces
from agentstream.agent_memory import AgentMemory, entry_contents, entry_text, is_error
from agentstream.model import (
    CommittedMessage,
    DurableUnavailableError,
    ListedConversation,
    Piece,
    RunInput,
    RunResult,
    RunStatus,
    iso_utc,
    time_of,
)
from agentstream.runs.owner_list import ADD, OWNER_LIST, REMOVE, OwnerList, entry_of, owner_list
from agentstream.settings import MAX_TOOL_RESULT_BYTES
from agentstream.stream.text import well_formed

ORCHESTRATION = "run_agent"
CANCEL_EVENT = "cancel"

# The durable runtime is on this machine, so one that takes longer is in trouble.
DURABLE_CALL_SECONDS = 10.0
# A list may look at all that the durable runtime knows.
LIST_SECONDS = 60.0
ERASE_POLL_SECONDS = 0.05
# The extension may fail to read a large state while it is written:
# https://github.com/Azure/azure-functions-durable-extension/issues/2501
STATE_READS = 3
# So many instances a list has at most: the client cannot name another number
# (https://github.com/Azure/azure-functions-durable-extension, OrchestrationStatusQueryCondition.cs).
PAGE_ITEMS = 100
CUT_OFF = (df.OrchestrationRuntimeStatus.Failed, df.OrchestrationRuntimeStatus.Terminated)
ENDED = (df.OrchestrationRuntimeStatus.Completed, *CUT_OFF)

T = TypeVar("T")


class CommittedRun(BaseModel):
    """What the durable runtime knows of a run.

    ``result`` is None while it is under way, and where its orchestration was ``cut_off``: it failed for good before it
    could say how the run ended, as it does when the worker dies in one of its steps.
    """

    input: RunInput
    result: RunResult | None
    cut_off: bool
    created_at: str
    updated_at: str


@dataclass(frozen=True, slots=True)
class CommittedAnswer:
    """What an agent remembers of a run: its result, and the pieces of its answer with its tool calls and results."""

    result: RunResult
    pieces: list[Piece]


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """The beginning of a list; where it ``is_full`` there may be more than it holds."""

    items: list[T]
    is_full: bool


@dataclass(frozen=True, slots=True)
class CommittedState:
    """The durable runtime, as one request or activity reaches it.

    Every method raises DurableUnavailableError when the durable runtime does not answer.

    Args:
        client: The durable client.
        agents: The names of the agents whose conversations there are.
        max_tool_result_bytes: After so many bytes a tool's result is cut.
    """

    client: df.DurableOrchestrationClient
    agents: Sequence[str]
    max_tool_result_bytes: int = MAX_TOOL_RESULT_BYTES

    async def start(self, run: RunInput) -> None:
        """Start a run's orchestration."""
        await _call(self.client.start_new(ORCHESTRATION, instance_id=run.correlation_id, client_input=run.model_dump()))

    async def send_cancel(self, correlation_id: str) -> None:
        """Tell a run's orchestration that it is cancelled; refused when that has ended."""
        await _call(self.client.raise_event(correlation_id, CANCEL_EVENT))

    async def run(self, correlation_id: str) -> CommittedRun | None:
        """Return the run, or None when the durable runtime does not know it."""
        status = await _call(self.client.get_status(correlation_id, show_input=True))
        if not status or status.name != ORCHESTRATION:
            return None
        return CommittedRun(
            input=RunInput.model_validate(_decoded(status.input_)),
            result=_result(status),
            cut_off=status.runtime_status in CUT_OFF,
            created_at=iso_utc(status.created_time),
            updated_at=iso_utc(status.last_updated_time),
        )

    async def has_started(self, correlation_id: str) -> bool:
        """Return whether the durable runtime certainly knows the run."""
        with contextlib.suppress(DurableUnavailableError):
            return await self.run(correlation_id) is not None
        return False

    async def results(self, agent: str, conversation_id: str) -> dict[str, RunResult]:
        """Return the results of an agent's runs in a conversation by correlation_id, oldest first."""
        responses = _responses(await self._memory(agent, conversation_id))
        return {correlation_id: _committed_result(entry) for correlation_id, entry in responses}

    async def answers(self, agent: str, conversation_id: str) -> dict[str, CommittedAnswer]:
        """Return what an agent remembers of its runs in a conversation by correlation_id, oldest first."""
        responses = _responses(await self._memory(agent, conversation_id))
        return {
            correlation_id: CommittedAnswer(
                _committed_result(entry),
                committed_pieces(entry_contents(entry), correlation_id, self.max_tool_result_bytes),
            )
            for correlation_id, entry in responses
        }

    async def cut_off_result(self, run: RunInput) -> RunResult:
        """Return how a run ended whose orchestration was cut off: with what its agent remembers, if it answered."""
        result = (await self.results(run.agent, run.conversation_id)).get(run.correlation_id)
        if result is not None and result.status is RunStatus.COMPLETED:
            return result
        return RunResult.failure("internal_error")

    async def messages(self, conversation_id: str) -> list[CommittedMessage]:
        """Return what was said in a conversation, by the user and by the agents, oldest first."""
        memories = await asyncio.gather(*(self._memory(agent, conversation_id) for agent in self.agents))
        # An agent's own order stands: a message is answered before the next one, which may have been sent earlier.
        return list(heapq.merge(*map(_messages, memories), key=lambda message: message.created_at))

    async def conversations(self, owner: str) -> list[ListedConversation]:
        """Return an owner's conversations, newest first."""
        response = await _call(self.client.read_entity_state(owner_list(owner)))
        state = _decoded(response.entity_state) if response.entity_exists else {}
        return OwnerList.model_validate(state).conversations

    async def list_run(self, run: RunInput) -> None:
        """Put a run's conversation into its owner's list, at the top."""
        if run.owner is not None:
            await _call(self.client.signal_entity(owner_list(run.owner), ADD, entry_of(run)))

    async def unlist(self, owner: str, conversation_id: str, since: int) -> None:
        """Take a conversation that was erased off its owner's list; ``since`` is the time of the erasure, in ms."""
        erased = {"conversation_id": conversation_id, "since": iso_utc(time_of(since))}
        await _call(self.client.signal_entity(owner_list(owner), REMOVE, erased))

    async def erase(self, conversation_id: str, runs: Iterable[str], since: int) -> set[str]:
        """Erase the agents' memory of a conversation, and the history of its runs: these, and those in that memory.

        Args:
            conversation_id: The conversation.
            runs: The correlation_ids of the runs that are known otherwise.
            since: The time of the erasure in ms since the epoch. What was accepted up to then is not remembered again.

        Returns:
            The correlation_ids of all its runs.
        """
        correlation_ids = set(runs)
        for agent in self.agents:
            correlation_ids.update(await self.results(agent, conversation_id))
            entity = _entity(agent, conversation_id)
            if (await _call(self.client.read_entity_state(entity))).entity_exists:
                await _call(self.client.signal_entity(entity, "erase", since))
                await _call(_until(partial(self._is_erased, agent, conversation_id, since)))
        for correlation_id in correlation_ids:
            await _call(_until(partial(self._has_ended, correlation_id)))
            await self.purge_run(correlation_id)
        return correlation_ids

    async def purge_run(self, correlation_id: str) -> None:
        """Remove the orchestration of a run that has ended."""
        await _call(self.client.purge_instance_history(correlation_id))

    async def purge_entity(self, name: str, key: str) -> None:
        """Remove an entity, as if it had never been; an operation of it that is in progress is executed again."""
        await _call(self.client.purge_instance_history(_instance_id(name, key)))

    async def idle_keys(self, name: str, before: datetime, prefix: str) -> Page[str]:
        """Return those keys with this prefix whose entities of this name had their last operation before a time."""
        first = _instance_id(name)
        # An entity is an orchestration that begins anew with each batch of operations.
        statuses = await _call(
            self.client.get_status_by(created_time_to=before, instance_id_prefix=first + prefix), LIST_SECONDS
        )
        return Page([status.instance_id.removeprefix(first) for status in statuses], len(statuses) >= PAGE_ITEMS)

    async def last_operation(self, name: str, key: str) -> datetime | None:
        """Return when an entity had its last operation; None where there is no such entity."""
        status = await _call(self.client.get_status(_instance_id(name, key)))
        return status.created_time if status else None

    async def ended_runs(self, before: datetime, prefix: str) -> Page[RunInput]:
        """Return those runs with this prefix of their correlation_id that ended before a time."""
        statuses = await _call(
            self.client.get_status_by(created_time_to=before, runtime_status=list(ENDED), instance_id_prefix=prefix),
            LIST_SECONDS,
        )
        runs = [
            RunInput.model_validate(_decoded(status.input_))
            for status in statuses
            if status.name == ORCHESTRATION and status.last_updated_time <= before
        ]
        return Page(runs, len(statuses) >= PAGE_ITEMS)

    async def is_empty(self, name: str, key: str) -> bool:
        """Return whether an agent's memory has no message in it, or an owner's list no conversation."""
        response = await _call(self.client.read_entity_state(df.EntityId(name, key)))
        state = _decoded(response.entity_state) if response.entity_exists else {}
        if name == OWNER_LIST:
            return not OwnerList.model_validate(state).conversations
        return not AgentMemory(state, key).entries

    async def remembers(self, conversation_id: str, agents: Iterable[str]) -> bool:
        """Return whether one of these agents remembers anything of a conversation."""
        memories = await asyncio.gather(*(self._memory(agent, conversation_id) for agent in agents))
        return any(memory.entries for memory in memories)

    async def owner(self, conversation_id: str) -> str | None:
        """Return whose a conversation is by its agents' memory, None where that names nobody."""
        memories = await asyncio.gather(*(self._memory(agent, conversation_id) for agent in self.agents))
        return next((memory.owner for memory in memories if memory.owner is not None), None)

    async def _is_erased(self, agent: str, conversation_id: str, since: int) -> bool:
        return (await self._memory(agent, conversation_id)).erased_since >= since

    async def _has_ended(self, correlation_id: str) -> bool:
        run = await self.run(correlation_id)
        return run is None or run.result is not None or run.cut_off

    async def _memory(self, agent: str, conversation_id: str) -> AgentMemory:
        for read in range(STATE_READS):
            try:
                response = await _call(self.client.read_entity_state(_entity(agent, conversation_id)))
                break
            except DurableUnavailableError as error:
                if read == STATE_READS - 1 or isinstance(error.__cause__, TimeoutError):
                    raise
        return AgentMemory(_decoded(response.entity_state) if response.entity_exists else None, conversation_id)


async def _call(call: Awaitable[T], seconds: float = DURABLE_CALL_SECONDS) -> T:
    """Await a call of a durable client's.

    Raises:
        DurableUnavailableError: It failed or took more than so many seconds.
    """
    try:
        async with asyncio.timeout(seconds):
            return await call
    # The client raises a bare Exception for each status code it does not expect.
    except Exception as error:
        raise DurableUnavailableError from error


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    # Asked again and again, because the durable runtime tells nobody when it is done.
    while not await condition():  # noqa: ASYNC110
        await asyncio.sleep(ERASE_POLL_SECONDS)


def memory_of(agent: str) -> str:
    """Return the name of the entities that are an agent's memory of conversations."""
    name: str = AgentSessionId.to_entity_name(agent)
    return name


def _instance_id(entity: str, key: str = "") -> str:
    """Return the id of the orchestration that is an entity, or with what those of all its keys begin."""
    return f"@{entity.lower()}@{key}"


def _entity(agent: str, conversation_id: str) -> df.EntityId:
    return df.EntityId(memory_of(agent), conversation_id)


def _result(status: DurableOrchestrationStatus) -> RunResult | None:
    if status.runtime_status is df.OrchestrationRuntimeStatus.Completed:
        return RunResult.model_validate(_decoded(status.output))
    return None


def _responses(memory: AgentMemory) -> Iterator[tuple[str, DurableAgentStateResponse]]:
    for entry in memory.entries:
        if isinstance(entry, DurableAgentStateResponse) and entry.correlation_id:
            yield entry.correlation_id, entry


def _committed_result(entry: DurableAgentStateResponse) -> RunResult:
    if is_error(entry):
        return RunResult.failure("model_error")
    return RunResult(status=RunStatus.COMPLETED, response=well_formed(entry_text(entry)))


def _messages(memory: AgentMemory) -> list[CommittedMessage]:
    messages, created_at = [], ""
    for entry in memory.entries:
        created_at = max(created_at, iso_utc(entry.created_at))
        if text := entry_text(entry):
            role = "assistant" if isinstance(entry, DurableAgentStateResponse) else "user"
            message = CommittedMessage(
                role=role, text=well_formed(text), correlation_id=entry.correlation_id, created_at=created_at
            )
            messages.append(message)
    return messages


def _decoded(value: Any) -> Any:
    # The extension answers an input and a state as the JSON text that the SDK has stored.
    return json.loads(value) if isinstance(value, str) else value
