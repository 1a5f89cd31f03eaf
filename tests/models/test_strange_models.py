"""A model folder from a stranger: whatever is in it, loading it gives one error.

Digests are those of the damaged files, as somebody would write them who means harm.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import skops.io
from damaged import damage, make_other
from scipy.sparse import csr_array
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    BaggingClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
)
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KNeighborsClassifier, RadiusNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    Normalizer,
    StandardScaler,
)
from sklearn.semi_supervised import LabelPropagation, LabelSpreading
from sklearn.svm import SVC, LinearSVC
from test_model import RECIPE, change_manifest, fitted, put_head, saved, some_rows

from pipeline.errors import ModelError
from pipeline.models.checking import check_classifier, check_parts
from pipeline.models.model import Model

TORTURE = os.environ.get("TORTURE", "") not in ("", "0")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Give the folder of a sound model by its head's name; made once."""
    root = tmp_path_factory.mktemp("sound")
    return functools.cache(lambda name: saved(root / name, name))


def sign(folder, file):
    digest = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    change_manifest(folder, lambda manifest: manifest["files"].update({file: digest}))


LOADER = """
import resource, sys
from pathlib import Path
import numpy as np
from pipeline.errors import ModelError
from pipeline.models.model import Model
resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
for folder in sys.argv[1:]:
    print(folder, end=" ", flush=True)
    try:
        model = Model.load(Path(folder))
        rows = np.random.default_rng(0).random((50, *model.recipe.shape), np.float32)
        print("loaded", np.isfinite(model.probabilities(rows)).all(), flush=True)
    except ModelError as error:
        print("refused", flush=True)
    except BaseException as error:
        print(type(error), flush=True)
"""


def load_elsewhere(folders):
    """Load models in a process of its own, and in another where that dies; say what came of it."""
    outcomes, left = {}, [str(folder) for folder in folders]
    while left:
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.Popen(
                [sys.executable, "-c", LOADER, *left],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                text=True,
            )
            said, _ = done.communicate(timeout=120 if len(left) > 1 else 60)
        if done.poll() is None:
            done.kill()
            said, _ = done.communicate()
        for line in said.splitlines():
            folder, _, outcome = line.partition(" ")
            outcomes[Path(folder).name] = outcome or f"ended the process: {done.returncode}"
            left.remove(folder)
        assert said, done.returncode
    return outcomes


def is_refused(folder):
    with pytest.raises(ModelError) as error:
        Model.load(folder)
    assert str(folder) in error.value.found
    return str(error.value)


# What was fitted, but is not a head


def on_rows(estimator, *, classes=2, width=2048):
    rows, labels = some_rows(40, classes)
    return make_pipeline(FunctionTransformer(np.float64), estimator).fit(
        rows.reshape(40, -1)[:, :width], labels
    )


def with_classes(names):
    head = fitted("logistic").estimator
    head.steps[-1][1].classes_ = np.array(names)
    return head


def with_number(value):
    head = fitted("logistic").estimator
    head.steps[-1][1].coef_[0, 7] = value
    return head


OTHER_HEADS = {
    "no estimator": lambda: {"a": 1},
    "a regressor": lambda: on_rows(Ridge()),
    "a mixture": lambda: on_rows(GaussianMixture(2)),
    "no probabilities": lambda: on_rows(SVC()),
    "not fitted": lambda: make_pipeline(Normalizer(), LogisticRegression()),
    "fewer columns": lambda: on_rows(LogisticRegression(), width=100),
    "more classes": lambda: on_rows(LogisticRegression(), classes=3),
    "other classes": lambda: with_classes([0, 2]),
    "doubled classes": lambda: with_classes([1, 1]),
    "classes by name": lambda: with_classes(["a", "b"]),
    "NaN": lambda: with_number(np.nan),
    "infinity": lambda: with_number(np.inf),
}


@pytest.mark.parametrize("kind", OTHER_HEADS)
def test_what_is_no_fitted_head_of_the_manifests_classes_is_refused(sound, tmp_path, kind):
    folder = shutil.copytree(sound("logistic"), tmp_path / "model")
    put_head(folder, OTHER_HEADS[kind]())
    assert "cannot be loaded" in is_refused(folder)


@pytest.mark.parametrize("classes", [["same", "same"], ["one"], []])
def test_classes_of_the_manifest_that_are_not_two_different_ones_are_refused(
    sound, tmp_path, classes
):
    folder = shutil.copytree(sound("logistic"), tmp_path / "model")
    change_manifest(folder, lambda manifest: manifest.update(classes=classes))
    assert "two or more different names" in is_refused(folder)


# Numbers that compiled code believes: each of these ended the process, or could


def forest(change):
    head = fitted("random-forest").estimator
    for tree in head.steps[-1][1].estimators_:
        state = tree.tree_.__getstate__()
        change(state)
        tree.tree_.__setstate__(state)
    return head


def nodes_with(**fields):
    def change(state):
        state["nodes"] = state["nodes"].copy()
        for name, value in fields.items():
            state["nodes"][name][0] = value

    return forest(change)


def boosted(**fields):
    head = on_rows(HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=2))
    for [predictor] in head.steps[-1][1]._predictors:
        for name, value in fields.items():
            predictor.nodes[name][0] = value
    return head


def gradient_boosted(change, classes=2):
    head = on_rows(GradientBoostingClassifier(n_estimators=2), classes=classes)
    change(head.steps[-1][1])
    return head


def machine(change, kind="rbf-svm"):
    head = fitted(kind).estimator
    change(head.steps[-1][1]._fitted)
    return head


def plain_svm(change):
    rows, labels = some_rows(40, 2)
    head = fitted("linear-svm").estimator
    svm = SVC().fit(rows.reshape(40, -1), labels)
    change(svm)
    head.steps[-1][1].calibrated_classifiers_[0].estimator = svm
    return make_pipeline(Normalizer(), head.steps[-1][1])


def neighbours(change):
    head = on_rows(KNeighborsClassifier(3, algorithm="brute"))
    change(head.steps[-1][1])
    return head


def kept(change):
    head = fitted("rbf-svm").estimator
    change(head.steps[-1][1])
    return head


def put(name, value):
    return lambda part: setattr(part, name, value)


def far_column(part):
    rows = part.kept_.copy()
    rows.indices[:] = 10**9
    part.kept_ = rows


def _trees_of_other_rows():
    head = fitted("random-forest").estimator
    rows, labels = some_rows(40, 2)
    other = type(head.steps[-1][1])(5).fit(np.tile(rows.reshape(40, -1), 50), labels)
    head.steps[-1][1].estimators_ = other.estimators_
    return head


def _no_nodes():
    head = boosted()
    for [predictor] in head.steps[-1][1]._predictors:
        predictor.nodes = predictor.nodes[:0]
    return head


def _tree_of_boosting():
    return on_rows(GradientBoostingClassifier(n_estimators=2)).steps[-1][1].estimators_


COMPILED = {
    "a child far away": lambda: nodes_with(left_child=10**9),
    "a child before its parent": lambda: nodes_with(left_child=-7),
    "a circle": lambda: nodes_with(left_child=0, right_child=0),
    "a feature far away": lambda: nodes_with(feature=10**9),
    "a negative feature": lambda: nodes_with(feature=-5),
    "no nodes": lambda: forest(lambda state: state.update(node_count=0)),
    "NaN in leaves": lambda: forest(lambda state: state["values"].fill(np.nan)),
    "trees of other rows": _trees_of_other_rows,
    "boosting, a child far away": lambda: boosted(left=10**9),
    "boosting, a circle": lambda: boosted(left=0, right=0, is_leaf=0),
    "boosting, a feature far away": lambda: boosted(feature_idx=10**9),
    "boosting, categories": lambda: boosted(is_categorical=1, bitset_idx=10**6),
    "boosting, no nodes": _no_nodes,
    "gradient boosting, other classes": lambda: gradient_boosted(
        put("init_", gradient_boosted(lambda part: None).steps[-1][1].init_), classes=3
    ),
    "gradient boosting, more trees": lambda: gradient_boosted(
        put("estimators_", np.tile(_tree_of_boosting(), (1, 9)))
    ),
    "support far away": lambda: machine(put("support_", np.full(40, 10**9, np.int32))),
    "support counts": lambda: machine(put("_n_support", np.array([10**6, 10**6], np.int32))),
    "negative support counts": lambda: machine(put("_n_support", np.array([-9, 49], np.int32))),
    "too few coefficients": lambda: machine(put("_dual_coef_", np.ones((1, 2)))),
    "no intercept": lambda: machine(put("_intercept_", np.empty(0))),
    "one more class": lambda: machine(put("classes_", np.arange(9))),
    "narrow support vectors": lambda: plain_svm(put("support_vectors_", np.ones((40, 1)))),
    "another machine": lambda: plain_svm(put("_impl", "one_class")),
    "labels far away": lambda: neighbours(put("_y", np.full(40, 10**9))),
    "labels below zero": lambda: neighbours(put("_y", np.full(40, -(10**9)))),
    "too few labels": lambda: neighbours(put("_y", np.zeros(1, int))),
    "columns far away": lambda: kept(far_column),
}


@pytest.fixture(scope="module")
def compiled(sound, tmp_path_factory):
    root = tmp_path_factory.mktemp("compiled")
    folders = [
        shutil.copytree(sound("logistic"), root / name.replace(" ", "-")) for name in COMPILED
    ]
    for folder, make in zip(folders, COMPILED.values(), strict=True):
        put_head(folder, make())
    return load_elsewhere(folders)


@pytest.mark.parametrize("kind", COMPILED)
def test_indices_that_would_crash_the_process_are_refused(compiled, kind):
    assert compiled[kind.replace(" ", "-")] == "refused"


# Files that declare what is not there


def rewrite(folder, change):
    """Write `head.skops` again, with its members as `change` leaves them."""
    with zipfile.ZipFile(folder / "head.skops") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    options = change(members) or {}
    with zipfile.ZipFile(folder / "head.skops", "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    sign(folder, "head.skops")


def array_names(members):
    return [name for name in members if name.endswith(".npy")]


def long_header(members):
    file = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**10,)}
    np.lib.format.write_array_header_1_0(file, header)
    members[array_names(members)[0]] = file.getvalue()


def deflated(members):
    members["more.npy"] = bytes(10**8)
    return {"compression": zipfile.ZIP_DEFLATED}


def bomb_of_sparse_rows(members):
    name = next(name for name in members if name.endswith(".npz"))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in ("indices", "indptr", "data"):
            array = io.BytesIO()
            np.save(array, np.zeros(10**8, np.int32))
            archive.writestr(f"{part}.npy", array.getvalue())
    members[name] = file.getvalue()


def deep_schema(members):
    members["schema.json"] = b'{"a":' * 10**6 + b"1" + b"}" * 10**6


def schema(change):
    def apply(members):
        document = json.loads(members["schema.json"])
        change(document)
        members["schema.json"] = json.dumps(document).encode()

    return apply


def doubling(document):
    """Make a list of lists of lists, each of which holds the next twice, by its number."""
    part = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode"}
    inner = {**part, "content": [], "__id__": 1}
    for number in range(2, 60):
        inner = {**part, "content": [inner, {**part, "content": [], "__id__": number - 1}]}
        inner["__id__"] = number
    document["content"]["content"]["more"] = inner


def tree_for(outputs, *, by_number=False):
    def change(document):
        tree = next(part for part in parts(document) if part.get("__loader__") == "TreeNode")
        number = tree["__reduce__"]["args"]["content"][2]
        other = {**number, "content": str(outputs), "__id__": -1}
        if by_number:
            number["__id__"] = -1
            first = document["content"]["content"]
            document["content"]["content"] = {"more": other, **first}
        else:
            number.update(other)

    return change


def parts(document):
    if isinstance(document, dict):
        yield document
    for part in document.values() if isinstance(document, dict) else document:
        if isinstance(part, dict | list):
            yield from parts(part)


FILES = {
    "an array of 80 GB": ("logistic", long_header),
    "a hundred times its size": ("logistic", deflated),
    "sparse rows of 1.2 GB": ("rbf-svm", bomb_of_sparse_rows),
    "a deep schema": ("logistic", deep_schema),
    "a schema of another kind": ("logistic", lambda members: members.update({"schema.json": b"3"})),
    "no schema": ("logistic", lambda members: members.pop("schema.json") and None),
    "a file missing": ("logistic", lambda members: members.pop(array_names(members)[0]) and None),
    "an object that doubles": ("logistic", schema(doubling)),
    "a tree of many outputs": ("random-forest", schema(tree_for(10**8))),
    "many outputs by number": ("random-forest", schema(tree_for(10**8, by_number=True))),
}


@pytest.fixture(scope="module")
def files(sound, tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    folders = []
    for kind, (name, change) in FILES.items():
        folders.append(shutil.copytree(sound(name), root / kind.replace(" ", "-")))
        rewrite(folders[-1], change)
    return load_elsewhere(folders)


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_declares_what_it_does_not_hold_is_refused(files, kind):
    assert files[kind.replace(" ", "-")] == "refused"


def test_sparse_rows_that_are_all_alike_are_loaded(tmp_path):
    model = fitted("rbf-svm")
    machine = model.estimator.steps[-1][1]
    machine.kept_ = csr_array(np.tile(machine.kept_.toarray()[:1], (len(machine.support_), 1)))
    model.save(tmp_path / "model")
    assert Model.load(tmp_path / "model").classes == model.classes


# Keras's files


def keep(change, **options):
    def apply(file):
        array = file["layers/dense/vars/0"]
        content, shape = array[()], array.shape
        del file["layers/dense/vars/0"]
        change(file["layers/dense/vars"], content, shape, **options)

    return apply


def spoil(value):
    def change(file):
        file["layers/dense/vars/0"][0, 0] = value

    return change


WEIGHTS = {
    "NaN": spoil(np.nan),
    "infinity": spoil(-np.inf),
    "missing": lambda file: file.pop("layers"),
    "soft link": keep(lambda group, *_: group.update({"0": h5py.SoftLink("/optimizer/vars/2")})),
    "external link": keep(lambda group, *_: group.update({"0": h5py.ExternalLink("/x", "/y")})),
    "external storage": keep(
        lambda group, content, shape: group.create_dataset(
            "0", shape, "f4", external=[("/dev/zero", 0, content.nbytes)]
        )
    ),
    "never written": keep(lambda group, content, shape: group.create_dataset("0", shape, "f4")),
    "terabytes": keep(
        lambda group, *_: group.create_dataset("0", (10**6, 10**6), "f4", chunks=(1000, 1000))
    ),
    "compressed": keep(
        lambda group, content, _: group.create_dataset("0", data=content, compression="gzip")
    ),
    "texts": keep(lambda group, *_: group.create_dataset("0", data=["a", "b"])),
    "a group in itself": lambda file: file["layers"].update({"more": file["layers"]}),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_that_are_not_plain_finite_numbers_are_refused(sound, tmp_path, kind):
    folder = shutil.copytree(sound("dense"), tmp_path / "model")
    with h5py.File(folder / "head.weights.h5", "r+") as file:
        WEIGHTS[kind](file)
    sign(folder, "head.weights.h5")
    assert "cannot be loaded" in is_refused(folder)


@pytest.mark.parametrize("units", [10**9, 0, -1, "8", None, 1.5, 10**400])
def test_a_network_that_is_larger_than_its_weights_is_not_built(sound, tmp_path, units):
    folder = shutil.copytree(sound("dense"), tmp_path / "model")
    change_manifest(folder, lambda manifest: manifest["parameters"].update(units=units))
    assert "units are not in" in is_refused(folder)


@pytest.mark.parametrize("size", [32_000, 10**6, 10**12])
def test_a_model_for_pictures_that_fill_memory_is_refused(sound, tmp_path, size):
    folder = shutil.copytree(sound("logistic"), tmp_path / "model")
    put_head(folder, DummyClassifier().fit([[0], [1]], [0, 1]))  # takes rows of any length

    def grow(manifest):
        manifest["recipe"].update(size=size, shape=[size // 32, size // 32, 512])

    change_manifest(folder, grow)
    assert "features that this installation cannot make" in is_refused(folder)


# What is not a file


@pytest.mark.parametrize("file", ["manifest.json", "head.skops"])
@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "socket"])
def test_what_is_not_a_regular_file_is_refused(sound, tmp_path, file, kind):
    folder = shutil.copytree(sound("logistic"), tmp_path / "model")
    (folder / file).unlink()
    make_other(folder / file, kind)
    assert f"{file} cannot be read" in is_refused(folder)


# Anything


@pytest.mark.parametrize("signed", [False, True])
def test_a_damaged_manifest_is_one_error_or_does_no_harm(sound, tmp_path, signed):
    folder = shutil.copytree(sound("logistic"), tmp_path / "model")
    file, refused = folder / "manifest.json", 0
    whole = file.read_bytes()
    for seed in range(1000 if TORTURE else 40):
        file.write_bytes(damage(whole, seed))
        if signed:
            with contextlib.suppress(
                ValueError, LookupError, TypeError, AttributeError, RecursionError
            ):
                change_manifest(folder, lambda manifest: None)
        try:
            model = Model.load(folder)
        except ModelError:
            refused += 1
        else:
            rows, _ = some_rows(2, 2)
            assert np.isfinite(model.probabilities(rows)).all()
            json.dumps([model.classes, model.head, model.trained_on], allow_nan=False)
    assert refused > 5


@pytest.mark.parametrize("name", ["logistic", "random-forest", "rbf-svm", "dense"])
def test_bytes_changed_anywhere_are_refused_or_do_no_harm(sound, tmp_path, name):
    """Some changes are not to be seen: of a weight, say. What is loaded gives probabilities."""
    folder = shutil.copytree(sound(name), tmp_path / "model")
    [file] = {file.name for file in folder.iterdir()} - {"manifest.json"}
    code = f"""
import random, sys
sys.path[:0] = [{str(ROOT / "tests")!r}, {str(Path(__file__).parent)!r}]
from pathlib import Path
from test_strange_models import mutate
print(mutate(Path({str(folder)!r}), {file!r}, {75 if TORTURE else 5}))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800 if TORTURE else 300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def mutate(folder, file, times):
    """Change bytes of a head's file, in its arrays as well as around them; count refusals."""
    whole = (folder / file).read_bytes()
    rows, _ = some_rows(5, 2)
    refused = 0
    for seed in range(times):
        rng = random.Random(seed)
        if file.endswith(".skops") and rng.random() < 0.8:  # within a member, so that it is whole
            (folder / file).write_bytes(whole)
            rewrite(folder, functools.partial(_change_member, rng=rng))
        else:
            content = bytearray(whole)
            for _ in range(rng.choice([1, 3, 30])):
                content[rng.randrange(len(content))] = rng.randrange(256)
            (folder / file).write_bytes(content)
            sign(folder, file)
        try:
            assert np.isfinite(Model.load(folder).probabilities(rows)).all()
        except ModelError:
            refused += 1
    return refused


def _change_member(members, rng):
    name = rng.choice(["schema.json", *members])
    content = bytearray(members[name])
    for _ in range(rng.choice([1, 3, 30])):
        content[rng.randrange(len(content))] = rng.choice([0, 1, 127, 255, rng.randrange(256)])
    members[name] = bytes(content)


def test_a_model_whose_probabilities_are_no_numbers_gives_none(sound):
    model = Model.load(sound("logistic"))
    rows, _ = some_rows(3, 2)
    model.estimator.steps[-1][1].intercept_[:] = np.nan
    with pytest.raises(ModelError, match="does not give probabilities"):
        model.probabilities(rows)


ORDINARY = {
    "a selection among constant columns": lambda: make_pipeline(
        SelectKBest(k=20), LogisticRegression()
    ),
    "isotonic calibration": lambda: CalibratedClassifierCV(LinearSVC(), method="isotonic", cv=2),
    "bags that hold every row": lambda: BaggingClassifier(n_estimators=2, oob_score=True),
    "bins": lambda: make_pipeline(KBinsDiscretizer(3), LogisticRegression()),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ORDINARY)
def test_an_ordinary_head_may_hold_numbers_that_are_not_finite(kind):
    rows = np.maximum(0, np.random.default_rng(0).normal(size=(60, 40))).astype(np.float32)
    rows[:, :10] = 0
    head = ORDINARY[kind]().fit(rows, np.arange(60) % 2)
    check_parts(head)
    check_classifier(head, 40, 2)


NEAR_ONLY = {
    "neighbours within a radius": lambda: RadiusNeighborsClassifier(radius=30),
    "labels that spread": lambda: LabelSpreading(gamma=0.01),
    "labels that propagate, after scaling": lambda: make_pipeline(
        StandardScaler(), LabelPropagation(gamma=0.01)
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", NEAR_ONLY)
def test_a_head_that_only_knows_rows_like_those_that_it_learned_from_is_loaded(tmp_path, kind):
    rows, labels = some_rows(60, 2)
    head = NEAR_ONLY[kind]().fit(rows.reshape(60, -1), labels)
    Model(RECIPE, "own", ("a", "b"), head).save(tmp_path / "model")
    types = skops.io.get_untrusted_types(file=tmp_path / "model" / "head.skops")
    model = Model.load(tmp_path / "model", trusted=types)
    p = model.probabilities(rows)
    assert np.array_equal(p, head.predict_proba(rows.reshape(60, -1)))
    far = np.full_like(rows[:2], 1e6)
    with pytest.raises(ModelError, match=r"cannot be applied to these images|finite numbers"):
        model.probabilities(far)
