"""Errors of the HTTP API as ``application/problem+json`` (RFC 9457)."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from http import HTTPStatus
from typing import Any

from azurefunctions.extensions.http.fastapi import JSONResponse, Response
from redis.exceptions import RedisError
from starlette.requests import ClientDisconnect

from agentstream.http.bodies import Problem
from agentstream.model import DurableUnavailableError, UnknownRunError
from agentstream.stream.handler import OverloadedError

PROBLEM_MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5
TRY_AGAIN = f"Try again in {RETRY_AFTER_SECONDS} seconds."

Handler = Callable[..., Awaitable[Response]]

logger = logging.getLogger(__name__)


class ProblemError(Exception):
    """A request that cannot be served.

    Args:
        status: The response's status.
        detail: What is wrong with this request and what to do, for the person who sent it.
        headers: Further headers of the response.
    """

    def __init__(self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers

    def response(self) -> Response:
        # With the type about:blank, the title is the status's phrase (RFC 9457, section 4.2.1).
        body = Problem(title=self.status.phrase, status=self.status, detail=self.detail)
        return JSONResponse(body.model_dump(), self.status, self.headers, PROBLEM_MEDIA_TYPE)


def not_now(detail: str) -> ProblemError:
    """Return the problem of a request that is served if it comes again later."""
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, {"Retry-After": str(RETRY_AFTER_SECONDS)})


def answers_problems(handler: Handler) -> Handler:
    """Make an HTTP handler answer every exception as a problem, without telling what went wrong inside."""

    @wraps(handler)
    async def answer(*args: Any, **kwargs: Any) -> Response:
        try:
            return await handler(*args, **kwargs)
        except ProblemError as problem:
            return problem.response()
        except ClientDisconnect:
            logger.info("%s: the client left before it had sent its request", handler.__name__)
            return ProblemError(HTTPStatus.BAD_REQUEST, "The request's body is not complete. Send it again.").response()
        except OverloadedError as error:
            logger.warning("%s: the service is busy: %s", handler.__name__, error)
            return not_now(f"The service is busy. {TRY_AGAIN}").response()
        except RedisError as error:
            logger.warning("%s: Redis does not answer: %s", handler.__name__, type(error).__name__)
            return not_now(f"Redis does not answer. {TRY_AGAIN}").response()
        except UnknownRunError:
            detail = "There is no such conversation or run. Start one with POST run."
            return ProblemError(HTTPStatus.NOT_FOUND, detail).response()
        except DurableUnavailableError as error:
            logger.warning("%s: the durable runtime does not answer: %r", handler.__name__, error.__cause__)
            return not_now(f"The durable runtime does not answer. {TRY_AGAIN}").response()
        except Exception:
            logger.exception("%s failed", handler.__name__)
            detail = "Something went wrong on our side. Try again; if it stays, tell whoever runs this service."
            return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, detail).response()

    return answer
