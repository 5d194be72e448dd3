"""The short form of the chaos suite; ``make chaos`` plays the long one."""

import pytest

from tests.chaos.campaign import play, table
from tests.chaos.followers import FOLLOWERS

SCENARIOS = 20
# Twenty scenarios, each of which has minutes to settle.
pytestmark = pytest.mark.timeout(1200)


async def test_the_promises_hold_under_fire() -> None:
    tally = await play(range(SCENARIOS), at_once=3, share=4)

    print(table(tally))
    assert not tally.broken, "replay one with: python -m tests.chaos --seed <seed>"
    assert tally.runs.total() > SCENARIOS
    assert len(tally.runs) == len(tally.cut) == len(FOLLOWERS)
    assert len(tally.faults) > 5
