"""The framework's own entity code, which runs an agent in production, over a state in memory."""

from typing import Any

from agent_framework import AgentResponse
from agent_framework_durabletask import (
    AgentEntity,
    AgentEntityStateProviderMixin,
    AgentResponseCallbackProtocol,
    RunRequest,
)


class MemoryState(AgentEntityStateProviderMixin):
    """An entity's state."""

    def __init__(self, conversation_id: str) -> None:
        self._conversation_id = conversation_id
        self.committed: dict[str, Any] = {}

    def _get_state_dict(self) -> dict[str, Any]:
        return self.committed

    def _set_state_dict(self, state: dict[str, Any]) -> None:
        self.committed = state

    def _get_session_id_from_entity(self) -> str:
        return self._conversation_id


async def run_entity(
    agent: Any,
    callback: AgentResponseCallbackProtocol | None,
    request: RunRequest | dict[str, Any],
    state: MemoryState,
) -> AgentResponse:
    """Run the entity's ``run`` operation."""
    response: AgentResponse = await AgentEntity(agent, callback, state_provider=state).run(request)
    return response
