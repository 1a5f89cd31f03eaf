"""Pictures of a run, as PNG files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError
from pipeline.report.charts import smoothed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_DPI = 150
_DARK_FROM = 0.5
_NUMBERED_CLASSES = 30  # with more, the cells are too small for a number
_LONGEST_NAME = 30
_LONGEST_TITLE = 90
_SHEET_COLUMNS = 4


def draw_confusion(
    confusion: Sequence[Sequence[int]], classes: Sequence[str], title: str, file: Path
) -> None:
    """Draw a confusion matrix: shares of the true class as shades, counts as numbers.

    Parameters
    ----------
    confusion : sequence of sequence of int, shape (k, k)
        Rows are the truth, columns the prediction.
    classes : sequence of str
        The k class names.
    title : str
        What stands above it.
    file : Path
        PNG file to write.
    """
    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    every = -(-len(classes) // _NUMBERED_CLASSES)
    ticks = range(0, len(classes), every)
    names = [_printable(classes[tick], _LONGEST_NAME) for tick in ticks]
    side = 2 + 0.7 * min(len(classes), _NUMBERED_CLASSES) + 0.08 * max(map(len, names))
    figure = _figure(side + 0.8, side)
    axes = figure.subplots()
    shades = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shades, ax=axes, label="share of the true class", shrink=0.8)
    if len(classes) <= _NUMBERED_CLASSES:
        for (truth, predicted), count in np.ndenumerate(counts):
            colour = "white" if shares[truth, predicted] > _DARK_FROM else "black"
            axes.text(predicted, truth, f"{count:,}", ha="center", va="center", color=colour)
    axes.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, names)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(_printable(title, _LONGEST_TITLE), wrap=True)
    _save(figure, file)


def draw_history(
    history: Mapping[str, Sequence[float]],
    best_epoch: int,
    file: Path,
    phases: Sequence[int] = (),
) -> None:
    """Draw a network's learning curves: loss and accuracy by epoch.

    Parameters
    ----------
    history : mapping of str to sequence of float
        ``loss``, ``accuracy`` and, with validation, ``val_loss`` and ``val_accuracy``.
    best_epoch : int
        The epoch, from 1, whose weights were kept.
    file : Path
        PNG file to write.
    phases : sequence of int, optional
        Epochs after which layers were unfrozen.
    """
    figure = _figure(9, 3.6)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy")):
        epochs = range(1, len(history[name]) + 1)
        for curve, label in ((name, "training"), (f"val_{name}", "validation")):
            if curve in history:
                [raw] = axes.plot(epochs, history[curve], "o", markersize=3, alpha=0.4)
                axes.plot(epochs, smoothed(history[curve]), color=raw.get_color(), label=label)
        axes.axvline(best_epoch, color="grey", linestyle=":", label="weights kept")
        for epoch in phases:
            axes.axvline(epoch + 0.5, color="black", linewidth=0.8, label="layers unfrozen")
        axes.set(xlabel="epoch (dots: as measured; lines: smoothed)", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, file)


def draw_sheet(pictures: npt.NDArray[np.uint8], file: Path) -> None:
    """Draw pictures side by side, numbered from 0.

    Parameters
    ----------
    pictures : ndarray of uint8, shape (n, height, width, 3)
        The pictures.
    file : Path
        PNG file to write.

    Raises
    ------
    PipelineError
        The file cannot be written.
    """
    columns = min(len(pictures), _SHEET_COLUMNS)
    rows = -(-len(pictures) // columns)
    figure = _figure(2 * columns, 2.25 * rows)
    for number, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.axis("off")
        if number < len(pictures):
            axes.imshow(pictures[number])
            axes.set_title(str(number), fontsize=9)
    try:
        _save(figure, file)
    except OSError as error:
        raise PipelineError(f"cannot write {file}: {error.strerror or error}.") from error


def _figure(width: float, height: float) -> Figure:
    """Begin a figure; the size is in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=_DPI)


def _printable(text: str, longest: int) -> str:
    """Make any name one that can be drawn: in one line, not too long, and without formulas."""
    shown = "".join(char if char.isprintable() else "�" for char in text)
    if len(shown) > longest:
        shown = f"{shown[: longest - 1]}…"
    return shown.replace("$", r"\$")  # to Matplotlib, a bare $ begins a formula


def _save(figure: Figure, file: Path) -> None:
    with warnings.catch_warnings():
        # A class named in a script that the font lacks is drawn as boxes: no reason to complain.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(file)
