"""Who is signed in: App Service Authentication ("Easy Auth") has checked it, and tells it in a header.

The platform sets the header, and drops one that a client sends:
https://learn.microsoft.com/azure/app-service/configure-authentication-user-identities.
"""

from http import HTTPStatus

from azurefunctions.extensions.http.fastapi import Request

from agentstream.http.problems import ProblemError

OWNER_HEADER = "x-ms-client-principal-id"


def owner_of(request: Request) -> str:
    """Return the id of the user who is signed in.

    Raises:
        ProblemError: 401, nobody is.
    """
    owner: str = request.headers.get(OWNER_HEADER, "").strip()
    if not owner:
        raise ProblemError(HTTPStatus.UNAUTHORIZED, "Sign in first: nobody is signed in to this app.")
    return owner
