"""Faults that a test can order, each of which happens once: what a real host suffers and nobody can make happen.

They are off unless ``DEVHOST_FAULTS`` is set. Each is ordered by a POST to ``faults/<fault>`` of the management API,
with ``?match=`` a part of the name of the entity, instance or function it is to happen to. It happens at once where it
can, or else the next time that it can, or with ``?skip=`` after so many times that it could have.
"""

import os
from dataclasses import dataclass
from enum import StrEnum

SETTING = "DEVHOST_FAULTS"


class Fault(StrEnum):
    """What can be ordered.

    ``OVERLAP``: an operation in progress is executed a second time, while the first execution goes on, as on a host
    whose partition was taken from it.
    ``CRASH_AFTER_RESPONSE``: the process kills itself between an operation's response and its state's commit.
    ``CRASH_AFTER_COMMIT``: the process kills itself between a state's commit and the end of the operation's message.
    ``REFUSE_COMMIT``: a state's commit is refused as if another one had come first; its response has been sent.
    ``DIE_IN_STEP``: the worker dies while an orchestrator function runs.
    ``WORKER_DEATH``: the worker dies now.
    ``FUNCTION_TIMEOUT``: a function in progress exceeds functionTimeout now.
    """

    OVERLAP = "overlap"
    CRASH_AFTER_RESPONSE = "crash_after_response"
    CRASH_AFTER_COMMIT = "crash_after_commit"
    REFUSE_COMMIT = "refuse_commit"
    DIE_IN_STEP = "die_in_step"
    WORKER_DEATH = "worker_death"
    FUNCTION_TIMEOUT = "function_timeout"


@dataclass
class _Order:
    fault: Fault
    match: str
    skip: int


class Faults:
    """The faults that are ordered and have not happened yet."""

    def __init__(self) -> None:
        self.enabled = bool(os.environ.get(SETTING))
        self._ordered: list[_Order] = []

    def order(self, fault: Fault, match: str, skip: int) -> None:
        """Let the fault happen once, to the next but ``skip`` whose name holds ``match``."""
        self._ordered.append(_Order(fault, match, skip))

    def strikes(self, fault: Fault, name: str) -> bool:
        """Whether the fault is to happen to this one now; it then does not happen again."""
        for ordered in self._ordered:
            if ordered.fault is fault and ordered.match in name:
                ordered.skip -= 1
                if ordered.skip < 0:
                    self._ordered.remove(ordered)
                    return True
        return False
