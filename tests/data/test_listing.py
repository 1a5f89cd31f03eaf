"""Which files and folders of a data set are meant: here and in a bucket, or refused as unclear."""

import io
import os
from pathlib import Path

import pytest
from bucket import ENVIRONMENT, Server
from PIL import Image

from pipeline.data import servers
from pipeline.data import tree as data_tree
from pipeline.data.listing import list_entries, list_images
from pipeline.data.tree import why_no_image
from pipeline.data.urls import Url
from pipeline.errors import DataError

PHOTOS = Url("s3://layouts/photos")


def tree(*folders, count=2):
    """Name some pictures in each of these folders."""
    return [f"{folder}/{number}.jpg" for folder in folders for number in range(count)]


def splits(*names, classes=("cats", "dogs")):
    return tree(*(f"{name}/{each}" for name in names for each in classes))


CLEAR = {
    "classes": (tree("cats", "dogs"), {"", "cats", "dogs"}),
    "splits": (splits("train", "valid", "test"), {"train", "validation", "test", "cats", "dogs"}),
    "splits in capitals": (splits("Training", "TEST"), {"train", "test", "cats", "dogs"}),
    "loose images in a split": ([*splits("train"), *tree("test")], {"train", "cats", "dogs"}),
    "classes with folders of their own": (
        [*tree("cats/2019", "cats/2020", "dogs/a"), "dogs/x.jpg"],
        {"", "cats", "dogs"},
    ),
    "classes that all have one folder": (tree("n1/images", "n2/images"), {"", "n1", "n2"}),
    "classes with images and the same folders": (
        tree("a", "a/x", "a/y", "b", "b/x", "b/y"),
        {"", "a", "b"},
    ),
    "words that begin like splits": (
        tree("train_station", "test-tube", "device", "value", "trained", "contest"),
        {"", "train_station", "test-tube", "device", "value", "trained", "contest"},
    ),
    "a class of trains": (tree("bus", "train", "car"), {"", "bus", "train", "car"}),
    "words that systems use": (tree("recycled", "tmp", "trash"), {"", "recycled", "tmp", "trash"}),
    "valid and invalid": (tree("valid", "invalid"), {"", "valid", "invalid"}),
}
BESIDE_SPLITS = [  # folders without an image
    *("annotations/x.json", "labels/train/x.txt", "labels/train/cats/x.txt", "test_labels/x.txt"),
    *("annotations/train/noext", "trainval/readme", "docs/a/b/c.pdf"),
]
SYSTEM = [
    *("lost+found", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "#recycle"),
    *(".ipynb_checkpoints", ".git", ".Trashes", ".hidden", "@Recycle", "__pycache__"),
]
UNCLEAR = {
    "other words for splits": (splits("training_set", "test_set"), ["test_set/, training_set/"]),
    "one other word": (
        splits("train", "dev", "test"),
        ["rename dev/ to train, validation or test"],
    ),
    "with years": (splits("train2017", "val2017"), ["train2017/, val2017/"]),
    "with what is in them": (splits("train_images", "test_images"), ["test_images/"]),
    "with the set before": (splits("data-train", "data-test"), ["data-test/, data-train/"]),
    "with the name of the set": (splits("pets_train", "pets_test"), ["pets_test/, pets_train/"]),
    "in one word": (splits("trainset", "testset"), ["testset/, trainset/"]),
    "with letters": (splits("trainA", "trainB", "testA", "testB"), ["testA/"]),
    "train and validation in one": (splits("trainval", "test"), ["rename trainval/"]),
    "capitals": (splits("Train", "Holdout", "bus"), ["Train/", "bus/"]),
    "splits beside another folder": (
        [*splits("train", "valid", "test"), "docs/x.jpg"],
        ["test/, train/, valid/ beside docs/", "move docs/ elsewhere"],
    ),
    "splits without training": (splits("test", "validation"), ["none named train holds class"]),
    "splits of loose images": (
        tree("train", "test"),
        ["none named train holds class", "put the images in train/ into a folder for each class"],
    ),
    "one split of loose images": (
        tree("train"),
        ["put the images in train/ into a folder for each"],
    ),
    "train and test in folders of no images": (
        [*tree("train"), "test/cats/x.txt"],
        ["put the images in train/ into a folder for each class"],
    ),
    "splits of loose images, numbered": (tree("train", "test1"), ["rename test1/"]),
    "classes beside test images": (
        tree("cats", "dogs", "test"),
        [
            "test/ beside cats/, dogs/",
            "To do: if test/ is a class, give it another name; if not, put ",
        ],
    ),
    "a test group beside a control group": (
        tree("test", "control"),
        ["To do: if test/ is a class, give it another name; if not, put control/ into train/"],
    ),
    "a class of trains with folders": (tree("bus/red", "train/red"), ["train/ beside bus/"]),
    "one folder around classes": (tree("pets/cats", "pets/dogs"), ["pets/", "name it: ", "/pets"]),
    "one folder around splits": (
        [f"pets/{name}" for name in splits("train", "test")],
        ["one folder pets/ with test/, train/ in it", "name it: "],
    ),
    "one folder in each split": (
        splits("train/pets", "test/pets"),
        ["the splits of ", "one folder pets/ with cats/, dogs/", "move these folders up"],
    ),
    "splits in each class": (
        splits("cats", "dogs", classes=("train", "test")),
        ["a folder cats/ with test/, train/, like splits"],
    ),
    "a data set beside others": (
        [*(f"pets/{name}" for name in splits("train", "test")), "docs/x.jpg"],
        ["pets/ with test/, train/"],
    ),
    "the same classes in all folders": (
        splits("fold1", "fold2"),
        ["fold1/, fold2/", "all hold cats/, dogs/"],
    ),
    "not all classes in one of them": (
        [*splits("site1"), *splits("site2", classes=("cats", "dogs", "birds"))],
        ["site1/, site2/", "all hold cats/, dogs/"],
    ),
    "sites in splits": (splits("train/a", "train/b"), ["the splits of", "all hold cats/, dogs/"]),
}


@pytest.fixture(scope="module")
def server():
    with Server().running() as running, pytest.MonkeyPatch.context() as patch:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": running.address}.items():
            patch.setenv(name, value)
        yield running
        servers.file_system.cache_clear()
        servers.unreachable.clear()


@pytest.fixture(params=["folder", "bucket"])
def lay_out(request, tmp_path):
    """Put files into a folder, or into a bucket, and name it."""

    def in_folder(names):
        for name in names:
            file = tmp_path / "photos" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(name.encode())
        return tmp_path / "photos"

    if request.param == "folder":
        yield in_folder
        return
    server = request.getfixturevalue("server")
    server.client.create_bucket(Bucket="layouts")

    def in_bucket(names):
        for name in names:
            server.put("layouts", f"photos/{name}", name.encode())
        return PHOTOS

    yield in_bucket
    server.empty("layouts")


def named(listing):
    return {entry.split for entry in listing.entries} | {entry.label for entry in listing.entries}


@pytest.mark.parametrize("case", CLEAR)
def test_a_clear_layout_is_understood(lay_out, case):
    names, expected = CLEAR[case]
    assert named(list_entries(lay_out(names))) == expected


@pytest.mark.parametrize("file", BESIDE_SPLITS)
def test_a_folder_without_images_beside_clear_splits_is_passed_over_and_said(lay_out, file):
    listing = list_entries(lay_out([*splits("train", "val"), file]))
    assert named(listing) == {"train", "validation", "cats", "dogs"}
    top = file.split("/")[0]
    assert listing.remarks == [f"The folder {top}/ holds no images, and is passed over."]
    assert listing.quarantined == []


def test_a_folder_with_images_by_their_bytes_is_not_passed_over(tmp_path):
    for name in (*splits("train", "val"), "more/noext"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture("PNG"))
    with pytest.raises(DataError, match="beside more/"):
        list_entries(tmp_path)


def test_folders_without_images_beside_classes_are_no_classes(lay_out):
    listing = list_entries(lay_out([*tree("cats", "dogs"), "docs/x.txt"]))
    assert {entry.label for entry in listing.entries} == {"cats", "dogs"}


@pytest.mark.parametrize("case", UNCLEAR)
def test_a_layout_that_would_be_a_guess_is_refused_and_its_folders_named(lay_out, case):
    names, pieces = UNCLEAR[case]
    with pytest.raises(DataError) as caught:
        list_entries(lay_out(names))
    assert all(piece in str(caught.value) for piece in pieces), str(caught.value)
    assert caught.value.expected.startswith("a folder of class folders")
    assert caught.value.fix


@pytest.mark.parametrize("base", ["classes", "splits"])
@pytest.mark.parametrize("where", ["", "cats/", "train/", "train/cats/deep/"])
def test_system_and_hidden_folders_and_files_are_ignored_at_every_depth(lay_out, base, where):
    names, expected = CLEAR[base]
    if where.startswith("train") != (base == "splits"):
        where = ""
    planted = [f"{where}{name}/train/._1.jpg" for name in SYSTEM]
    planted += [f"{where}{name}" for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "Icon\r")]
    listing = list_entries(lay_out([*names, *planted]))
    assert named(listing) == expected
    assert len(listing.entries) == len(names)
    assert (listing.quarantined, listing.remarks) == ([], [])


@pytest.mark.parametrize("name", ["lost+found", "@eaDir", "dev", "birds"])
def test_an_empty_folder_changes_nothing_and_is_said_where_it_is_the_users(tmp_path, name):
    for file in (*splits("train", "valid", "test"), f"{name}/.keep"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    listing = list_entries(tmp_path)
    assert named(listing) == CLEAR["splits"][1]
    said = [f"The folder {name}/ is empty."] if name in ("dev", "birds") else []
    assert listing.remarks == said


def test_folders_that_are_taken_for_parts_of_a_class_are_said(lay_out):
    names = ["photos/cats/1.jpg", "photos/dogs/1.jpg", "docs/logo.png", "docs/old/1.png"]
    listing = list_entries(lay_out(names))
    assert {entry.label for entry in listing.entries} == {"photos", "docs"}
    assert listing.remarks == ["The folders in photos/ are taken for parts of one class."]


def test_a_class_that_is_called_like_a_split_is_said(lay_out):
    listing = list_entries(lay_out(tree("bus", "train")))
    assert listing.remarks == ["The folder train/ is taken for a class, as it holds no folders."]


# Which files are images


def picture(kind, **options):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 99, 199)).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("name", ["noext", "photo.jpg_large", "photo.tmp", "IMG.1", "x.txt"])
def test_a_file_whose_bytes_are_an_image_is_one_whatever_its_name(tmp_path, kind, name):
    (tmp_path / name).write_bytes(picture(kind))
    assert why_no_image(tmp_path / name) == ""


def test_a_bigtiff_is_known_by_its_bytes(tmp_path):
    (tmp_path / "stack").write_bytes(picture("TIFF", big_tiff=True))
    assert why_no_image(tmp_path / "stack") == ""


NO_IMAGES = {
    "IMG_1.HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "clip.mp4": b"\0\0\0\x18ftypmp42",
    "notes": b"BMW and others, a list",
    "sound.wav": b"RIFF\x24\0\0\0WAVEfmt ",
    "text.txt": b"",
    "GIF.html": b"GIF8",
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_a_file_whose_bytes_are_none_is_named_with_its_ending(tmp_path, name):
    (tmp_path / name).write_bytes(NO_IMAGES[name])
    ending = Path(name).suffix or "nothing"
    assert why_no_image(tmp_path / name).endswith(f"first bytes: it ends in {ending}")


@pytest.mark.parametrize("suffix", [".nef", ".CR2", ".dng", ".svs"])
def test_a_raw_photograph_is_not_taken_for_the_preview_in_it(tmp_path, suffix):
    (tmp_path / f"x{suffix}").write_bytes(picture("TIFF"))
    assert "may be a preview only" in why_no_image(tmp_path / f"x{suffix}")


@pytest.mark.timeout(20, method="thread")
def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to("nowhere")
    assert "not a regular file" in why_no_image(tmp_path / "pipe")
    assert why_no_image(tmp_path / "gone") == "cannot be read: No such file or directory"


def test_only_files_without_the_suffix_of_an_image_are_opened(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(
        "pipeline.data.tree.start_of_file",
        lambda path, count: opened.append(path.name) or path.read_bytes()[:count],
    )
    for name in (*tree("cats", "dogs", count=50), "cats/x.txt", "dogs/noext"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture("PNG"))
    assert len(list_entries(tmp_path).entries) == 102
    assert sorted(opened) == ["noext", "x.txt"]


def test_of_many_files_that_are_no_images_only_some_are_opened_and_all_are_named(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(data_tree, "_MOST_OPENED", 20)
    opened = []
    real = data_tree.start_of_file
    monkeypatch.setattr(
        data_tree, "start_of_file", lambda path, count: opened.append(path) or real(path, count)
    )
    for name in (*tree("cats", "dogs"), *(f"cats/{n}.txt" for n in range(50)), "dogs/1.dat"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no picture")
    for number in range(30):
        (tmp_path / "dogs" / f"{number}.tmp").write_bytes(picture("PNG"))
        (tmp_path / "dogs" / f"{number}a.tmp").write_text("no picture")
        (tmp_path / "dogs" / f"noext{number}").write_text("no picture")
    listing = list_entries(tmp_path)
    assert (len(listing.entries), len(listing.quarantined)) == (34, 111)
    assert len(opened) == 20 + 1 + 60 + 30
    assert listing.quarantined[30].reason.endswith(
        "it ends in .txt (20 such were opened: no images)"
    )
    assert len(list_images([tmp_path])[1]) == 111


def test_in_training_folders_other_files_are_named_not_dropped(lay_out):
    names = [
        *tree("cats", "dogs"),
        "cats/a.jfif",
        "cats/notes.txt",
        "dogs/x.jpg_large",
        "loose.jpg",
    ]
    listing = list_entries(lay_out([*names, "README.md"]))
    assert len(listing.entries) == 5
    reasons = {bad.path.name: bad.reason for bad in listing.quarantined}
    assert reasons.keys() == {"notes.txt", "x.jpg_large", "loose.jpg"}
    assert reasons["notes.txt"].startswith("not an image by its name")
    assert reasons["loose.jpg"] == "in no class folder"


def test_a_folder_to_predict_gives_its_images_and_what_is_left_out(lay_out):
    root = lay_out(
        ["b.jpg", "a/c.jfif", "a/notes.txt", ".hidden.jpg", "a/@eaDir/c.jpg", "x.jpg_large"]
    )
    images, skipped = list_images([root])
    assert [str(path).removeprefix(f"{root}/") for path in images] == ["b.jpg", "a/c.jfif"]
    assert [bad.path.name for bad in skipped] == ["x.jpg_large", "notes.txt"]
    if isinstance(root, Url):
        assert "files behind URLs are not opened to look" in skipped[0].reason


def test_what_is_named_twice_is_listed_once(lay_out, monkeypatch):
    root = lay_out(["b.jpg", "a/c.jfif", "a/notes.txt"])
    images, skipped = list_images([root / "a" / "c.jfif", root, root / "b.jpg", root])
    names = [str(path).removeprefix(f"{root}/") for path in images]
    assert (names, len(skipped)) == (["a/c.jfif", "b.jpg"], 1)
    if isinstance(root, Path):
        monkeypatch.chdir(root)
        assert list_images(["b.jpg", root / "b.jpg", "./b.jpg"]) == ([Path("b.jpg")], [])
        # What is named itself is taken for an image.
        images, skipped = list_images([root, root / "a" / "notes.txt"])
        assert (len(images), skipped) == (3, [])


def test_a_bucket_is_listed_once_and_none_of_its_files_opened(lay_out, request):
    root = lay_out([*tree("cats", "dogs"), "cats/noext", "dogs/x.bin"])
    if not isinstance(root, Url):
        return
    server = request.getfixturevalue("server")
    server.requests.clear()
    list_entries(root)
    list_images([root])
    assert all("list-type=2" in one for one in server.requests)
    assert len(server.requests) == 2


PARTLY = {
    "images beside class folders": (
        ["a.jpg", "cats/b.jpg", "dogs/c.jpg"],
        {"a.jpg": "", "b.jpg": "cats", "c.jpg": "dogs"},
    ),
    "no class folders at all": (["a.jpg", "b.jpg"], {"a.jpg": "", "b.jpg": ""}),
    "one class folder": (["a.jpg", "cats/b.jpg"], {"a.jpg": "", "b.jpg": "cats"}),
    "a folder named unlabelled": (
        ["unlabelled/a.jpg", "Unlabeled/deep/b.jpg", "cats/c.jpg"],
        {"a.jpg": "", "b.jpg": "", "c.jpg": "cats"},
    ),
    "in splits": (
        ["train/a.jpg", "train/cats/b.jpg", "test/unlabelled/c.jpg", "test/cats/d.jpg"],
        {"a.jpg": ("", "train"), "b.jpg": ("cats", "train"), "c.jpg": ("", "test")}
        | {"d.jpg": ("cats", "test")},
    ),
}


@pytest.mark.parametrize(("files", "expected"), PARTLY.values(), ids=PARTLY)
def test_images_may_lack_a_label_where_that_is_asked_for(tmp_path, files, expected):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    listing = list_entries(tmp_path, unlabelled=True)
    found = {entry.path.name: (entry.label, entry.split) for entry in listing.entries}
    whole = {name: (own, "") if isinstance(own, str) else own for name, own in expected.items()}
    assert found == whole
    assert listing.quarantined == []


def test_labels_of_a_csv_may_be_empty_where_that_is_asked_for(tmp_path):
    (tmp_path / "list.csv").write_text("path,label\na.jpg,cats\nb.jpg,\n")
    found = list_entries(tmp_path / "list.csv", unlabelled=True).entries
    assert [(entry.path.name, entry.label) for entry in found] == [("a.jpg", "cats"), ("b.jpg", "")]
    with pytest.raises(DataError, match="line 3: the label is empty"):
        list_entries(tmp_path / "list.csv")


@pytest.mark.parametrize("names", [[], ["notes.txt"], ["unlabelled/notes.txt"]], ids=str)
def test_a_folder_without_images_is_refused_there_too(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    with pytest.raises(DataError, match=r"there are no images|no class folders"):
        list_entries(tmp_path, unlabelled=True)
