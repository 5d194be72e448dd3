"""A proxy in front of Redis that loses answers: what was asked was done, and nobody knows."""

import asyncio

from tests.proxy import Proxy


class LosingProxy(Proxy):
    """Forwards connections, and loses answers.

    Args:
        target_port: Where to forward to, on 127.0.0.1.

    Attributes:
        to_lose: How many answers to lose from now on, each with its connection; what a client is told when it connects
            is an answer, too.
    """

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self.to_lose = 0

    async def _pump_answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if self.to_lose:
                self.to_lose -= 1
                break
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError
