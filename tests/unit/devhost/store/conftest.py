"""Steps for unit tests of the store."""

import pytest

from devhost.functions import FunctionTable
from devhost.protocol_v1.episode import Episode, OrchestrationWork
from tests.unit.devhost.store.claiming import Step


@pytest.fixture
def step(functions: FunctionTable) -> Step:
    def make(work: OrchestrationWork) -> Episode:
        episode = Episode(work, functions, work.status, work.progress)
        episode.deliver()
        return episode

    return make
