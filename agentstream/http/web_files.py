"""The routes of the web page and its files: those of one folder, read once at the start."""

import hashlib
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import azure.durable_functions as df
import azure.functions as func
from azurefunctions.extensions.http.fastapi import Request, Response

from agentstream.http.origins import Origins
from agentstream.http.problems import ProblemError

PAGE = "index.html"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".md": "text/markdown; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    headers: dict[str, str]


def create_web_functions(folder: Path, origins: Origins) -> df.Blueprint:
    """Return the functions of ``GET chat``, which is ``index.html``, and of ``GET chat/{file}``, for everybody.

    Args:
        folder: The files. Those in folders within it, and those whose names begin with a dot, are not served.
        origins: The pages that may load them, beside the app's own.

    Raises:
        ValueError: A file's ending is none of ``MEDIA_TYPES``.
    """
    files = {path.name: _read(path) for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")}
    blueprint = df.Blueprint()

    async def get_page(req: Request) -> Response:
        """``GET /api/chat``"""
        return _response(req, files.get(PAGE))

    async def get_page_file(req: Request) -> Response:
        """``GET /api/chat/{file}``"""
        return _response(req, files.get(req.path_params["file"]))

    for handler, route in ((get_page, "chat"), (get_page_file, "chat/{file}")):
        blueprint.route(route=route, methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)(origins.guard(handler))
    return blueprint


def _read(path: Path) -> _File:
    if path.suffix not in MEDIA_TYPES:
        raise ValueError(f"{path} cannot be served: of its ending no media type is known")
    content = path.read_bytes()
    headers = {
        "Content-Type": MEDIA_TYPES[path.suffix],
        "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        # Kept, but asked for again each time: a new version is seen at once.
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    return _File(content, headers)


def _response(req: Request, file: _File | None) -> Response:
    if file is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, "There is no file of this name.")
    known = [tag.strip().removeprefix("W/") for tag in req.headers.get("if-none-match", "").split(",")]
    if file.headers["ETag"] in known or known == ["*"]:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=file.headers)
    return Response(file.content, headers=file.headers)
