"""What the page's server answers, request by request. No logic: that is in the wings above."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route, Router

from pipeline.analysis.image_table import NO_LABEL
from pipeline.app.guard import PAGE_POLICY, Guard, Secrets
from pipeline.app.label_routes import LabelPages
from pipeline.app.labelling import Labelling
from pipeline.app.looking import LABEL_SO_FAR, Collection, column_of
from pipeline.app.trying import Trial
from pipeline.data.images import DECODING_THREADS, thumbnail
from pipeline.report.rendering import asset, lay_out, page_style, render
from pipeline.system.documents import DamagedError, parse

_TEMPLATES = Path(__file__).parent / "templates"
_POLICY = "img-src 'self' blob: data:; connect-src 'self'"
_THUMBNAIL, _PICTURE = 160, 640  # longer sides, in pixels
_MOST_SIMILAR = 100

Answer = Callable[[Request], Awaitable[Response]]


@dataclass
class Site:
    """The page, and what it asks for.

    Parameters
    ----------
    name : str
        What to call it.
    trial : Trial, optional
        Classifies pictures.
    collection : Collection, optional
        The images to look at.
    notes : sequence of str
        What to know, in sentences.
    labelling : Labelling, optional
        Labels the images of the collection.
    """

    name: str
    trial: Trial | None = None
    collection: Collection | None = None
    notes: tuple[str, ...] = ()
    labelling: Labelling | None = None
    _working: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _decoding: anyio.CapacityLimiter | None = field(default=None, repr=False)

    def guarded(self, keys: Secrets, port: int, names: tuple[str, ...] = ()) -> Guard:
        """Return the application: all requests pass the guard first."""
        routes = [
            Route("/", self._page),
            Route("/state", self._state),
            Route("/predict", self._predict, methods=["POST"]),
            Route("/preview", self._preview, methods=["POST"]),
            Route("/map", self._map, methods=["POST"]),
            Route("/images", self._images),
            Route("/points", self._points),
            Route("/column", self._column),
            Route("/images/{number:int}/{kind}", self._image),
            Route("/selection", self._selection, methods=["POST"]),
        ]
        if self.labelling:
            routes += LabelPages(self.labelling).routes()
        return Guard(Router(routes, redirect_slashes=False), keys, port, names)

    async def _page(self, request: Request) -> Response:  # noqa: ARG002 -- so are routes called
        return HTMLResponse(self.html(), headers=PAGE_POLICY)

    def html(self) -> str:
        """Lay the page out."""
        shown = [
            ("label", "Label", self.labelling),
            ("try", "Try", self.trial),
            ("look", "Look", self.collection),
        ]
        sections = [
            (key, title, render(f"{key}.html.j2", templates=_TEMPLATES, site=self))
            for key, title, part in shown
            if part is not None
        ]
        keys = [key for key, _, _ in sections]
        return lay_out(
            sections,
            style=page_style() + asset("app.css", templates=_TEMPLATES),
            script="".join(asset(f"{name}.js", templates=_TEMPLATES) for name in ("app", *keys)),
            policy=_POLICY,
            title=self.name,
            subtitle="on this computer",
            verdict=(),
            first=render("stopped.html.j2", templates=_TEMPLATES),
            notice=" ".join(self.notes).removesuffix("."),
        )

    async def _state(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse({"alive": True})

    async def _predict(self, request: Request) -> Response:
        trial, content = _needed(self.trial), await request.body()
        similar = _number(request, "similar")
        return JSONResponse(await anyio.to_thread.run_sync(trial.answer, content, similar))

    async def _preview(self, request: Request) -> Response:
        content = await request.body()
        picture = await self._decoded(lambda: thumbnail(content, _PICTURE))
        return Response(picture, media_type="image/jpeg")

    async def _map(self, request: Request) -> Response:
        trial, content = _needed(self.trial), await request.body()
        label = request.query_params.get("class", "")
        return JSONResponse(await anyio.to_thread.run_sync(trial.heat_map, content, label))

    async def _images(self, request: Request) -> Response:  # noqa: ARG002
        collection = _needed(self.collection)
        more = [LABEL_SO_FAR] if self.labelling else []
        return JSONResponse(await anyio.to_thread.run_sync(collection.columns, more))

    async def _points(self, request: Request) -> Response:  # noqa: ARG002
        return await self._worked_out(_needed(self.collection).table.points)

    async def _column(self, request: Request) -> Response:
        kind, collection = request.query_params.get("kind", ""), _needed(self.collection)
        if kind == LABEL_SO_FAR and self.labelling:
            names = await anyio.to_thread.run_sync(self.labelling.labels)
            return JSONResponse(column_of(name or NO_LABEL for name in names))
        return await self._worked_out(lambda: collection.column(kind))

    async def _image(self, request: Request) -> Response:
        number, kind = request.path_params["number"], request.path_params["kind"]
        collection = _needed(self.collection)
        if kind == "similar":
            count = _number(request, "count", 20)
            return JSONResponse(await anyio.to_thread.run_sync(collection.similar, number, count))
        side = {"thumbnail": _THUMBNAIL, "picture": _PICTURE}.get(kind)
        if side is None:
            raise HTTPException(404, "there is no such page")
        content = await self._decoded(lambda: collection.picture(number, side))
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(content, media_type="image/jpeg", headers=headers)

    async def _decoded(self, decode: Callable[[], bytes]) -> bytes:
        self._decoding = self._decoding or anyio.CapacityLimiter(DECODING_THREADS)
        return await anyio.to_thread.run_sync(decode, limiter=self._decoding)

    async def _selection(self, request: Request) -> Response:
        try:
            numbers = parse(await request.body())
        except DamagedError as error:
            raise HTTPException(400, f"not a list of numbers: {error}") from error
        if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
            raise HTTPException(400, "not a list of numbers")
        collection = _needed(self.collection)
        content, left_out = await anyio.to_thread.run_sync(collection.as_csv, numbers)
        headers = {"Left-Out": str(left_out)}
        return Response(content, media_type="text/csv; charset=utf-8", headers=headers)

    async def _worked_out(self, work: Callable[[], Any]) -> Response:
        """Answer with what takes a while, each only once at a time."""

        def alone() -> Any:
            with self._working:
                return work()

        return JSONResponse(await anyio.to_thread.run_sync(alone))


def _needed(part: Any) -> Any:
    if part is None:
        raise HTTPException(404, "there is no such page")
    return part


def _number(request: Request, name: str, default: int = 0) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 5):
        raise HTTPException(400, f"{name} is {text!r}, and has to be a number")
    return min(int(text), _MOST_SIMILAR)
