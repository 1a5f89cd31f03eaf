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
from pipeline.errors import PipelineError, printable
from pipeline.evaluation.intervals import Share
from pipeline.report.words import common_folder
from pipeline.system.documents import DamagedError, parse

Work = Callable[[dict[str, Any]], dict[str, Any]]

_AHEAD = 6  # pictures that the page loads ahead
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

    async def _seen(self, request: Request) -> Response:  # noqa: ARG002 -- so are routes called
        return await anyio.to_thread.run_sync(self._shown, {})

    def _doing(self, work: Work) -> Callable[[Request], Awaitable[Response]]:
        async def done(request: Request) -> Response:
            try:
                given = parse(await request.body() or b"{}")
            except DamagedError as error:
                raise HTTPException(400, f"not JSON: {error}") from error
            if not isinstance(given, dict):
                raise HTTPException(400, "not an object")
            return await anyio.to_thread.run_sync(lambda: self._shown(work(given)))

        return done

    def _shown(self, more: dict[str, Any]) -> Response:
        return JSONResponse({**_describe(self.labelling, self._folder), **more})

    @cached_property
    def _folder(self) -> str:
        return common_folder([str(path) for path in self.labelling.dataset.paths])

    def _answer(self, given: dict[str, Any]) -> dict[str, Any]:
        label = given.get("label")
        if not isinstance(label, str):
            raise PipelineError("the answer has no label.")
        self.labelling.answer(_number(given), label)
        return {}

    def _skip(self, given: dict[str, Any]) -> dict[str, Any]:
        self.labelling.skip(_number(given))
        return {}

    def _undo(self, _: dict[str, Any]) -> dict[str, Any]:
        question = self.labelling.undo()
        return {"again": None if question is None else question.place}

    def _review(self, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("end"):
            self.labelling.end_review()
            return {}
        return {"suspicious": self.labelling.review()}


def _number(given: dict[str, Any]) -> int:
    number = given.get("number")
    if type(number) is not int:
        raise PipelineError("the answer names no image.")
    return number


def _describe(labelling: Labelling, folder: str) -> dict[str, Any]:
    questions = labelling.next(_AHEAD)
    state = labelling.state()
    step = max(1, -(-len(state.history) // _MOST_POINTS))
    return {
        "classes": list(labelling.classes),
        "counts": state.counts,
        "labelled": state.labelled,
        "unlabelled": state.unlabelled,
        "answered": state.answered,
        "accuracy": _share(state.accuracy),
        "history": [(n, *_share(share)) for n, share in state.history[::-step][::-1]],
        "agreement": state.agreement,
        "may_stop": state.may_stop,
        "unwritten": printable(state.unwritten),
        "file": printable(labelling.file),
        "questions": [
            {
                "number": question.place,
                "name": printable(str(question.path).removeprefix(folder)),
                "label": question.label,
                "suggested": question.suggested,
                "why": question.why,
            }
            for question in questions
        ],
    }


def _share(share: Share | None) -> list[float]:
    """Give a share and its interval; nothing where it is not known yet."""
    return [] if share is None else [share.value, *share.interval]
