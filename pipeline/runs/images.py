"""The images of a data set with what is known of them, as a run has split and learned them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.analysis.image_table import ImageTable, check_column
from pipeline.backbones.recipe import Recipe
from pipeline.backbones.registry import get_backbone, remake_recipe
from pipeline.data.dataset import Dataset
from pipeline.data.loading import list_partly_labelled
from pipeline.errors import PipelineError
from pipeline.evaluation.protocol import Protocol
from pipeline.features.extractor import Extractor, extract
from pipeline.features.listener import Listener
from pipeline.models.model import Model
from pipeline.models.opening import load_model
from pipeline.runs.documents import RunDocument
from pipeline.runs.reading import read_run_document, run_of


def open_images(
    data: str | Path | Dataset,
    *,
    run: str | Path | None = None,
    model: Model | None = None,
    extractor: Extractor | None = None,
    seed: int = 0,
    column: str | None = None,
    listener: Listener | None = None,
) -> ImageTable:
    """List images, with labels or not, and compute the rows that are missing.

    Parameters
    ----------
    data : str, Path or Dataset
        As for `pipeline.load_dataset`; images may lack a label, as `Labelling` has it.
    run : str or Path, optional
        A run, or its model's own folder: the images have the run's splits, and the features and
        predicted classes of its best classifier, or of that model. An exported file elsewhere
        gives its features alone.
    model : Model, optional
        Another model of the run, as from `pipeline.load_model`.
    extractor : Extractor, optional
        Where rows are kept, and, where there is no model, how images become rows.
    seed : int
        Decides the splits, where none are given, and the check of labels; a run has its own.
    column : str, optional
        One that will be asked of the table: if it cannot have it, nothing is computed.
    listener : Listener, optional
        Told how far the work is.

    Raises
    ------
    PipelineError
        The images or the run cannot be read, or features not be computed.
    """
    extractor, protocol = extractor or Extractor(), Protocol()
    if run is not None:
        model = model or load_model(run)
        if folder := run_of(Path(run)):
            document = read_run_document(folder)
            protocol, seed = document.protocol, document.seed
    if model:
        extractor = replace(extractor, recipe=model.recipe)
    if not isinstance(data, Dataset):
        data = list_partly_labelled(data, seed=seed, cache=extractor.cache)
    if column is not None:
        check_column(column, protocol.judged(data), model)
    extraction = extract(data, extractor=extractor, learnable=False, listener=listener)
    dataset = protocol.judged(extraction.dataset)
    return ImageTable(replace(extraction, dataset=dataset), model, seed=seed)


def recipe_of(document: RunDocument) -> Recipe:
    """Return how a run's images become the rows by which they are compared with each other."""
    values = {name: value for name, value in document.recipe.items() if name != "fingerprint"}
    try:
        recipe = Recipe.from_fields(values)
    except ValueError as error:
        raise PipelineError(
            f"the run's settings of features cannot be read: {error}.", fix="make the run again"
        ) from error
    if next(head for head in document.heads if head.name == document.best).is_fine_tuned:
        return remake_recipe(recipe, layer=get_backbone(recipe.backbone).top)
    return recipe
