"""The parts of a run that are not needed to use it."""

from __future__ import annotations

from functools import partial

from pipeline.analysis.examples import find_examples
from pipeline.classification.rows import Rows
from pipeline.runs.run import Run, with_optional_parts


def add_extras(run: Run, rows: Rows) -> tuple[Run, KeyboardInterrupt | None]:
    """Add what may be wrong with the data, and some test images looked at closely.

    The heads are done by now, so nothing that happens here may lose them: `Run.left_out` notes
    what failed.
    """
    best = run.best
    # The maxima of every layer have no places: where in a picture, another classifier shows.
    seeing = (result for result in run.ranked if result.model.recipe == run.recipe)
    mapped = next(seeing, None)
    return with_optional_parts(
        run,
        {
            "problems": lambda: rows.find_problems(best),
            "examples": lambda: find_examples(
                best.model,
                run.dataset,
                best.probabilities,
                partial(rows.read, run.recipe),
                rows.blocks(run.recipe),
                predicted=best.predicted,
                mapped=mapped.model if mapped else None,
            ),
        },
    )
