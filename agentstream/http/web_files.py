"""The routes of the web page and its files, read once at the start, and of ``resumable-fetch.js`` for any page."""

import hashlib
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import azure.durable_functions as df
import azure.functions as func
from azurefunctions.extensions.http.fastapi import Request, Response

from agentstream.http.origins import Origins
from agentstream.http.problems import ProblemError
from agentstream.http.worker_memory import forgetting

PAGE = "index.html"
RESUMABLE_FETCH = Path(__file__).with_name("resumable-fetch.js")
# A folder within, of what others have written.
VENDORED = "vendor"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".md": "text/markdown; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
# A page loads and asks its own origin only, runs no script and takes no style but files of its own, is shown in no
# frame, and makes HTML of a text by DOMPurify or not at all.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
)


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    headers: dict[str, str]


def create_web_functions(folder: Path | None, origins: Origins) -> df.Blueprint:
    """Return the functions of ``GET chat``, which is ``index.html``, and of ``GET chat/{file}``, for everybody.

    ``resumable-fetch.js`` is one of the files in any case.

    Args:
        folder: The files, and those of a folder ``vendor`` in it, served under ``chat/vendor/{file}``. Those in other
            folders within it, and those whose names begin with a dot, are not served. None for no page.
        origins: The pages that may load them, beside the app's own.

    Raises:
        ValueError: A file's ending is none of ``MEDIA_TYPES``.
    """
    files, vendored = {RESUMABLE_FETCH.name: _read(RESUMABLE_FETCH)}, dict[str, _File]()
    if folder is not None:
        files |= _read_files(folder)
        vendored |= _read_files(folder / VENDORED)
    blueprint = df.Blueprint()

    async def get_page(req: Request) -> Response:
        """``GET /api/chat``"""
        return _response(req, files.get(PAGE))

    async def get_page_file(req: Request) -> Response:
        """``GET /api/chat/{file}``"""
        return _response(req, files.get(req.path_params["file"]))

    async def get_vendored_file(req: Request) -> Response:
        """``GET /api/chat/vendor/{file}``"""
        return _response(req, vendored.get(req.path_params["file"]))

    routes = ((get_page, "chat"), (get_page_file, "chat/{file}"), (get_vendored_file, f"chat/{VENDORED}/{{file}}"))
    for handler, route in routes:
        function = forgetting(origins.guard(handler))
        blueprint.route(route=route, methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)(function)
    return blueprint


def _read_files(folder: Path) -> dict[str, _File]:
    """Return the files of a folder by their names; none where there is no such folder."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return {path.name: _read(path) for path in paths if path.is_file() and not path.name.startswith(".")}


def _read(path: Path) -> _File:
    if path.suffix not in MEDIA_TYPES:
        raise ValueError(f"{path} cannot be served: of its ending no media type is known")
    content = path.read_bytes()
    headers = {
        "Content-Type": MEDIA_TYPES[path.suffix],
        "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        # Kept, but asked for again each time: a new version is seen at once.
        "Cache-Control": "no-cache",
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Referrer-Policy": "no-referrer",
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
