"""Microsoft Entra ID as Redis and an app see it: short-lived tokens, which are the passwords of a user of Redis."""

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Any, Self

import jwt
import redis
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from devhost.http_server import Server, bind, origin

OBJECT_ID = "0d4cfa3e-identity-of-the-app"
ADMIN = ("admin", "secret of the tests")


class Identity:
    """Serves the endpoint of an app's managed identity, and makes Redis take its tokens and nothing else.

    https://learn.microsoft.com/azure/app-service/overview-managed-identity, "Connect to Azure services in app code".

    Args:
        redis_ports: The servers on loopback where the identity is a user.
        seconds: How long a token is good for.

    Attributes:
        tokens: Those that were issued, the newest last.
        works: Whether the endpoint gives tokens.
    """

    def __init__(self, *redis_ports: int, seconds: float) -> None:
        self.tokens: list[str] = []
        self.works = True
        self._seconds = seconds
        self._expired = 0
        self._redis_ports = redis_ports
        self._listener = bind(0)

    @property
    def env(self) -> dict[str, str]:
        """What App Service tells an app that has an identity, and our own switch."""
        return {
            "IDENTITY_ENDPOINT": f"{origin(self._listener)}/token",
            "IDENTITY_HEADER": "secret of the platform",
            "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
            "REDIS_ENTRA_ID": "true",
        }

    def admins(self) -> list[Any]:
        """Return a client of each server that may do everything."""
        return [
            redis.Redis(port=port, username=ADMIN[0], password=ADMIN[1], decode_responses=True)
            for port in self._redis_ports
        ]

    def admit(self) -> None:
        """Tell the servers who may sign in: a server that was started anew does not know."""
        everything = {"enabled": True, "categories": ["+@all"], "keys": ["*"], "channels": ["*"]}
        passwords = [f"+{token}" for token in self.tokens[self._expired :]]
        for port in self._redis_ports:
            with redis.Redis(port=port) as client:
                client.acl_setuser(ADMIN[0], passwords=[f"+{ADMIN[1]}"], **everything)
                client.acl_setuser(OBJECT_ID, passwords=passwords, **everything)
                client.acl_setuser("default", enabled=False)

    def expire(self) -> None:
        """Let all tokens expire that were issued: they are no passwords any more, and their connections are closed."""
        self._expired = len(self.tokens)
        for admin in self.admins():
            with admin:
                admin.acl_setuser(OBJECT_ID, enabled=True, reset_passwords=True)
                admin.client_kill_filter(user=OBJECT_ID)

    async def __aenter__(self) -> Self:
        self.admit()
        app = Starlette(routes=[Route("/token", self._token)])
        self._server = Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        await self._server.ready.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        await self._serving

    def _add(self, token: str) -> None:
        for admin in self.admins():
            with admin:
                admin.acl_setuser(OBJECT_ID, enabled=True, passwords=[f"+{token}"])

    async def _token(self, request: Request) -> JSONResponse:
        if not self.works:
            return JSONResponse({"message": "no identity"}, 400)
        assert request.headers["x-identity-header"] == self.env["IDENTITY_HEADER"]
        assert request.query_params["resource"] == "https://redis.azure.com"
        expires = int(time.time() + self._seconds)
        claims = {"oid": OBJECT_ID, "exp": expires, "number": len(self.tokens)}
        token = jwt.encode(claims, "a key that nobody here has to know, but long enough")
        self.tokens.append(token)
        # A server that is away is told when it is back.
        with contextlib.suppress(redis.RedisError):
            await asyncio.to_thread(self._add, token)
        resource = request.query_params["resource"]
        return JSONResponse(
            {"access_token": token, "expires_on": str(expires), "resource": resource, "token_type": "Bearer"}
        )
