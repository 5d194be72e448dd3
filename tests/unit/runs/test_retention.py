"""How a list is walked through of which only first pages are to be had."""

from contextlib import aclosing

from hypothesis import given
from hypothesis import strategies as st

from agentstream.runs.committed import Page
from agentstream.runs.retention import HEX_CHARACTERS, ID_CHARACTERS, pages_of

CHARACTERS = "ab"
PAGE = 2


class Listed:
    """A list that answers the first ids with a prefix.

    Args:
        ids: What is in it.
    """

    def __init__(self, ids: set[str]) -> None:
        self.ids = ids
        self.longest = 0

    async def page(self, prefix: str) -> Page[str]:
        found = sorted(each for each in self.ids if each.startswith(prefix))[:PAGE]
        self.longest = max(self.longest, len(found))
        return Page(found, len(found) >= PAGE)


@given(st.sets(st.text(CHARACTERS, min_size=1, max_size=5)))
async def test_all_of_it_is_reached_though_nothing_goes(ids: set[str]) -> None:
    listed = Listed(ids)

    async with aclosing(pages_of(listed.page, CHARACTERS)) as pages:
        seen = {each async for items in pages for each in items}

    assert seen == ids
    assert listed.longest <= PAGE


@given(st.sets(st.text(CHARACTERS, min_size=1, max_size=5)), st.data())
async def test_what_stays_does_not_hide_what_goes(ids: set[str], data: st.DataObject) -> None:
    stays = data.draw(st.sets(st.sampled_from(sorted(ids))) if ids else st.just(set()))
    listed = Listed(set(ids))

    async with aclosing(pages_of(listed.page, CHARACTERS)) as pages:
        async for items in pages:
            listed.ids -= set(items) - stays

    assert listed.ids == stays


def test_every_id_consists_of_these_characters() -> None:
    assert sorted(ID_CHARACTERS) == sorted("".join(filter(_is_allowed, map(chr, range(128)))))
    assert sorted(HEX_CHARACTERS) == sorted("0123456789abcdef")


def _is_allowed(character: str) -> bool:
    return character.isalnum() or character in "._-"


async def test_not_always_in_the_same_order() -> None:
    listed = Listed(set(ID_CHARACTERS))

    async def first() -> str:
        async with aclosing(pages_of(listed.page, ID_CHARACTERS)) as pages:
            return (await anext(pages))[0]

    assert len({await first() for _ in range(100)}) > 1
