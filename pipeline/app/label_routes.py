"""What the page's server answers while images are labelled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.app.labelling import Labelling
from pipeline.app.labels import ChangedError
from pipeline.app.questions import Question
from pipeline.errors import PipelineError, printable
from pipeline.evaluation.intervals import Share
from pipeline.report.words import common_folder
from pipeline.system.documents import DamagedError, parse

Work = Callable[[dict[str, Any]], dict[str, Any]]

_AHEAD = 6  # pictures that the page loads ahead
_DIGITS = 16  # of an image's digest
_MOST_POINTS = 200  # of the curve


@dataclass(frozen=True)
class LabelPages:
    """Answers with all that the page shows of a labelling."""

    labelling: Labelling

    def routes(self) -> list[Route]:
        """Return what may be asked for."""
        works = {
            "answer": self._answer,
            "skip": self._skip,
            "undo": self._undo,
            "review": self._review,
        }
        return [
            Route("/label", self._seen),
            *(
                Route(f"/label/{name}", self._doing(work), methods=["POST"])
                for name, work in works.items()
            ),
        ]

    async def _seen(self, request: Request) -> Response:
        shown = request.query_params.get("shown", "")
        number = int(shown) if shown.isascii() and shown.isdecimal() else -1
        return await anyio.to_thread.run_sync(lambda: self._shown(self._now(number)))

    def _doing(self, work: Work) -> Callable[[Request], Awaitable[Response]]:
        async def done(request: Request) -> Response:
            try:
                given = parse(await request.body() or b"{}")
            except DamagedError as error:
                raise HTTPException(400, f"not JSON: {error}") from error
            if not isinstance(given, dict):
                raise HTTPException(400, "not an object")
            try:
                return await anyio.to_thread.run_sync(lambda: self._shown(work(given)))
            except ChangedError as error:
                raise HTTPException(409, error.found) from error

        return done

    def _shown(self, more: dict[str, Any]) -> Response:
        questions = map(self._question, self.labelling.next(_AHEAD))
        return JSONResponse({**_describe(self.labelling), "questions": [*questions], **more})

    def _question(self, question: Question) -> dict[str, Any]:
        return {
            "number": question.place,
            "digest": self._digest(question.place),
            "name": printable(str(question.path).removeprefix(self._folder)),
            "label": question.label,
            "suggested": question.suggested,
            "why": question.why,
        }

    def _digest(self, number: int) -> str:
        return self.labelling.dataset.digests[number].hex()[:_DIGITS]

    def _number(self, given: dict[str, Any]) -> int:
        """Return the number of the image that was looked at; of others it is refused."""
        number, digest = given.get("number"), _text(given, "digest")
        if type(number) is not int:
            raise PipelineError("the answer names no image.")
        if not 0 <= number < len(self.labelling.dataset):
            raise PipelineError(f"there is no image {number}.")
        if digest != self._digest(number):
            raise HTTPException(409, "The program shows other images now: load this page again.")
        return number

    @cached_property
    def _folder(self) -> str:
        return common_folder([str(path) for path in self.labelling.dataset.paths])

    def _now(self, number: int) -> dict[str, Any]:
        """Tell which image has the number of the one that the page shows, and its label by now."""
        labels = self.labelling.labels()
        if not 0 <= number < len(labels):
            return {}
        return {"shown": {"digest": self._digest(number), "label": labels[number]}}

    def _answer(self, given: dict[str, Any]) -> dict[str, Any]:
        number, label = self._number(given), _text(given, "label")
        self.labelling.answer(number, label, was=_text(given, "was"))
        return {}

    def _skip(self, given: dict[str, Any]) -> dict[str, Any]:
        self.labelling.skip(self._number(given))
        return {}

    def _undo(self, given: dict[str, Any]) -> dict[str, Any]:
        question = self.labelling.undo(self._number(given), _text(given, "label"))
        return {"again": question and self._question(question)}

    def _review(self, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("end"):
            self.labelling.end_review()
            return {}
        return {"suspicious": self.labelling.review()}


def _text(given: dict[str, Any], name: str) -> str:
    text = given.get(name)
    if not isinstance(text, str):
        raise PipelineError(f"the answer has no {name!r}.")
    return text


def _describe(labelling: Labelling) -> dict[str, Any]:
    state = labelling.state()
    step = max(1, -(-len(state.history) // _MOST_POINTS))
    return {
        "classes": list(labelling.classes),
        "counts": state.counts,
        "labelled": state.labelled,
        "unlabelled": state.unlabelled,
        "added": state.added,
        "answered": state.answered,
        "accuracy": _share(state.accuracy),
        "history": [(n, *_share(share)) for n, share in state.history[::-step][::-1]],
        "agreement": state.agreement,
        "may_stop": state.may_stop,
        "unwritten": printable(state.unwritten),
        "file": printable(labelling.file),
    }


def _share(share: Share | None) -> list[float]:
    """Give a share and its interval; nothing where it is not known yet."""
    return [] if share is None else [share.value, *share.interval]
