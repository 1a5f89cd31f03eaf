"""Looking for problems of a data set, from its images or an exported file."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pipeline.analysis.classes import find_class_problems
from pipeline.analysis.labels import LabelProblems
from pipeline.analysis.problems import Problems, find_problems
from pipeline.data.confirmed import labels_file_of, labels_still_confirmed
from pipeline.data.urls import whole_name
from pipeline.errors import PipelineError
from pipeline.features.exchange import import_features, is_features_file
from pipeline.features.extractor import Extractor, extract
from pipeline.features.listener import Listener


def examine(
    data: str | Path,
    *,
    repeats: int = 2,
    extractor: Extractor | None = None,
    seed: int = 0,
    cross_validated: bool = False,
    listener: Listener | None = None,
) -> Problems:
    """Find what is or may be wrong with a data set; missing rows are computed first.

    Labels that were confirmed in a review are left out: where the data is a file of labels, or
    in the working directory there is the one that `pipeline label` keeps of it.

    Parameters
    ----------
    data : str or Path
        What `pipeline.load_dataset` takes, or a file that ``pipeline cache export`` wrote.
    repeats : int
        How often the learning curve is measured, which takes longest; 0 leaves it out.
    extractor : Extractor, optional
        How images become rows, and where rows are kept.
    seed : int
        Random seed of splits, folds and classifiers.
    cross_validated : bool
        Whether the images are in no splits, as in a run of a cross-validation.
    listener : Listener, optional
        Told how far the work is.

    Raises
    ------
    PipelineError
        The data cannot be read or learned from.
    """
    listener = listener or Listener()
    if is_features_file(data):
        dataset, _, rows = import_features(data)
    else:
        extraction = extract(data, extractor=extractor, seed=seed, hold=True, listener=listener)
        dataset, rows = extraction.dataset, extraction.rows()
        extraction.plan.release()
    listener.comparing()
    used = dataset.all_in("train") if cross_validated else dataset
    problems = find_problems(used, rows, repeats=repeats, seed=seed)
    problems = replace(problems, labels=_without_confirmed(problems, Path(data)))
    if not cross_validated:
        return problems
    judged = dataset.all_in("test")  # as a run of a cross-validation has it
    classes = find_class_problems(judged.targets.labels, judged.splits, judged.classes)
    return replace(problems, dataset=judged, classes=classes)


def _without_confirmed(problems: Problems, data: Path) -> LabelProblems:
    """Leave out the suspicious labels that somebody found right."""
    dataset, labels = problems.dataset, problems.labels
    right: dict[str, str] = {}
    for file in (data, labels_file_of(dataset.name)):
        with suppress(PipelineError):  # a file that cannot be read tells nothing
            right |= labels_still_confirmed(file)
    confirmed = {
        suspect
        for suspect in labels.suspects
        if right.get(whole_name(dataset.paths[suspect.place])) == dataset.classes[suspect.given]
    }
    return replace(
        labels,
        suspects=tuple(suspect for suspect in labels.suspects if suspect not in confirmed),
        confirmed=sum(suspect.likely for suspect in confirmed),
    )
