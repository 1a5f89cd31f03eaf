"""scikit-learn's own checks of our estimators."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from pipeline.heads.dense import DenseHead
from pipeline.heads.estimators import CoarseForest
from pipeline.heads.gram import DiscriminantAnalysis, NearestNeighbours, RbfSVM, Ridge


@parametrize_with_checks(
    [
        RbfSVM(),
        NearestNeighbours(5),
        Ridge(),
        DiscriminantAnalysis(),
        CoarseForest(10, bootstrap=False),
        DenseHead(epochs=12, units=16, learning_rate=0.02, batch_size=10),
    ]
)
def test_keeps_scikit_learns_contract(estimator, check):
    if isinstance(estimator, DenseHead) and check.keywords.get("readonly_memmap"):
        pytest.skip("check_readonly_memmap_input covers it; each network takes half a second")
    check(estimator)
