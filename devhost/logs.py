"""The log of the host and of its worker: one format, and no line for each request."""

import logging
import sys

NOISY_LOGGERS = ("uvicorn", "httpx", "httpx2", "httpcore", "azure", "aiohttp", "asyncio")


def configure() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def silence_servers() -> None:
    """What still serves is cut off on purpose, and uvicorn logs that as errors."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
