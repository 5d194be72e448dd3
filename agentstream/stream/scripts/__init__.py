"""The server-side scripts: each checks the run and changes its stream in one atomic step.

Every script takes ``KEYS = [stream, runs, erasure]`` and ``ARGV = [ttl_ms, correlation_id, created, ...]``. What it
appends it publishes on the channel of the stream's name: a JSON list of ``[id, [field, value, ...]]``, or nothing where
that is too much and has to be read.

``created`` is when the caller knows the run to have been accepted, 0 where it does not. A run that was accepted before
its conversation was erased is dead: where the scripts hold no record of it, they take it for erased, not for lost.

The stream and the runs live and die together: one of them alone is what an eviction left, and is dropped as lost.

The runs hash holds one JSON record per run, under its correlation_id; times are in ms since the epoch:

``status``    queued, running, cancelling; or ended: completed, failed, cancelled, timed_out
``agent``     the agent's name; absent in a run that was registered by its writer
``created``   when it was accepted; ``ended`` likewise
``owner``     whose it is: absent where nobody signs in, and where Redis lost the run meanwhile
``claim``     which request may start it, and ``claimed`` since when
``attempt``   the newest attempt, 0 before the first. It is the time of the attempt's begin, so that it grows even when
              Redis lost the record of the attempts before
``begun_by``  who began it: a repeated call of theirs begins nothing more
``seen``      when it was last heard of, and ``renewed`` when it last renewed the time to live of both keys
``next``      the sequence number of the newest attempt's next chunk
``writer``    the newest attempt, as long as it may append: absent while the run is not running, or was answered
``from``      the entry after which the newest attempt's entries begin
``answered``  whether the newest attempt has answered, so that no other may begin; ``failed`` whether by an error
``terminal``  the entry that ended the run
``not_started``  whether it ended without having been started, so that its key may start it
``cancel_sent``  when the durable runtime was last to be told that the run is cancelled, and ``cancel_sent_by`` by whom
``lost``      whether Redis lost what the run may have streamed before, so that its followers need a ``reset``

While there is a ``writer`` the record begins with it, ``next``, ``seen`` and ``renewed``, in this order, so that the
next chunk is appended without decoding it. Every write renews the time to live of both keys; this one, and keeping a
run alive, when a quarter of it has passed.

Under the empty name the hash has a mark while it lacks the runs that Redis lost before.

The erasure is a string ``<since>:<until>``: what was accepted up to ``since`` is gone, and until ``until`` the durable
runtime may still know it, so that nothing is restored or accepted.
"""

import functools
import hashlib
from importlib.resources import files


def _load(name: str) -> str:
    prelude, script = ((files(__package__) / f"{part}.lua").read_text(encoding="utf-8") for part in ("prelude", name))
    before, _, after = script.rpartition("-- prelude\n")
    return "\n".join((before, prelude, after))


@functools.cache
def digest(script: str) -> str:
    """Return the name by which Redis knows a script that it has run before."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


ACCEPT = _load("accept")
WITHDRAW = _load("withdraw")
BEGIN = _load("begin")
APPEND = _load("append")
ANSWER = _load("answer")
LOOK = _load("look")
FINISH = _load("finish")
CANCEL = _load("cancel")
RESTORE = _load("restore")
ERASE = _load("erase")
