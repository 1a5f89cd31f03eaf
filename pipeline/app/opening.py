"""What the page needs, found and loaded: a run's model, a data set and its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.analysis.image_table import ImageTable
from pipeline.analysis.similarity import Gallery
from pipeline.app.labelling import Labelling
from pipeline.app.looking import Collection
from pipeline.app.site import Site
from pipeline.app.trying import Trial
from pipeline.data.dataset import Dataset
from pipeline.errors import PipelineError
from pipeline.features.computing import LateBackbone
from pipeline.features.extractor import Extractor
from pipeline.features.listener import Listener
from pipeline.models.opening import load_model
from pipeline.runs.images import open_images


def open_site(
    data: str | Path | Dataset | None = None,
    *,
    run: Path | None = None,
    head: str | None = None,
    trusted: Sequence[str] = (),
    label: bool = False,
    labels: Path | None = None,
    extractor: Extractor | None = None,
    listener: Listener | None = None,
) -> Site:
    """Load what the page shows; missing rows are computed first.

    Parameters
    ----------
    data : str, Path or Dataset, optional
        The images to look at, with labels or not.
    run : Path, optional
        A run, a model's own folder or an exported file: pictures can be tried on it. The images
        are then looked at by its features.
    head : str, optional
        Head of the run; the default is its best.
    trusted : sequence of str
        As for `Model.load`.
    label : bool
        Whether the images are labelled, too.
    labels : Path, optional
        The file that the labels are kept in, as for `Labelling`.
    extractor : Extractor, optional
        How images become rows where there is no run, and where rows are kept.
    listener : Listener, optional
        Told how far the work is.

    Raises
    ------
    PipelineError
        There is neither data nor run, or they cannot be used.
    """
    if data is None and run is None:
        raise PipelineError(
            "there is nothing to show.", fix="name DATA, or a run with --run, or both"
        )
    extractor = extractor or Extractor()
    model = load_model(run, head=head, trusted=trusted) if run is not None else None
    if model:
        extractor = replace(extractor, recipe=model.recipe)
        if extractor.forward is None and model.portable is None:
            extractor = replace(extractor, forward=LateBackbone(model.recipe, extractor.weights))
    labelling = None
    if label:
        if data is None or isinstance(data, Dataset):
            raise PipelineError("there are no images to label.", fix="name DATA")
        labelling = Labelling(data, labels=labels, extractor=extractor, listener=listener)
        data = labelling.dataset
    collection = None
    if data is not None:
        table = open_images(data, run=run, model=model, extractor=extractor, listener=listener)
        collection = _collect(table, labelling, extractor)
    trial = Trial(model, extractor, collection) if model else None
    if trial:  # TensorFlow is loaded here: while it is, nothing can be printed
        trial.warm_up()
    name = collection.dataset.name if collection else str(run and run.name)
    notes = (*collection.dataset.remarks, *collection.table.remarks) if collection else ()
    notes = labelling.remarks if labelling else notes
    if model and (remark := model.remark):
        notes = (*notes, f"{remark[0].upper()}{remark[1:]}.")
    return Site(name, trial, collection, notes, labelling)


def _collect(table: ImageTable, labelling: Labelling | None, extractor: Extractor) -> Collection:
    """Make images ready to be looked at; while they are labelled, with the labels by now."""
    if labelling:
        if table.dataset.digests != labelling.dataset.digests:
            raise PipelineError("the images changed while they were read.", fix="start again")
        table = replace(table, labels=labelling.labels)
    return Collection(table, Gallery(table.extraction, extractor=extractor))
