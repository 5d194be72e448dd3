"""Signing in to Redis with the app's identity (Microsoft Entra ID), so that there is no password anywhere."""

import jwt
from azure.core.exceptions import AzureError
from azure.identity.aio import DefaultAzureCredential
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

# https://learn.microsoft.com/azure/redis/entra-for-authentication
SCOPE = "https://redis.azure.com/.default"


class EntraCredentials(CredentialProvider):
    """What every connection of one event loop signs in with: the identity's object id and its token.

    The credential keeps the token and renews it before it expires, without holding up the loop. Redis closes a
    connection whose token has expired, and the one that takes its place signs in anew.
    """

    def __init__(self) -> None:
        self._credential = DefaultAzureCredential()

    async def get_credentials_async(self) -> tuple[str, str]:
        """Return user name and password, as redis-py asks for them at every new connection.

        Raises:
            AuthenticationError: There is no token to be had.
        """
        try:
            token = (await self._credential.get_token(SCOPE)).token
            # Redis checks the signature; here it is only asked whose token it is.
            return jwt.decode(token, options={"verify_signature": False})["oid"], token
        except (AzureError, jwt.PyJWTError, KeyError) as error:
            raise AuthenticationError(f"no token for Redis: {type(error).__name__}") from error

    async def aclose(self) -> None:
        """Close the credential's own connections."""
        await self._credential.close()
