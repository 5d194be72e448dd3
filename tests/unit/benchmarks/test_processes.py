import pytest

from benchmarks.client_process import Visit, received
from benchmarks.model_process import WORDS, is_whole, sent_ns


def chunk(number: int) -> str:
    return f"{1000 + number}:{number} {WORDS}"


def test_a_chunk_says_when_it_was_sent() -> None:
    assert sent_ns(chunk(7)) == 1007


@pytest.mark.parametrize(
    ("numbers", "whole"), [([0, 1, 2], True), ([0, 2], False), ([0, 1, 1], False), ([1, 0, 2], False), ([0, 1], False)]
)
def test_a_text_is_whole_with_each_chunk_once_and_in_order(numbers: list[int], whole: bool) -> None:
    assert is_whole("".join(map(chunk, numbers)), 3) == whole


def test_a_cut_chunk_is_not_whole() -> None:
    assert not is_whole((chunk(0) + chunk(1))[:-1], 2)


def test_an_event_was_received_when_its_last_part_was() -> None:
    parts = [(1, b": comment\n\nevent: message\nda"), (2, b"ta: a\n\nevent: done\ndata: [DONE]\n"), (3, b"\n")]

    assert received(parts) == [(2, "message", "a"), (3, "done", "[DONE]")]


def test_a_reset_drops_what_came_before() -> None:
    visit = Visit(received=[(1, "message", "a"), (2, "reset", "{}"), (3, "message", "b"), (4, "done", "[DONE]")])

    assert visit.text == "b"
    assert visit.is_done


def test_a_stream_without_its_end_is_not_done() -> None:
    assert not Visit(received=[(1, "message", "a")]).is_done
    assert not Visit().is_done
