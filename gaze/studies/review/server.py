"""The page's server: one process on 127.0.0.1, whose link holds a token; it fetches nothing and takes little.

Whoever has no token, comes by another host's name (DNS rebinding), or posts from another page is refused. What a
browser names are turns of the queue, never files.
"""

from __future__ import annotations

import json
import math
import secrets
import shlex
import socket
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jinja2 import Environment
from rich.console import Console

from gaze.config.analysis import AnalyzeConfig
from gaze.config.costs import read_costs
from gaze.config.settings import Settings
from gaze.errors import ConfigError, GazeError
from gaze.names import visible
from gaze.studies.review.report import train_command
from gaze.studies.review.shown import Review
from gaze.studies.review.store import MOST_NOTE, REASONS, Answer, Reviewer
from gaze.terminal import say

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost", "::1")  # by any port, which a tunnel may change
MOST_BODY = 1 << 18  # bytes of an answer: 50 polygons of 200 corners are less
PORTS = 20  # tried, from review.port
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
HERE = Path(__file__).parent


def run_review(config: AnalyzeConfig, directory: Path, console: Console) -> Path:
    """Serve the page until Ctrl-C.

    Args:
        config: ``review=RUN``.
        directory: where its report is to go.
        console: told the link.

    Returns:
        The file of answers.

    Raises:
        GazeError: the packages are missing; no port is free; as :class:`Review`.
    """
    try:
        import uvicorn
    except ImportError:
        raise ConfigError("review= needs two packages: pip install 'gaze-consistency[review]'") from None
    costs = None if config.costs is None else read_costs(config.costs)
    with closing(Review(config.review, config.compare, console, costs, config.trust)) as review:
        listening, token = listen(config.review.port), secrets.token_urlsafe(16)
        port = listening.getsockname()[1]
        if port != config.review.port:
            say(console, f"note: port {config.review.port} is taken; this is {port}.")
        if review.store.order != config.review.order:
            say(console, f"note: {review.store.path} was begun in another order, which it keeps: {review.store.order}.")
        say(console, f"{len(review.store.queue):,} turns; answers go to {review.store.path}. Ctrl-C ends it.")
        say(console, f"Open http://127.0.0.1:{port}/{token}/")
        served = uvicorn.Config(
            make_app(review, token, _then(config, review, directory)),
            log_level="error", access_log=False,  # a log would hold the token
            ws="none", lifespan="off", server_header=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
        with listening, suppress(KeyboardInterrupt):
            uvicorn.Server(served).run(sockets=[listening])
        return review.store.path


def listen(port: int) -> socket.socket:
    """A socket on the first free port of :data:`PORTS`.

    Raises:
        ConfigError: none is free.
    """
    for number in range(port, min(port + PORTS, 65536)):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of one that has just ended
        try:
            one.bind(("127.0.0.1", number))
            one.listen()
            return one
        except OSError:
            one.close()
    raise ConfigError(f"Ports {port} to {port + PORTS - 1} are taken. Name another: review.port=NUMBER.")


def _then(config: AnalyzeConfig, review: Review, directory: Path) -> list[str]:
    """What to type after a review: its report, and a training on what was drawn."""
    own = config.review
    words = [f"review={own.run}", "review.report=true", *([f"review.file={own.file}"] if own.file else [])]
    report = f"python analyze.py {shlex.join([*words, f'hydra.run.dir={directory}'])}"
    return [report, train_command(review.arms[0].run, review.data, directory, own.images)]


def make_app(review: Review, token: str, commands: Sequence[str] = ()) -> Starlette:
    """The page and what it asks for, each address behind the token; ``commands`` are shown for what comes next."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    def page(request: Request) -> Response:
        template = Environment(autoescape=True).from_string((HERE / "page.html.j2").read_text(encoding="utf-8"))
        titles = [visible(arm.run.title) for arm in review.arms]
        facts = {"reasons": REASONS, "most_note": MOST_NOTE, "titles": titles, "method": review.arms[0].run.method}
        facts["commands"] = [visible(command) for command in commands]
        return Response(template.render(facts), media_type="text/html")

    def static(name: str, kind: str) -> Route:
        text = (HERE / name).read_bytes()
        return Route(f"/{name}", lambda request: Response(text, media_type=kind))

    def state(request: Request) -> Response:
        return JSONResponse({"turns": len(review.store.queue), "answered": [*review.store.answered(_who(request))]})

    def turn(request: Request) -> Response:
        return JSONResponse(review.turn(_number(request, "item"), _who(request)))

    def image(request: Request) -> Response:
        window = _window(request)
        return Response(review.image(_number(request, "item"), *window), media_type="image/png")

    def gaze(find: Callable[[int, int], bytes]) -> Callable[[Request], Response]:
        return lambda request: Response(
            find(_number(request, "item"), _number(request, "side")), media_type="image/png"
        )

    async def answer(request: Request) -> Response:
        values = await _body(request)
        return JSONResponse(await run_in_threadpool(lambda: review.answer(Answer(**values))))

    async def undo(request: Request) -> Response:
        who = _Who(**await _body(request)).reviewer
        return JSONResponse({"item": await run_in_threadpool(review.store.undo, who)})

    return Starlette(
        routes=[
            Route("/", page),
            static("review.js", "text/javascript"),
            static("review.css", "text/css"),
            Route("/state", state),
            Route("/turn/{item}", turn),
            Route("/image/{item}", image),
            Route("/map/{item}/{side}", gaze(review.map)),
            Route("/mean/{item}/{side}", gaze(review.mean)),
            Route("/answer", answer, methods=["POST"]),
            Route("/undo", undo, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={
            GazeError: lambda request, error: JSONResponse({"error": str(error)}, 400),
            IndexError: lambda request, error: JSONResponse({"error": "there is nothing of that number"}, 404),
        },
    )


class Guard:
    """Lets through what comes by a name of this machine, with the token, and, where it changes something, from the page
    itself; every answer has :data:`HEADERS`."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.responses import PlainTextResponse

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        host, given = headers.get("host", ""), f"{scope['path']}/".split("/")[1]
        app, why = self.app, ""
        if _name_of(f"//{host}") not in HOSTS:
            why = "This page is open on its own machine only."
        elif not secrets.compare_digest(given.encode(), self.token.encode()):
            why = "The link is of another server, or not whole: open the one that the command shows."
        elif scope["method"] == "POST" and headers.get("origin") != f"http://{host}":
            why = "Answers come from the page itself."
        if why:
            app = PlainTextResponse(why, 403)
        await app({**scope, "root_path": f"/{self.token}"}, receive, send_safely)


def _name_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


# ---- what a browser sends: anything


class _Who(Settings):
    reviewer: Reviewer


def _who(request: Request) -> str:
    return _Who(reviewer=request.query_params.get("reviewer", "")).reviewer


def _number(request: Request, name: str) -> int:
    text: str = request.path_params[name]
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise IndexError
    return int(text)


def _window(request: Request) -> tuple[float, float]:
    try:
        low, high = (float(request.query_params.get(name, "")) for name in ("low", "high"))
    except ValueError:
        low = high = math.nan
    if not (abs(low) < 1e15 and abs(high) < 1e15 and low < high):
        raise ConfigError("low and high must be numbers, low below high")
    return low, high


async def _body(request: Request) -> dict[str, Any]:
    from starlette.exceptions import HTTPException

    found = b""
    async for part in request.stream():
        found += part
        if len(found) > MOST_BODY:
            raise HTTPException(413, f"at most {MOST_BODY:,} bytes")
    try:
        values = json.loads(found)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ConfigError("an answer is a JSON object")
    return values
