"""Looking for problems of a data set, from its images or an exported file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.analysis.classes import find_class_problems
from pipeline.analysis.problems import Problems, find_problems
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
        dataset, _, rows = import_features(Path(data))
    else:
        extraction = extract(data, extractor=extractor, seed=seed, hold=True, listener=listener)
        dataset, rows = extraction.dataset, extraction.rows()
        extraction.plan.release()
    listener.comparing()
    if not cross_validated:
        return find_problems(dataset, rows, repeats=repeats, seed=seed)
    problems = find_problems(dataset.all_in("train"), rows, repeats=repeats, seed=seed)
    judged = dataset.all_in("test")  # as a run of a cross-validation has it
    classes = find_class_problems(judged.targets.labels, judged.splits, judged.classes)
    return replace(problems, dataset=judged, classes=classes)
