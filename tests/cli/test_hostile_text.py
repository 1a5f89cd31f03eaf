"""Text from outside (names of files and classes, texts in documents) is shown, never obeyed."""

import csv
import io
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from commands import run_command
from conftest import paint, paint_classes
from imitated import change, imitate
from portables import SIDE, described

from pipeline.backbones.registry import make_recipe
from pipeline.errors import PipelineError, in_one_line, printable
from pipeline.features.store import FeatureStore
from pipeline.runs.reading import read_run
from pipeline.runs.table import TextTable
from pipeline.system.cells import from_cell, to_cell

BAD = "\x1b]0;owned\x07\r\x08\x7f\x9b31m\n\t\u202e\u2066\u2028[red]"
SHOWN = r"\x1b]0;owned\x07"
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
SETTINGS = ("--size", "64", "--precision", "float32")


pytestmark = pytest.mark.usefixtures("networks")


def photos(count=8):
    """Make a data set: its folder, a class, and a file that is no picture have a bad name."""
    folder = paint_classes(Path(f"photos {BAD}"), count)
    (folder / "red").rename(folder / f"red {BAD}")
    (folder / "blue" / f"no picture {BAD}.png").write_text("no picture")
    return folder


def trained():
    done = run_command("classify", photos(), *SETTINGS, "--head", "knn", "--name", "mine")
    assert done.exit_code == 3, done.output
    return Path("runs/mine")


def new():
    paint(Path("new") / "x.png", (180, 70, 70), 1).rename(f"new/{BAD}.png")
    Path(f"new/{BAD}-broken.png").write_text("no picture")
    return "new"


def spoilt(**fields):
    imitate(Path("spoilt"))
    change(Path("spoilt"), **fields)
    return "spoilt"


def unlike(**fields):
    """A store whose recipe cannot be used, in a cache folder with a bad name."""
    folder = Path("cache", f"vgg16-{BAD}")
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps({"backbone": BAD, BAD: BAD, **fields}))
    return "cache"


def misnamed():
    """A store with a shard of a bad name."""
    store = FeatureStore(Path("cache"), make_recipe(size=64, precision="float32"))
    store.prepare()
    (store.folder / f"{BAD}.h5").write_text("no shard")
    return "cache"


def columns(text):
    Path(f"list {BAD}.csv").write_text(text, newline="")
    return f"list {BAD}.csv"


def exported():
    Path(f"f{BAD}.h5").write_text("no features")
    return f"f{BAD}.h5"


def onnx_file(**more):
    """An exported model with bad names in its description."""
    fields = {**asdict(make_recipe(size=SIDE, precision="float32")), **more}
    classes = [f"red {BAD}", f"blue {BAD}"]
    Path(f"m{BAD}.onnx").write_bytes(described(recipe=fields, classes=classes, threshold=F1))
    return f"m{BAD}.onnx"


F1 = {"positive": 1, "value": 0.5, "aim": f"f1 {BAD}"}
COMMANDS = {
    "features": lambda: ("features", photos(), *SETTINGS),
    "features --strict": lambda: ("features", photos(), *SETTINGS, "--strict"),
    "features of nothing": lambda: ("features", f"none {BAD}"),
    "features of too few": lambda: ("features", photos(1), *SETTINGS),
    "features of columns": lambda: ("features", columns(f"path,{BAD}\na.png,a\n")),
    "features of rows": lambda: ("features", columns(f"path,label,split\n{BAD},{BAD},{BAD}\n")),
    "features, wrongly used": lambda: ("features", "photos", BAD),
    "no such command": lambda: (BAD,),
    "no such option": lambda: ("features", "photos", f"--{BAD}"),
    "no such choice": lambda: ("features", photos(), "--size", BAD),
    "status": lambda: ("status", photos(), *SETTINGS),
    "status of nothing": lambda: ("status", f"none {BAD}"),
    "classify": lambda: ("classify", photos(), *SETTINGS, "--head", "knn"),
    "classify, failing": lambda: ("classify", photos(), *SETTINGS, "--head", f"json:{BAD}"),
    "classify, named": lambda: ("classify", photos(), *SETTINGS, "--name", f"{BAD}/x"),
    "classify of a class": lambda: (
        *("classify", photos(), *SETTINGS, "--head", "knn"),
        *("--threshold", "f1", "--positive", BAD),
    ),
    "classify of a file": lambda: ("classify", exported()),
    "predict": lambda: ("predict", trained(), new()),
    "predict --csv": lambda: ("predict", trained(), new(), "--csv"),
    "predict --json": lambda: ("predict", trained(), new(), "--json"),
    "predict of nothing": lambda: ("predict", trained(), f"none {BAD}"),
    "predict by nothing": lambda: ("predict", f"none {BAD}", "x.png"),
    "predict by a file": lambda: ("predict", onnx_file(), new()),
    "predict by a file --csv": lambda: ("predict", onnx_file(), new(), "--csv"),
    "predict by a file --json": lambda: ("predict", onnx_file(), new(), "--json"),
    "predict by a spoilt file": lambda: ("predict", onnx_file(**{BAD: BAD}), new()),
    "predict by a head": lambda: ("predict", trained(), "x.png", "--head", BAD),
    "problems": lambda: ("problems", photos(), *SETTINGS, "--no-learning-curve"),
    "problems --json": lambda: ("problems", photos(), *SETTINGS, "--no-learning-curve", "--json"),
    "problems --run": lambda: ("problems", photos(), *SETTINGS, "--run", f"none {BAD}"),
    "label": lambda: ("label", new(), *SETTINGS),
    "label a class": lambda: ("label", photos(), *SETTINGS),
    "label a file": lambda: ("label", new(), f"none {BAD}", "--as", "x", *SETTINGS),
    "label as": lambda: ("label", paint_classes(Path("plain"), 8), "x", "--as", BAD, *SETTINGS),
    "label --json": lambda: ("label", new(), "--json", *SETTINGS),
    "report": lambda: ("report", f"none {BAD}"),
    "report of a spoilt run": lambda: ("report", spoilt(protocol={BAD: BAD, "cv": BAD})),
    "report of another run": lambda: ("report", spoilt(best=BAD)),
    "report of a network": lambda: ("report", spoilt(recipe={"backbone": BAD})),
    "compare": lambda: ("compare", f"none {BAD}", "none"),
    "compare of spoilt runs": lambda: ("compare", spoilt(recipe={"backbone": BAD}), trained()),
    "augment": lambda: ("augment", f"none {BAD}"),
    "augment to": lambda: ("augment", "x.png", "--out", f"{BAD}.gif"),
    "augment by": lambda: ("augment", f"{new()}/{BAD}.png", "--augmentation", BAD),
    "cache list": lambda: ("cache", "list", "--cache", unlike()),
    "cache verify": lambda: ("cache", "verify", "--cache", unlike(version=1)),
    "cache verify of a shard": lambda: ("cache", "verify", "--cache", misnamed()),
    "cache prune": lambda: ("cache", "prune", f"none {BAD}"),
    "cache export": lambda: ("cache", "export", photos(), exported(), *SETTINGS),
    "finetune": lambda: ("finetune", photos(), *SETTINGS, "--head", f"none {BAD}"),
}
SILENT = {  # these name nothing from outside
    "no such choice",
    "report of a spoilt run",
    "report of another run",
    "compare of spoilt runs",
    "report of a network",
    "features of rows",
}


def texts(value):
    """Find all texts in a JSON document."""
    if isinstance(value, dict | list):
        for own in value.values() if isinstance(value, dict) else value:
            yield from texts(own)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize("command", COMMANDS)
def test_no_text_from_outside_reaches_the_terminal_as_it_is(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    done = run_command(*COMMANDS[command]())
    assert done.exit_code in (0, 1, 2, 3)
    assert isinstance(done.exception, SystemExit | None), done.exception
    assert not UNSAFE.search(done.output), ascii(done.output)
    if command.endswith("--json"):
        assert any(BAD in text for text in texts(json.loads(done.stdout)))
    elif command not in SILENT:
        assert SHOWN in done.output, ascii(done.output)
    if command == "cache verify of a shard":
        assert "[red]" in done.output  # not taken for markup


def test_a_newline_in_a_name_cannot_forge_a_line_of_an_error(tmp_path):
    done = run_command("features", tmp_path / "x\nTo do: rm -rf")
    assert r"x\nTo do: rm -rf" in done.stderr
    assert not re.search("^To do: rm", done.stderr, re.MULTILINE)


def test_python_shows_names_as_escapes_too():
    error = PipelineError(f"found {BAD}.", expected=BAD, fix=BAD)
    table = TextTable(BAD, [BAD], [[BAD]], 0, [BAD])
    for text in (str(error), in_one_line(error), in_one_line(ValueError(BAD)), table.as_text()):
        assert SHOWN in text
        assert not UNSAFE.search(text)
    assert not UNSAFE.search(table.as_html())
    assert error.found == f"found {BAD}."  # for programs


@pytest.mark.parametrize(
    "name",
    [
        "caf\u00e9",
        "\u732b \U0001f408",
        "a\u3000b",
        "10\u202f30 PM",
        "\u0645\u06cc\u200c\u062e",
        "a\\b",
    ],
)
def test_names_in_any_script_are_shown_as_they_are(name):
    assert printable(name) == name


# --- CSV ---

NAMES = {
    "=cmd|'/c calc'!A0": "'=cmd|'/c calc'!A0",
    "+1+1": "'+1+1",
    "-1+1": "'-1+1",
    "@SUM(1,1)": "'@SUM(1,1)",
    " =1+1": "' =1+1",
    "\uff1d1+1": "'\uff1d1+1",
    "'=1+1": "''=1+1",
    "-1": "-1",
    "+1.5e3": "+1.5e3",
    "-": "-",
    "'quoted'": "'quoted'",
    "a=b": "a=b",
    "": "",
}


@pytest.mark.parametrize(("name", "cell"), NAMES.items())
def test_a_cell_that_a_spreadsheet_would_compute_is_text_and_is_read_back(name, cell):
    assert to_cell(name) == cell
    assert from_cell(cell) == name


def test_predictions_as_csv_are_safe_in_a_spreadsheet():
    paint(Path("=HYPERLINK(1).png"), (180, 70, 70), 1)
    done = run_command("predict", trained(), "=HYPERLINK(1).png", "--csv")
    rows = list(csv.reader(io.StringIO(done.stdout, newline="")))
    assert [row[0] for row in rows[1:]] == ["'=HYPERLINK(1).png"]


def test_a_run_whose_names_are_formulas_is_read_back(tmp_path):
    """In predictions.csv they are harmless; the page has them as they are."""
    names = ("=1+1", "-x", "'=quoted", BAD)
    paths = tuple(tmp_path / f"{n}" if n % 2 else Path(f"={n}+1.png") for n in range(120))
    imitate(tmp_path / "mine", classes=names, heads=("logistic",), paths=paths, skill=0.4)
    text = (tmp_path / "mine" / "predictions.csv").read_bytes().decode()
    assert not re.search(r"(?m)(^|,)\"?[=@+]", text)
    record = read_run(tmp_path / "mine")
    assert not record.problem
    assert record.classes == names
    test = slice(-60, None)
    assert record.predictions["logistic"].paths == tuple(map(str, paths))[test]


def test_predictions_that_an_older_release_wrote_are_read_as_they_are(tmp_path):
    run = imitate(tmp_path / "mine", classes=("=1+1", "-x"), heads=("logistic",))
    file = tmp_path / "mine" / "predictions.csv"
    file.write_text(file.read_text().replace("'=1+1", "=1+1").replace("'-x", "-x"))
    record = read_run(run.folder)
    assert not record.problem
