"""How much is written to a follower at a time."""

from collections.abc import Iterable, Iterator

# No more than this waits for a follower that does not read.
PIECE_BYTES = 65_536


def join(encoded: Iterable[bytes]) -> Iterator[bytes]:
    """Yield all of it, at most ``PIECE_BYTES`` at a time."""
    piece = bytearray()
    for part in encoded:
        piece += part
        while len(piece) > PIECE_BYTES:
            yield bytes(piece[:PIECE_BYTES])
            del piece[:PIECE_BYTES]
    if piece:
        yield bytes(piece)
