"""A proxy in front of the app that cuts responses after so many bytes, wherever that is."""

import asyncio

from tests.proxy import Proxy


class CuttingProxy(Proxy):
    """Cuts one connection after another, and forwards those that come after them whole.

    Args:
        target_port: Where to forward to, on 127.0.0.1.
        cuts: How many bytes of what is answered each of the first connections lets through: one at least, since the
            ``fetch`` of Node.js never settles if its connection ends before it has sent the request.
    """

    def __init__(self, target_port: int, cuts: list[int]) -> None:
        super().__init__(target_port)
        self._cuts = list(cuts)

    @property
    def cuts_left(self) -> int:
        """How many connections are still to be cut."""
        return len(self._cuts)

    async def _pump_answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._cuts:
            await super()._pump_answers(reader, writer)
            return
        left = self._cuts.pop(0)
        while left and (data := await reader.read(left)):
            writer.write(data)
            await writer.drain()
            left -= len(data)
        raise ConnectionResetError
