"""The list of an owner's conversations: a durable entity for each owner, told of every run."""

import hashlib
from typing import Any

import azure.durable_functions as df
from pydantic import BaseModel

from agentstream.model import ListedConversation, RunInput, iso_utc, time_of

OWNER_LIST = "owner_conversations"
ADD = "add"
REMOVE = "remove"
# An entity's state is read and written whole.
MAX_CONVERSATIONS = 1_000
TITLE_CHARACTERS = 80


class OwnerList(BaseModel):
    """The entity's state.

    Attributes:
        conversations: Newest first.
        erased: When conversations were erased, in ISO 8601, UTC: who tells late of a run in one does not list it again.
    """

    conversations: list[ListedConversation] = []
    erased: dict[str, str] = {}

    def add(self, entry: ListedConversation) -> None:
        """List a run's conversation at the top, under the title of its first message; the oldest one falls off."""
        if entry.updated_at <= self.erased.get(entry.conversation_id, ""):
            return
        known = {each.conversation_id: each for each in self.conversations}
        before = known.get(entry.conversation_id, entry)
        title, updated_at = before.title or entry.title, max(before.updated_at, entry.updated_at)
        known[entry.conversation_id] = entry.model_copy(update={"title": title, "updated_at": updated_at})
        newest_first = sorted(known.values(), key=lambda each: each.updated_at, reverse=True)
        self.conversations = newest_first[:MAX_CONVERSATIONS]

    def remove(self, conversation_id: str, since: str) -> None:
        """Take an erased conversation off the list."""
        self.conversations = [each for each in self.conversations if each.conversation_id != conversation_id]
        self.erased = dict([*self.erased.items(), (conversation_id, since)][-MAX_CONVERSATIONS:])


def owner_list(owner: str) -> df.EntityId:
    """Return the entity of an owner, whose key does not say who that is."""
    return df.EntityId(OWNER_LIST, hashlib.sha256(owner.encode()).hexdigest())


def entry_of(run: RunInput) -> dict[str, Any]:
    """Return a run's conversation as the ``add`` operation takes it."""
    title = " ".join(run.message.split())[:TITLE_CHARACTERS]
    entry = ListedConversation(
        conversation_id=run.conversation_id, agent=run.agent, title=title, updated_at=iso_utc(time_of(run.created))
    )
    return entry.model_dump()


def add_owner_list(blueprint: df.Blueprint) -> None:
    """Add the entity's function to those of the runs."""

    def keep_list(context: df.DurableEntityContext) -> None:
        kept = OwnerList.model_validate(context.get_state(dict))
        argument = context.get_input()
        if context.operation_name == ADD:
            kept.add(ListedConversation.model_validate(argument))
        elif context.operation_name == REMOVE:
            kept.remove(**argument)
        context.set_state(kept.model_dump())

    triggered = blueprint.entity_trigger(context_name="context", entity_name=OWNER_LIST)(keep_list)
    blueprint.function_name(OWNER_LIST)(triggered)
