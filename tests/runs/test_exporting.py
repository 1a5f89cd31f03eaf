"""Models of real runs as files and folders: the same answers where this project is not."""

import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from conftest import classify, files_in, paint, paint_classes
from PIL import Image
from PIL.ExifTags import Base as Tag
from typer.testing import CliRunner

from pipeline.analysis.sentences import NOT_LOOKED_FOR
from pipeline.backbones.registry import make_recipe
from pipeline.cli.main import app
from pipeline.data.augmentation import PRESETS
from pipeline.data.loading import load_dataset
from pipeline.data.targets import Targets
from pipeline.data.urls import Url
from pipeline.errors import ModelError, PipelineError
from pipeline.evaluation.protocol import Protocol
from pipeline.features.extractor import Extractor
from pipeline.models.export import export_model
from pipeline.models.files import find_model
from pipeline.models.model import Model
from pipeline.models.parity import Parity
from pipeline.models.portable import Portable
from pipeline.runs.documents import KeptPicture, PicturesDocument
from pipeline.runs.exporting import export_run
from pipeline.runs.folder import fill_folder
from pipeline.runs.model_card import write_card
from pipeline.runs.reading import read_run
from pipeline.system.documents import to_json

FEW_RED = Targets(np.array([0, 0, 1]), ("blue", "red"))
RECIPE = make_recipe("efficientnet-lite0", size=64, precision="float32")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on small photographs of two classes, with the real EfficientNet-Lite0."""
    folder = tmp_path_factory.mktemp("exported")
    data = load_dataset(paint_classes(folder / "photos", 30))
    heads = ["logistic", "sklearn.naive_bayes:GaussianNB"]
    kept = {"cache": folder / "cache", "runs": folder / "runs"}
    return classify(data, heads, recipe=RECIPE, threshold="recall=0.9", **kept).folder


@pytest.fixture(scope="module")
def handed_on(run):
    """The folder that is handed on, for all tests of it."""
    folder = run.parent / "handed on"
    return export_run(run, "folder", folder, head="logistic")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of every kind that is decoded by a rule of its own."""
    folder = tmp_path_factory.mktemp("pictures")
    colour = Image.open(paint(folder / "plain.png", (180, 70, 70), 7, side=90))
    colour.save(folder / "photo.jpg", quality=90)
    colour.convert("CMYK").save(folder / "cmyk.jpg")
    exif = Image.Exif()
    exif[Tag.Orientation] = 6
    colour.crop((0, 0, 90, 60)).save(folder / "turned.jpg", exif=exif)
    alpha = colour.copy()
    alpha.putalpha(colour.convert("L"))
    alpha.save(folder / "alpha.png")
    deep = np.linspace(0, 65535, 80 * 70).reshape(80, 70).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.tif")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def elsewhere(handed_on, tmp_path_factory):
    """A Python that has what the folder's requirements name, and nothing else."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    place = folder / ("Scripts" if sys.platform == "win32" else "bin")
    done = run_python(place / "pip", "install", "-q", "-r", handed_on.path / "requirements.txt")
    if done.returncode:
        tiny = run_python(place / "pip", "download", "-q", "--no-deps", "-d", folder, "iniconfig")
        # Where another package can be had, the requirements are wrong.
        assert tiny.returncode, done.stderr
        pytest.skip(f"the package index cannot be reached: {tiny.stderr.strip()[-200:]}")
    return place / "python"


def run_python(python, *arguments):
    command = [python, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)


def probabilities(model, files):
    found = model.predict(files, extractor=Extractor(RECIPE))
    return np.array([list(item.probabilities.values()) for item in found])


def test_where_only_its_requirements_are_the_folder_gives_the_same_answers(
    run, handed_on, pictures, elsewhere, tmp_path
):
    moved = shutil.copytree(handed_on.path, tmp_path / "at another place")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no picture")
    files = [*pictures, broken]
    done = run_python(elsewhere, moved / "predict.py", *files, "--json")
    assert done.returncode == 3, done.stderr
    items = json.loads(done.stdout)
    model = Model.load(find_model(run, "logistic"))
    expected = list(model.predict(files, extractor=Extractor(RECIPE)))
    assert [item["label"] for item in items] == [item.label for item in expected]
    assert [item["error"] for item in items] == [item.error for item in expected]
    for item, own in zip(items[:-1], expected):
        for name, p in own.probabilities.items():
            assert abs(item["probabilities"][name] - p) < 1e-4
    plain = run_python(elsewhere, moved / "predict.py", pictures[0])
    assert plain.returncode == 0
    assert plain.stdout.split("\t")[1] == expected[0].label
    installed = run_python(elsewhere, "-c", "import tensorflow")
    assert "No module named 'tensorflow'" in installed.stderr


AS_IF_INSTALLED = """
import re, runpy, sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

folder = Path(sys.argv[1])
own = lambda requirement: re.match(r"[\\w-]+", requirement).group().lower().replace("_", "-")
waiting = [own(line) for line in (folder / "requirements.txt").read_text().splitlines()]
installed = set()
while waiting:
    name = waiting.pop()
    if name not in installed:
        installed.add(name)
        waiting += [own(line) for line in requires(name) or () if "extra ==" not in line]
refused = {
    module
    for module, names in packages_distributions().items()
    if module != "pipeline" and not any(own(name) in installed for name in names)
}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Refuse())
sys.path.insert(0, str(folder))
sys.argv[:2] = [str(folder / "predict.py")]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def with_views(handed_on, tmp_path_factory):
    """A folder that is handed on, of a model that averages views, and the model."""
    mild = PRESETS["mild"].name
    model = dataclasses.replace(handed_on.model, views=3, augmentation=mild)
    folder = tmp_path_factory.mktemp("views")
    drawn = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    export_model(model, "onnx", folder / "model.onnx", drawn, about={"model": ""})
    fill_folder(folder, model, None, ["it was checked"])
    return folder, model


def test_a_model_that_averages_views_needs_no_more_than_its_requirements(with_views, pictures):
    folder, model = with_views
    script = ["-c", AS_IF_INSTALLED, folder, *pictures, "--json"]
    done = run_python(sys.executable, *script)
    assert done.returncode == 0, done.stderr
    found = [list(item["probabilities"].values()) for item in json.loads(done.stdout)]
    assert np.abs(np.array(found) - probabilities(model, pictures)).max() < 1e-4


def test_an_image_that_is_not_that_of_the_run_is_not_used(run, tmp_path):
    moved = shutil.copytree(run, tmp_path / "run")
    paths = next(iter(read_run(run).predictions.values())).paths
    other = KeptPicture(sha256="0" * 64, jpeg=b"\xff\xd8\xff")
    document = PicturesDocument(images=dict.fromkeys(paths, other))
    (moved / "pictures.json").write_text(to_json(document))
    made = export_run(moved, "keras", tmp_path / "model.keras", head="logistic")
    assert (made.images, made.parity.pictures) == (0, 32)
    assert any("changed since the run" in text for text in made.sentences())


def test_what_views_need_is_installed_for_models_that_average_them_only(with_views, handed_on):
    for folder, more in ((with_views[0], {"scipy"}), (handed_on.path, set())):
        pins = (folder / "requirements.txt").read_text().split()
        assert {pin.split("==")[0] for pin in pins} == {"numpy", "onnxruntime", "pillow"} | more
        assert ("SciPy" in (folder / "README.md").read_text()) == bool(more)


def test_its_decoded_pixels_are_the_very_bytes_of_this_program(handed_on, pictures, elsewhere):
    script = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1]);"
        "from pathlib import Path; from pipeline.models.portable import Portable;"
        "model = Portable.load(Path(sys.argv[1], 'model.onnx'));"
        "[print(hashlib.sha256(model.pixels(Path(own).read_bytes())).hexdigest())"
        " for own in sys.argv[2:]]"
    )
    done = run_python(elsewhere, "-c", script, handed_on.path, *pictures)
    expected = [
        hashlib.sha256(RECIPE.decode(picture.read_bytes())).hexdigest() for picture in pictures
    ]
    assert done.stdout.split() == expected, done.stderr
    assert len(set(expected)) == len(pictures) == 6


def test_what_it_installs_takes_less_than_200_megabytes(handed_on, elsewhere):
    everything = [*elsewhere.parent.parent.rglob("*"), *handed_on.path.rglob("*")]
    files = [path for path in everything if path.is_file() and "/pip" not in path.as_posix()]
    assert sum(path.stat().st_size for path in files) < 200e6


def test_the_folder_has_nothing_but_what_it_needs(handed_on):
    assert {name.split("/")[0] for name in files_in(handed_on.path)} == {
        "LICENSE",
        "README.md",
        "labels.json",
        "model.onnx",
        "pipeline",
        "predict.py",
        "requirements.txt",
    }
    for name in files_in(handed_on.path / "pipeline"):
        copied = handed_on.path / "pipeline" / name
        original = Path(sys.modules["pipeline"].__file__).parent / name
        assert copied.read_bytes() == original.read_bytes()
    labels = json.loads((handed_on.path / "labels.json").read_text())
    assert labels["classes"] == ["blue", "red"]
    assert 0 < labels["threshold"] < 1


def test_the_model_card_has_the_figures_of_the_run(run, handed_on):
    card = (handed_on.path / "README.md").read_text()
    test = next(head for head in read_run(run).heads if head.name == "logistic").test
    assert f"| accuracy | {test.accuracy:.3f} | {test.accuracy_low:.3f} to" in card
    assert "recall of blue" in card
    assert "Do not use it for" in card
    assert "python predict.py picture.jpg" in card
    assert "chosen for recall" in card
    assert "checked in its own runtime on 32 images of the run" in card


def test_names_of_classes_do_nothing_in_the_model_card(run):
    record = read_run(run)
    model = Model.load(find_model(run, "logistic"))
    names = ("<img src=x>", "[a](http://b) | `c`")
    card = write_card(dataclasses.replace(model, classes=names), record, names)
    assert not re.search(r"(?<!\\)(<img|\[a\]\()", card)
    assert r"\<img src=x\>, \[a\]" in card


@pytest.mark.parametrize(
    ("remark", "left"),
    [
        (Protocol().remarks_on(FEW_RED)[0], "The positive class is red, the rarer one."),
        (
            "Cross-validated, since only 2 images are of a; --no-cv keeps the splits.",
            "Cross-validated, since only 2 images are of a.",
        ),
        ("5 images are dark: --white 4095 makes that value white", "5 images are dark."),
        ("of 9, none is in 16-bit grey, which alone --white changes; others may be", ""),
        (
            NOT_LOOKED_FOR + " copies. `pipeline problems DATA --run RUN`, with the same options, "
            "does, and adds them to the report.",
            NOT_LOOKED_FOR + " copies.",
        ),
        (
            "The class a-b -- c has 0.95 of them; look.",
            "The class a-b -- c has 0.95 of them; look.",
        ),
    ],
)
def test_the_model_card_speaks_of_no_option_that_its_receiver_lacks(run, remark, left):
    record = read_run(run)
    document = msgspec.structs.replace(record.document, remarks=(remark,))
    record = dataclasses.replace(record, document=document, problems=None)
    card = write_card(Model.load(find_model(run, "logistic")), record, [])
    _, _, listed = card.partition("To know of the data:")
    if left:
        assert listed.split("\n")[2] == f"- {left}"
    else:
        assert not listed
    said = card.replace("predict.py folder/of/pictures --json", "")
    assert not re.search("--[a-z]|`pipeline [a-z]", said)


def test_a_file_is_checked_on_the_runs_images(handed_on):
    assert handed_on.images == 32
    assert handed_on.parity.difference < 1e-4
    assert "checked in its own runtime on 32 images of the run" in handed_on.sentences()[0]
    portable = Portable.load(handed_on.path / "model.onnx")
    assert portable.threshold == handed_on.model.threshold


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("onnx", {"precision": "float32"}, []),
        (
            "onnx",
            {"precision": "bfloat16"},
            ["bfloat16, the file in float32", "2 images are called otherwise"],
        ),
        ("onnx", {"views": 4}, ["averages 4 views", "the probabilities of one picture"]),
        ("folder", {"views": 4}, []),
    ],
)
def test_what_is_to_be_known_of_a_file_is_said(handed_on, kind, changes, said):
    model = handed_on.model
    if "precision" in changes:
        model = dataclasses.replace(model, recipe=dataclasses.replace(model.recipe, **changes))
    else:
        model = dataclasses.replace(model, **changes)
    parity = dataclasses.replace(handed_on.parity, changed=1, own_changed=2)
    made = dataclasses.replace(handed_on, kind=kind, model=model, parity=parity)
    sentences = made.sentences()
    assert len(sentences) == 1 + bool(said)
    assert all(part in sentences[-1] for part in said)
    assert "predict" not in " ".join(sentences)  # to the receiver of a folder, that is the file
    assert sentences[0].endswith("of the model in float32, and 1 image is called otherwise")
    card = write_card(model, None, sentences)
    assert all(part in card for part in ("32 images of the run", *said))


@pytest.mark.parametrize("layer", ["layers", "layers-fine"])
def test_a_card_says_in_words_that_the_features_are_of_every_layer(handed_on, layer):
    recipe = dataclasses.replace(handed_on.model.recipe, layer=layer)
    card = write_card(dataclasses.replace(handed_on.model, recipe=recipe), None, [])
    assert " pixels, every layer, and the classifier " in card
    assert layer not in card


def test_pictures_are_drawn_where_the_images_are_gone(run, tmp_path):
    moved = shutil.copytree(run / "models" / "logistic", tmp_path / "model")
    made = export_run(moved, "keras", tmp_path / "model.keras")
    assert (made.images, made.parity.pictures) == (0, 32)
    assert "on 32 drawn pictures:" in made.sentences()[0]
    assert "the model does not lie in the folder of its run" in made.sentences()[1]


def renamed(run, folder, photos):
    """Copy a run whose images are named otherwise."""
    copied = shutil.copytree(run, folder)
    table = copied / "predictions.csv"
    table.write_text(table.read_text().replace(str(run.parent.parent / "photos"), photos))
    return copied


@pytest.fixture
def no_work(monkeypatch):
    """Export nothing, and note the pictures."""
    seen = []

    def write(model, kind, out, pictures, **_):
        seen.append(pictures)
        return Parity(len(pictures), 0.0, 0.0, 0, 0, 0.0)

    monkeypatch.setattr("pipeline.runs.exporting.export_model", write)
    return seen


def test_images_behind_urls_are_read_as_such(run, tmp_path, no_work, monkeypatch):
    asked = []

    def read(location):
        asked.append(location)
        return Path(
            location.replace("s3://holiday", str(run.parent.parent / "photos"))
        ).read_bytes(), b""

    monkeypatch.setattr("pipeline.runs.exporting.read_image", read)
    copied = renamed(run, tmp_path / "run", "s3://holiday")
    made = export_run(copied, "keras", tmp_path / "m.keras", head="logistic")
    assert (made.images, made.reason) == (32, "")
    assert all(isinstance(own, Url) and own.startswith("s3://holiday/") for own in asked)
    (copied / "pictures.json").unlink()  # as where the paths came in a file of features
    del asked[:]
    made = export_run(copied, "keras", tmp_path / "m.keras", head="logistic")
    assert (made.images, asked) == (0, [])
    assert "the run has read no picture from there itself" in made.reason


@pytest.mark.parametrize("kept", [0, 3, 8])
def test_what_was_checked_on_drawn_pictures_says_so_and_why(
    run, tmp_path, no_work, kept, monkeypatch
):
    copied = renamed(run, tmp_path / "run", "photos")
    left = sorted(own for own in (run.parent.parent / "photos").rglob("*.*") if own.is_file())
    names = (copied / "predictions.csv").read_text()
    left = [own for own in left if str(own.relative_to(run.parent.parent)) in names][:kept]
    for own in left:
        target = tmp_path / own.relative_to(run.parent.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(own, target)
    monkeypatch.chdir(tmp_path)
    made = export_run(copied, "keras", tmp_path / "m.keras", head="logistic")
    first, *more = made.sentences()
    card = write_card(made.model, read_run(copied), made.sentences())
    assert made.images == kept
    if kept == 8:
        assert "on 8 images of the run:" in first
        assert not more
        assert len(no_work[-1]) == 8
        return
    assert f"{32 - kept} drawn pictures:" in first
    assert ("3 images of the run and 29 drawn" in first) == (kept == 3)
    assert "images of the run could not be read from here (photos/" in more[0]
    for part in ("drawn pictures, which say less", f"{32 - kept} drawn pictures:"):
        assert part in card


@pytest.mark.parametrize(
    ("kind", "head", "found"),
    [
        ("onnx", "sklearn.naive_bayes:GaussianNB", "cannot be exported: it has a GaussianNB"),
        ("folder", "none", "has no head 'none'"),
        ("word", None, "unknown format 'word'"),
    ],
)
def test_what_cannot_be_exported_is_one_error_and_leaves_nothing(run, tmp_path, kind, head, found):
    options = ["--head", head] if head else []
    out = tmp_path / "out" / "model.onnx"
    out.parent.mkdir()
    command = ["export", str(run), "--format", kind, "--out", str(out), *options]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert found in done.stderr
    assert ("name another head of the run with --head: logistic" in done.stderr) == (kind == "onnx")
    assert list(out.parent.iterdir()) == []


def test_too_little_memory_is_one_error_with_advice_that_fits(run, tmp_path, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr("pipeline.runs.exporting.export_model", full)
    done = CliRunner().invoke(app, ["export", str(run), "--out", str(tmp_path / "model.onnx")])
    assert done.exit_code == 1
    assert "there is too little memory. Nothing was written." in done.stderr
    assert "more memory" in done.stderr
    assert "--views" not in done.stderr


def test_there_is_no_run(tmp_path):
    with pytest.raises(ModelError, match="there is no folder"):
        export_run(tmp_path / "none", "onnx", tmp_path / "m.onnx")


def test_paths_may_be_written_as_text(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = export_run(str(run), "keras", "model.keras", head="logistic")
    assert (tmp_path / "model.keras").is_file()
    assert made.path == Path("model.keras")


def test_a_folder_that_appears_during_the_work_stays(run, tmp_path, monkeypatch):
    def fill(*arguments):
        fill_folder(*arguments)
        (tmp_path / "out").mkdir()

    monkeypatch.setattr("pipeline.runs.exporting.fill_folder", fill)
    with pytest.raises(PipelineError, match="out exists already"):
        export_run(run, "folder", tmp_path / "out", head="logistic")
    assert files_in(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_there_is_left_alone(run, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(PipelineError, match="exists already"):
        export_run(run, "folder", tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []
