import subprocess
import sys

from devhost.testing import REPOSITORY

PROGRAM = """
import gc, sys
import function_app
print(sys.getswitchinterval(), gc.get_freeze_count())
"""


def test_agents_at_work_do_not_hold_up_http_and_nor_does_the_collection_of_garbage() -> None:
    program = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, check=True, text=True
    )
    switch_interval, frozen = program.stdout.split()

    assert float(switch_interval) <= 0.0005
    assert int(frozen) > 100_000
