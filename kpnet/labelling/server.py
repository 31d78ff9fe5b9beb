"""The server of the labelling page, for this machine and its user alone.

It listens on the loopback address. Every address begins with a random token; requests by another host name (DNS
rebinding) or from another page are refused. Images have numbers and no paths, so that nothing but them and the page's
own files is served, and nothing but the labels and the skeleton is written.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from kpnet.core.errors import KpnetError
from kpnet.core.files import plain
from kpnet.labelling.labels import ChangedFileError, StaleRevisionError
from kpnet.labelling.session import Session, suggest_pairs

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError:
    raise KpnetError('labelling needs starlette and uvicorn: pip install "kpnet[label]"') from None

HOST, PORT, PORTS_TRIED = "127.0.0.1", 8765, 50
MAX_BODY = 4 << 20  # bytes
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # it would hold the token
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def build_app(session: Session, token: str, port: int) -> ASGIApp:
    """Build the ASGI application of a session.

    Args:
        session: The session.
        token: First part of each address.
        port: Port of the server, for the names by which it may be called.

    Returns:
        The application.
    """
    page = {
        path.name: path.read_bytes() for path in files("kpnet.labelling").joinpath("page").iterdir() if path.is_file()
    }

    async def index(request: Request) -> Response:
        return Response(page["index.html"], media_type=TYPES[".html"])

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        suffix = name[name.rfind(".") :]
        if name not in page or suffix not in TYPES:
            return PlainTextResponse("not found", 404)
        return Response(page[name], media_type=TYPES[suffix])

    def number(request: Request) -> int:
        index = int(request.path_params["index"])
        if index >= len(session.labels):
            raise KpnetError(f"image {index}: there are {len(session.labels)} images")
        return index

    async def image(request: Request) -> Response:
        data, kind = await run_in_threadpool(session.image, number(request))
        return Response(data, media_type=kind)

    async def labels(request: Request) -> Response:
        return JSONResponse(session.instances(number(request)))

    async def put_labels(request: Request) -> Response:
        index, body = number(request), await _read_json(request)
        revision = body.get("revision")
        if not isinstance(revision, int):
            raise KpnetError("revision: expected a whole number")
        return JSONResponse({"revision": await run_in_threadpool(session.put, index, body.get("instances"), revision)})

    async def skeleton(request: Request) -> Response:
        body = await _read_json(request)
        await run_in_threadpool(session.set_skeleton, body)
        return JSONResponse(await run_in_threadpool(session.state))

    async def pairs(request: Request) -> Response:
        body = await _read_json(request)
        return JSONResponse(suggest_pairs(body.get("names")))

    async def proposals(request: Request) -> Response:
        return JSONResponse(plain({"instances": await run_in_threadpool(session.proposals, number(request))}))

    async def suspicions(request: Request) -> Response:
        return JSONResponse({"suspicions": session.suspected(number(request))})

    def call(function: Callable[[], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            done = await run_in_threadpool(function)
            return JSONResponse(done if isinstance(done, dict) else session.status())

        return respond

    routes = [
        Route("/", index),
        Route("/api/state", call(session.state)),
        Route("/api/status", call(session.status)),
        Route("/api/image/{index:int}", image),
        Route("/api/labels/{index:int}", labels),
        Route("/api/labels/{index:int}", put_labels, methods=["PUT"]),
        Route("/api/proposals/{index:int}", proposals),
        Route("/api/suspicions/{index:int}", suspicions),
        Route("/api/skeleton", skeleton, methods=["PUT"]),
        Route("/api/pairs", pairs, methods=["PUT"]),
        Route("/api/reload", call(session.labels.reload), methods=["POST"]),
        Route("/api/beside", call(session.labels.continue_beside), methods=["POST"]),
        Route("/api/train", call(session.train), methods=["POST"]),
        Route("/{name}", static),
    ]
    handlers: dict[Any, Any] = {KpnetError: _refused, OSError: _not_written}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), token, port)


async def _refused(request: Request, error: Exception) -> Response:
    kind = (
        "stale" if isinstance(error, StaleRevisionError) else "changed" if isinstance(error, ChangedFileError) else ""
    )
    return JSONResponse({"error": str(error), "kind": kind}, 409 if kind else 422)


async def _not_written(request: Request, error: Exception) -> Response:
    assert isinstance(error, OSError)
    message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return JSONResponse({"error": message, "kind": "disk"}, 507)


async def _read_json(request: Request) -> dict[str, Any]:
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > MAX_BODY:
            raise KpnetError(f"expected at most {MAX_BODY} bytes")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise KpnetError("expected JSON") from None
    if not isinstance(value, dict):
        raise KpnetError("expected a JSON object")
    return value


class Guard:
    """Passes on only requests with the token, by a name of this machine, and from the page itself; sets `HEADERS`.

    Args:
        app: What it guards; it sees addresses without the token.
        token: First part of each address.
        port: Port of the server.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app, self._token = app, token.encode()
        self._hosts = {f"{name}:{port}".encode() for name in (HOST, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        problem = self._problem(scope)
        if problem is not None:
            return await PlainTextResponse(problem, 403)(scope, receive, with_headers)
        path = "/" + scope["path"].split("/", 2)[2]
        # Not as root_path: then addresses that are made of it would be right, and none is.
        return await self._app({**scope, "path": path, "raw_path": path.encode()}, receive, with_headers)

    def _problem(self, scope: Scope) -> str | None:
        """Return why a request is refused, or None."""
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return "this server is for the page on this machine alone"
        if any(origin != b"http://" + hosts[0] for origin in headers.get(b"origin", [])):
            return "requests of other pages are refused"
        if any(site not in (b"same-origin", b"none") for site in headers.get(b"sec-fetch-site", [])):
            return "requests of other pages are refused"
        if scope["method"] not in ("GET", "HEAD") and headers.get(b"content-type") != [b"application/json"]:
            return "expected JSON"
        parts = scope["path"].encode().split(b"/", 2)
        if len(parts) < 3 or not secrets.compare_digest(parts[1], self._token):
            return "wrong token: open the address that kpnet label printed"
        return None


def bind(port: int) -> socket.socket:
    """Return a listening socket on the loopback address, at a port or, where it is in use, one of the next.

    Args:
        port: The port; 0 for any.

    Raises:
        KpnetError: All of them are in use.
    """
    last = min(port + PORTS_TRIED, 65535) if port else 0
    for each in range(port, last + 1):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.bind((HOST, each))
            listener.listen(128)
        except OSError:
            listener.close()
            continue
        return listener
    raise KpnetError(f"--port: the ports {port} to {last} are in use; give another one")


def serve(session: Session, port: int, ready: Callable[[str], None]) -> None:
    """Serve a session until Ctrl-C.

    Args:
        session: The session; it is closed at the end.
        port: The port to begin with.
        ready: Called with the page's address once it can be opened.

    Raises:
        KpnetError: No port is free.
    """
    with bind(port) as listener:
        token, own = secrets.token_urlsafe(24), listener.getsockname()[1]
        # No log of requests, which would hold the token.
        config = uvicorn.Config(
            build_app(session, token, own), log_level="critical", access_log=False, server_header=False, ws="none",
            lifespan="off", timeout_graceful_shutdown=1,
        )  # fmt: skip
        ready(f"http://{HOST}:{own}/{token}/")
        try:
            asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))
        except KeyboardInterrupt:  # uvicorn has ended in order, and raises it again
            pass
        finally:
            session.close()
