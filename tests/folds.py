"""What candidates of a head predict out of fold."""

from dataclasses import replace

import numpy as np
from sklearn.model_selection import StratifiedKFold

from pipeline.classification.search import Fold, LabelledRows, PreparedRows, judge_folds
from pipeline.heads.registry import get_head

QUICK = {  # fewer of what takes long
    "mlp": {"epochs": 3},
    "random-forest": {"n_estimators": 5},
}


def folds_of(labels, count=3):
    split = StratifiedKFold(count, shuffle=True, random_state=1).split(labels, labels)
    return [Fold(*fold) for fold in split]


def quick(name, shape=None, pools=("flatten",)):
    """The head, with fewer of what takes long."""
    head = get_head(name).with_pools(pools, shape)
    grid = tuple({**params, **QUICK.get(name, {})} for params in head.grid)
    return replace(head, grid=grid)


def out_of_fold(head, rows, labels, folds, *, classes=None, groups=None, **options):
    """What `judge_folds` predicts for each row, by candidate; NaN where no fold judges it."""
    rows = rows if isinstance(rows, PreparedRows) else PreparedRows(rows)
    classes = labels.max() + 1 if classes is None else classes
    data = LabelledRows(rows, labels, classes, groups)
    p = np.full((len(head.grid), len(labels), classes), np.nan)
    for place, of_folds in enumerate(judge_folds(head, data, folds, **options)):
        for fold, part in zip(folds, of_folds, strict=True):
            p[place, fold.judged] = part
    return p
