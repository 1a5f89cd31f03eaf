"""What is to be known of a model by whoever gets it: a page in Markdown, made from its run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import takewhile

from pipeline.backbones.choices import EVERY_LAYER
from pipeline.backbones.registry import get_backbone
from pipeline.errors import printable
from pipeline.models.model import Model
from pipeline.runs.documents import HeadRecord
from pipeline.runs.reading import Record
from pipeline.runs.table import FEW

_USE = """## How to use it

It needs Python 3.11 or newer:

    python -m venv .venv
    .venv/bin/pip install -r requirements.txt
    .venv/bin/python predict.py picture.jpg another.png
    .venv/bin/python predict.py folder/of/pictures --json

On Windows, `.venv\\Scripts\\python` is its Python. `predict.py` prints each answer as it comes,
and ends with 3 where a file could not be read. `labels.json` has the classes in the order of the
probabilities. `model.onnx` takes pixels, uint8 of shape (n, size, size, 3), and says in its
metadata how they are made; `pipeline/` has the code that makes them, so that they are the same as
in training.
That code is cached-feature-pipeline's, under the licence Apache-2.0 (`LICENSE`)."""

_LIMITS = """## What it is for, and what it is not for

For pictures like those above, as an aid for people who can judge its answers. Do not use it for

- pictures of another kind than those that it was trained and tested on (another camera, light,
  distance or background): its figures say nothing about them. Test it on some hundred pictures of
  your own first;
- pictures of none of its classes: it names one of them all the same, often with a high probability;
- decisions about people, or on which safety depends, without a person who looks at the picture.

When the camera or the product changes, test it again."""


_COMMAND = re.compile(r"(?<!\S)`?(--[a-z]|pipeline [a-z]+ [A-Z])")

_JUDGED = {
    False: "test images that it did not learn from",
    True: "images in cross-validation: each was judged by a copy that was trained without it",
}
_MADE_FROM = {
    False: "Images it was made from, and tested on:",
    True: "It was fitted to all images; for its figures, each was judged without it:",
}


def write_card(model: Model, record: Record | None, sentences: Sequence[str]) -> str:
    """Write the page; without a run there are no figures.

    The sentences say how near the file is to the model, whose figures these are.
    """
    parts = [_what(model, record), _USE, _LIMITS]
    head = next((own for own in record.heads if own.name == model.head), None) if record else None
    if record and head:
        parts[1:1] = _figures(model, record, head)
    else:
        parts[1:1] = ["The figures of its tests are not known: its run was not beside it."]
    parts[-2:-2] = [_differs(sentences)]
    return "\n\n".join(parts) + "\n"


def _what(model: Model, record: Record | None) -> str:
    recipe, classes = model.recipe, _listed(model.classes)
    backbone = get_backbone(recipe.backbone)
    name = f" from the data set {_safe(record.document.dataset.name)}" if record else ""
    network = f"{backbone.title} ({backbone.licence}), {recipe.size} x {recipe.size} pixels"
    layer = "every layer" if recipe.layer in EVERY_LAYER else f"layer {_safe(recipe.layer)}"
    called = "called the class of the highest probability"
    if model.threshold:
        called = _safe(model.threshold.rule(model.classes))
    lines = [
        f"# A classifier of pictures into {len(model.classes)} classes\n",
        f"Of {classes}{name}.",
        f"{network}, {layer}, and the classifier {_safe(model.head)}.",
        f"A picture is {called}.",
    ]
    if model.views > 1:
        lines.append(
            f"Probabilities are means over {model.views} views of a picture. SciPy draws them, "
            "which takes 140 MB more than the other packages."
        )
    return "\n".join(lines)


def _figures(model: Model, record: Record, head: HeadRecord) -> Iterator[str]:
    test = head.test
    few = f" {test.n} images are too few to rely on." if test.n < FEW else ""
    yield (
        "## How good it is\n\n"
        f"On {test.n:,} {_JUDGED[record.nested]} ({_safe(record.document.created[:10])}).{few}"
    )
    rows = [
        f"| accuracy | {test.accuracy:.3f} | {test.accuracy_low:.3f} to {test.accuracy_high:.3f} |"
    ]
    for place, name in enumerate(model.classes):
        for what, share in (("recall", test.recall(place)), ("precision", test.precision(place))):
            value, _, interval = str(share).partition(", 95 % interval ")
            rows.append(f"| {what} of {_safe(name)} | {value} | {interval} |")
    yield "\n".join(["| | | 95 % interval |", "|---|---|---|", *rows])
    yield f"Always guessing the most common class: {test.guessing:.3f}."
    yield "\n".join(
        [
            f"| true class | {' | '.join(f'called {_safe(name)}' for name in model.classes)} |",
            f"|---{'|---' * len(model.classes)}|",
            *(
                f"| {_safe(name)} | {' | '.join(map(str, counts))} |"
                for name, counts in zip(model.classes, test.confusion)
            ),
        ]
    )
    images = record.document.dataset.images
    counted = (
        f"- {_safe(split)}: {', '.join(f'{count:,} {_safe(name)}' for name, count in own.items())}"
        for split, own in images.items()
        if own
    )
    yield "\n".join([_MADE_FROM[record.nested], "", *counted])
    remarks = [*record.document.remarks, *(record.problems.summary if record.problems else ())]
    if remarks := [own for own in map(_without_commands, remarks) if own]:
        yield "\n".join(["To know of the data:", "", *(f"- {_safe(text)}" for text in remarks)])


def _without_commands(text: str) -> str:
    """Cut a remark off before what only a user of all of this program can do."""
    clauses = re.split(r"(?<=[;:.]) ", text)
    kept = " ".join(takewhile(lambda clause: not _COMMAND.search(clause), clauses))
    return re.sub("[;:]$", ".", kept)


def _differs(sentences: Sequence[str]) -> str:
    listed = "\n".join(f"- {_safe(text)}" for text in sentences)
    return (
        "## How near this file is to the classifier that was tested\n\n"
        "Figures are of the classifier on the features of its run. This file computes the features "
        f"itself:\n\n{listed}"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(_safe, names))


def _safe(text: str) -> str:
    """Write a text so that nothing in it acts as Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|&!~])", r"\\\1", printable(text))
