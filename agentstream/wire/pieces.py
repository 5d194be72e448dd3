"""How much is written to a follower at a time."""

# No more than this waits for a follower that does not read.
PIECE_BYTES = 65_536
