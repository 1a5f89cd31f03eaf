"""`pipeline label`."""

from __future__ import annotations

import os
import posixpath
import shlex
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.listening import TerminalListener
from pipeline.cli.options import (
    DataArgument,
    JsonOption,
    LabelsOption,
    StageOne,
    with_stage_one,
)
from pipeline.cli.terminal import WITH_JSON, err, finish, out, propose, reporting_errors, shown
from pipeline.errors import PipelineError, did_you_mean

if TYPE_CHECKING:
    from pipeline.app.labelling import Labelling
    from pipeline.app.questions import Change, Question
    from pipeline.data.urls import Location

_WHY = {
    "typical": "typical of many images",
    "unsure": "the classifier is unsure",
    "suspicious": "its label may be wrong",
}
_PLACEHOLDER = "CLASS"  # in what is proposed, where there is no class yet


@with_stage_one
def label(
    data: DataArgument,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE",
            help="Images of DATA that are given a label; the end of a path is enough.",
        ),
    ] = None,
    *,
    stage_one: StageOne,
    name: Annotated[
        str | None,
        typer.Option("--as", metavar=_PLACEHOLDER, help="Label these images so."),
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Make CLASS a new class beside those there are.")
    ] = False,
    take_back: Annotated[
        bool, typer.Option("--take-back", help="Take away the label that these images were given.")
    ] = False,
    review: Annotated[
        bool, typer.Option("--review", help="List the labels that are likely wrong.")
    ] = False,
    labels: LabelsOption = None,
    count: Annotated[int, typer.Option(min=1, help="How many images to list.")] = 10,
    as_json: JsonOption = False,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; changes the order.")] = 0,
) -> None:
    """Label images: those first that teach most.

    Without IMAGE, list how far the labelling is and which images to label next. Missing features
    are computed first. No image is moved or changed: labels are kept in a CSV that classify takes.

    Example: pipeline label photos/ photos/001.jpg photos/002.jpg --as cats
    """
    with reporting_errors("Labels that were given are kept"):
        from pipeline.app.labelling import Labelling
        from pipeline.system.documents import to_json

        _check_options(images, name, new=new, take_back=take_back, review=review)
        extractor = stage_one.extractor()
        with TerminalListener(data, counts=False) as told:
            labelling = Labelling(
                data, labels=labels, extractor=extractor, seed=seed, listener=told
            )
        for remark in labelling.remarks:
            err.print(f"[yellow]Labels:[/] {shown(remark)}", soft_wrap=True)
        known = [*labelling.classes]
        if name is not None:
            _check_class(name, known, new=new)
        changes = _change(labelling, _found(labelling, images or ()), name)
        suspicious = _review(labelling) if review else None
        questions = labelling.next(count) if suspicious != 0 else []
        if as_json:
            typer.echo(to_json(_document(labelling, questions, changes, suspicious)), nl=False)
        else:
            _print_changes(changes, known, confirmed=name is not None)
            _print_state(labelling)
            if not changes:
                _print_questions(questions, suspicious)
            own = stage_one.typed(labels=labels, seed=seed)
            _propose_answer(labelling, questions[:1], data, own, reviewed=review)
            if labelling.file.exists() and labelling.state().may_train:
                why = "train on the labels so far"
                propose(why, "classify", str(labelling.file), *stage_one.typed())
    finish(labelling.dataset.quarantined, listed="" if as_json else WITH_JSON)


def _check_options(
    images: Sequence[str] | None, name: str | None, *, new: bool, take_back: bool, review: bool
) -> None:
    """Refuse what does not go together, before any work."""
    if new and name is None:
        raise PipelineError("--new is given without --as.", fix="name the new class with --as")
    given = {"--as": name is not None, "--take-back": take_back, "--review": review}
    typed = [option for option, is_given in given.items() if is_given]
    if len(typed) > 1:
        raise PipelineError(f"{' and '.join(typed)} are given.", expected="one of them")
    if images and typed in ([], ["--review"]):
        raise PipelineError(
            f"{len(images):,} images are named, and not what to do with them."
            if len(images) > 1
            else f"the image {images[0]} is named, and not what to do with it.",
            fix="label with --as CLASS, or take the label away with --take-back",
        )
    if not images and typed in (["--as"], ["--take-back"]):
        raise PipelineError(f"{typed[0]} is given, and no image.", fix="name images after DATA")


def _check_class(name: str, known: Sequence[str], *, new: bool) -> None:
    """Refuse what may be a slip: the placeholder of a class, and a class that is new."""
    from pipeline.app.questions import class_name
    from pipeline.data.dataset import shorten

    name = class_name(name, known)
    if name in known:
        return
    if name == _PLACEHOLDER:
        raise PipelineError(
            f"{name} stands for the name of a class.", fix="type that name in its place"
        )
    if known and not new:
        near = did_you_mean(name, known)
        raise PipelineError(
            f"{name} is none of the classes so far.",
            expected=shorten(known),
            fix=f"{near}{' ' * bool(near)}--new makes a new class",
        )


def _found(labelling: Labelling, images: Sequence[str]) -> list[str | Location]:
    """Find images also by the ends of their paths, which `pipeline problems` lists."""
    from pipeline.data.dataset import shorten

    dataset, named = labelling.dataset, defaultdict(list)
    for path in [*dataset.paths, *(bad.path for bad in dataset.quarantined)]:
        named[path.name].append(path)
    result: list[str | Location] = []
    for typed in images:
        end = "/" + posixpath.normpath(typed.replace(os.sep, "/"))
        paths = [] if os.path.lexists(typed) else named[posixpath.basename(end)]
        found = [path for path in paths if str(path).replace(os.sep, "/").endswith(end)]
        if len(found) > 1:
            raise PipelineError(
                f"{typed} is the end of {len(found):,} paths: {shorten(map(str, found))}.",
                fix="type more of the path",
            )
        result.append(found[0] if found else typed)
    return result


def _change(
    labelling: Labelling, images: Sequence[str | Location], name: str | None
) -> list[Change]:
    if not images:
        return []
    return labelling.forget(images) if name is None else labelling.answer_all(images, name)


def _review(labelling: Labelling) -> int:
    err.print("looking for labels that are wrong ...")  # it takes a while
    return labelling.review()


def _document(
    labelling: Labelling,
    questions: Sequence[Question],
    changes: Sequence[Change],
    suspicious: int | None,
) -> dict[str, Any]:
    state, accuracy = labelling.state(), labelling.state().accuracy
    low, high = accuracy.interval if accuracy else (None, None)
    return {
        "file": str(labelling.file),
        "labelled": state.labelled,
        "unlabelled": state.unlabelled,
        "counts": state.counts,
        "accuracy": accuracy and accuracy.value,
        "accuracy_low": low,
        "accuracy_high": high,
        "agreement": state.agreement,
        "may_stop": state.may_stop,
        "unwritten": state.unwritten,
        "changed": [
            {"path": str(each.path), "before": each.before, "label": each.label} for each in changes
        ],
        "suspicious": suspicious,
        "skipped": [
            {"path": str(bad.path), "reason": bad.reason} for bad in labelling.dataset.quarantined
        ],
        "next": [
            {
                "path": str(question.path),
                "label": question.label,
                "suggested": question.suggested,
                "why": question.why,
            }
            for question in questions
        ],
    }


def _print_changes(changes: Sequence[Change], known: Sequence[str], *, confirmed: bool) -> None:
    """Say what became of the images, and that a class is new."""
    from pipeline.data.names import remarks_on

    for (before, now), count in Counter((each.before, each.label) for each in changes).items():
        images = "1 image is" if count == 1 else f"{count:,} images are"
        was = "were" if count > 1 else "was"
        if before == now:
            text = f"{images} {now or 'without a label'}, as before{', and confirmed' * confirmed}"
        elif now:
            text = f"{images} {now} now; {was} {before or 'without a label'} before"
        else:
            text = f"{images} without a label now; {was} {before} before"
        out.print(shown(text), soft_wrap=True)
    for new in {each.label for each in changes} - {*known, ""}:
        out.print(f"{shown(new)} is a new class", soft_wrap=True)
        for remark in remarks_on("class", [new, *known]):
            err.print(f"[yellow]Labels:[/] {shown(remark)}", soft_wrap=True)


def _print_state(labelling: Labelling) -> None:
    state = labelling.state()
    counts = ", ".join(f"{name} {count:,}" for name, count in state.counts.items() if count)
    of_classes = f" ({counts})" if counts else ""
    out.print(
        f"{state.labelled:,} labelled{shown(of_classes)}, {state.unlabelled:,} without a label",
        soft_wrap=True,
    )
    if state.accuracy:
        out.print(f"accuracy in cross-validation: {state.accuracy}", soft_wrap=True)
        if state.added:
            out.print("hard images come first, so new images are classified rather better")
    else:
        out.print("the accuracy is shown from 10 labels of two classes on")
    if state.may_stop:
        out.print("you may stop: the last 50 labels changed nothing")
    if labelling.file.exists():
        out.print(f"the labels are in {shown(labelling.file)}", soft_wrap=True)
    if state.unwritten:
        err.print(
            f"[yellow]The file cannot be written:[/] {shown(state.unwritten)}. The labels are safe "
            "in its journal.",
            soft_wrap=True,
        )


def _print_questions(questions: Sequence[Question], suspicious: int | None) -> None:
    """List images, each with its path on one line, to be copied."""
    if not questions:
        out.print("no label is suspicious" if suspicious == 0 else "every image has a label")
        return
    if suspicious:
        labels = "1 label is" if suspicious == 1 else f"{suspicious:,} labels are"
        out.print(f"\n[bold]{labels} likely wrong, the most suspicious first[/]")
    else:
        out.print("\n[bold]To label next, the most useful first[/]")
    paths = [shlex.quote(_typed(question)) for question in questions]
    for path, question in zip(paths, questions):
        text = f"labelled {question.label}" if question.label else _WHY[question.why]
        looks = f", looks like {question.suggested}" if question.suggested else ""
        line = f"  {path.ljust(max(map(len, paths)))}  {text}{looks}"
        out.print(shown(line), soft_wrap=True)


def _propose_answer(
    labelling: Labelling,
    questions: Sequence[Question],
    data: str,
    options: Sequence[str],
    *,
    reviewed: bool,
) -> None:
    """Propose the class that an image looks like, else the first; or to look for wrong labels."""
    for question in questions:
        why = "begin with any class in place of CLASS"
        if labelling.classes:
            why = "label an image, or several; --new makes a new class"
        if question.label:
            why = "correct the label, or confirm it with the same class"
        name = question.suggested or next(iter(labelling.classes), _PLACEHOLDER)
        propose(why, "label", data, _typed(question), "--as", name, *options)
    if not questions and not reviewed:
        propose("look for labels that are wrong", "label", data, "--review", *options)


def _typed(question: Question) -> str:
    """Write an image's file so that it is not taken for an option."""
    path = str(question.path)
    return f"./{path}" if path.startswith("-") else path
