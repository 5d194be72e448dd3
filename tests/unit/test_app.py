import subprocess
import sys

import pytest

from agentstream.app import streaming_functions
from agentstream.settings import Settings
from devhost.testing import REPOSITORY

PROGRAM = """
import gc, sys
import function_app
print(sys.getswitchinterval(), gc.get_freeze_count(), gc.get_threshold()[0])
"""


def test_agents_at_work_do_not_hold_up_http_and_nor_does_the_collection_of_garbage() -> None:
    program = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, check=True, text=True
    )
    switch_interval, frozen, threshold = program.stdout.split()

    assert float(switch_interval) <= 0.0005
    assert int(threshold) >= 10_000
    assert int(frozen) > 100_000


@pytest.mark.parametrize(("days", "timers"), [("0", []), ("0.5", ["retention"])])
def test_nothing_is_removed_unless_it_is_asked_for(
    days: str, timers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETENTION_DAYS", days)
    monkeypatch.setenv("RETENTION_SCHEDULE", "0 30 3 * * *")
    # The other tests have one of their own.
    monkeypatch.setattr("agentstream.app.make_default", lambda streams: None)
    blueprints = streaming_functions([], Settings.load())

    functions = [builder._function for blueprint in blueprints for builder in blueprint._function_builders]
    timed = [function for function in functions if function.get_trigger().type == "timerTrigger"]

    assert [function.get_function_name() for function in timed] == timers
    assert [function.get_trigger().schedule for function in timed] == ["0 30 3 * * *"] * len(timers)
