"""Which images there are, and that no image ever leaves its split: layouts, split rules, names."""

import csv
import hashlib
import json
import os
import random
import string
import threading
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import CountingBackbone, paint_classes, relabelled
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.classification.experiment import classify
from pipeline.data import digests as digests_module
from pipeline.data.dataset import SPLITS, Dataset, Quarantined, count_splits
from pipeline.data.digests import read_image
from pipeline.data.entries import Entry
from pipeline.data.loading import list_partly_labelled, load_dataset
from pipeline.data.splits import Shares, assign_splits, copies_across_splits
from pipeline.data.targets import Targets
from pipeline.errors import DataError, ImageError
from pipeline.features.extractor import Extractor

USUAL = Shares()
ALL_TO_TRAIN_ON = Shares(validation=0, test=0)
"""For tests that are not about splits."""


def put(root: Path, *names: str) -> Path:
    """Make files that hold their own names, so that all have other bytes."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
    return root


def listing(file: Path, *lines: str, encoding: str = "utf-8") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding=encoding)
    return file


def images(dataset: Dataset, root: Path) -> dict[str, tuple[str, str]]:
    """Map each image's path below `root` to its label and split."""
    return {
        str(path.relative_to(root)): (dataset.classes[label], str(split))
        for path, label, split in zip(
            dataset.paths, dataset.targets.labels, dataset.splits, strict=True
        )
    }


def reasons(dataset: Dataset) -> dict[str, str]:
    return {bad.path.name: bad.reason for bad in dataset.quarantined}


def fake_digest(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def assign(entries, numbers=None, *, seed=0, shares=USUAL):
    digests = [fake_digest(n) for n in (range(len(entries)) if numbers is None else numbers)]
    return assign_splits(entries, digests, seed, shares)


def plain(count: int, label: str = "a") -> list[Entry]:
    return [Entry(Path(f"{number}.png"), label) for number in range(count)]


# Folders of class folders


@pytest.fixture
def pets(tmp_path):
    return put(
        tmp_path / "pets", *(f"{pet}/{n}.jpg" for pet in ("dogs", "cats") for n in range(30))
    )


def test_class_folders_give_each_image_the_label_of_its_folder(pets):
    dataset = load_dataset(pets)
    assert dataset.name == "pets"
    assert dataset.classes == ("cats", "dogs")
    assert len(dataset) == 60
    assert all(path.split("/")[0] == label for path, (label, _) in images(dataset, pets).items())
    assert dataset.quarantined == ()


def test_each_image_has_the_digest_of_its_bytes(pets):
    dataset = load_dataset(pets)
    assert list(dataset.digests) == [
        hashlib.sha256(path.read_bytes()).digest() for path in dataset.paths
    ]


def test_every_split_has_images_of_a_data_set_of_some_size(pets):
    counts = count_splits(load_dataset(pets))
    assert list(counts) == list(SPLITS)
    assert sum(counts["train"].values()) > sum(counts["test"].values()) > 0
    assert sum(counts["validation"].values()) > 0


def test_images_in_nested_folders_belong_to_the_class_folder_above_them(tmp_path):
    put(
        tmp_path, "cats/a.jpg", "cats/2019/b.jpg", "cats/2019/may/c.jpg", "dogs/d.jpg", "dogs/e.jpg"
    )
    found = images(load_dataset(tmp_path, shares=ALL_TO_TRAIN_ON), tmp_path)
    assert {path: label for path, (label, _) in found.items()} == {
        "cats/a.jpg": "cats",
        "cats/2019/b.jpg": "cats",
        "cats/2019/may/c.jpg": "cats",
        "dogs/d.jpg": "dogs",
        "dogs/e.jpg": "dogs",
    }


def test_hidden_and_system_files_and_folders_are_ignored_without_a_word(pets):
    put(pets, "cats/.DS_Store", "cats/._0.jpg", "cats/Thumbs.db", "dogs/desktop.ini", ".git/x.jpg")
    put(pets, "cats/.ipynb_checkpoints/0.jpg", "__MACOSX/cats/._0.jpg", ".hidden.jpg")
    dataset = load_dataset(pets)
    assert len(dataset) == 60
    assert dataset.classes == ("cats", "dogs")
    assert dataset.quarantined == ()


def test_files_that_are_no_images_are_quarantined(pets):
    put(pets, "cats/notes.txt", "cats/README", "dogs/clip.mp4")
    dataset = load_dataset(pets)
    assert len(dataset) == 60
    assert reasons(dataset) == {
        "notes.txt": "not an image by its name or its first bytes: it ends in .txt",
        "README": "not an image by its name or its first bytes: it ends in nothing",
        "clip.mp4": "not an image by its name or its first bytes: it ends in .mp4",
    }


def test_the_suffix_of_an_image_may_be_of_either_case(tmp_path):
    put(tmp_path, "cats/a.JPG", "cats/b.Png", "dogs/c.TIFF", "dogs/d.webp")
    assert len(load_dataset(tmp_path, shares=ALL_TO_TRAIN_ON)) == 4


def test_images_that_lie_in_no_class_folder_are_quarantined_not_dropped(pets):
    put(pets, "loose.jpg", "README.md")
    assert reasons(load_dataset(pets)) == {"loose.jpg": "in no class folder"}


def test_a_link_to_a_file_inside_the_folder_is_an_image_like_others(pets):
    (pets / "cats" / "again.jpg").symlink_to(pets / "cats" / "0.jpg")
    dataset = load_dataset(pets)
    found = images(dataset, pets)
    assert found["cats/again.jpg"] == found["cats/0.jpg"]


def test_links_that_lead_out_of_the_folder_are_quarantined(pets, tmp_path):
    put(tmp_path, "secret.jpg", "elsewhere/more.jpg")
    (pets / "cats" / "file.jpg").symlink_to(tmp_path / "secret.jpg")
    (pets / "cats" / "relative.jpg").symlink_to("../../secret.jpg")
    (pets / "cats" / "chain.jpg").symlink_to(pets / "cats" / "file.jpg")
    (pets / "cats" / "folder").symlink_to(tmp_path / "elsewhere")
    (pets / "birds").symlink_to(tmp_path / "elsewhere")
    dataset = load_dataset(pets)
    assert dataset.classes == ("cats", "dogs")
    assert len(dataset) == 60
    out = "a link that leads out of the folder (a CSV may name files anywhere)"
    assert reasons(dataset) == dict.fromkeys(
        ["file.jpg", "relative.jpg", "chain.jpg", "folder", "birds"], out
    )


def test_a_split_folder_that_is_a_link_out_is_quarantined(tmp_path):
    outside = put(tmp_path / "outside", "cats/x.jpg", "dogs/y.jpg")
    root = put(tmp_path / "pets", *(f"train/{c}/{n}.jpg" for c in ("cats", "dogs") for n in "ab"))
    (root / "test").symlink_to(outside)
    dataset = load_dataset(root, shares=ALL_TO_TRAIN_ON)
    assert len(dataset) == 4
    assert [bad.path for bad in dataset.quarantined] == [root / "test"]


def test_links_that_lead_nowhere_in_a_circle_or_to_a_folder_are_quarantined(pets):
    (pets / "cats" / "gone.jpg").symlink_to("no-such-file.jpg")
    (pets / "cats" / "self.jpg").symlink_to("self.jpg")
    (pets / "cats" / "up").symlink_to(pets)
    dataset = load_dataset(pets)
    assert len(dataset) == 60
    found = reasons(dataset)
    assert found.keys() == {"gone.jpg", "self.jpg", "up"}
    assert found["gone.jpg"] == "cannot be read: No such file or directory"
    assert found["up"] == "a link to a folder"


def test_the_folder_itself_may_be_a_link(pets, tmp_path):
    (tmp_path / "link").symlink_to(pets)
    dataset = load_dataset(tmp_path / "link")
    assert len(dataset) == 60
    assert dataset.quarantined == ()


@pytest.mark.timeout(20, method="thread")  # a signal would wait for the pipe, too
def test_a_pipe_that_is_named_like_an_image_does_not_hang(pets):
    os.mkfifo(pets / "cats" / "pipe.jpg")
    assert reasons(load_dataset(pets)) == {
        "pipe.jpg": "cannot be read: pipe.jpg is not a regular file"
    }


def test_an_empty_file_is_quarantined(pets):
    (pets / "cats" / "empty.jpg").touch()
    dataset = load_dataset(pets)
    assert len(dataset) == 60
    assert reasons(dataset) == {"empty.jpg": "0 bytes"}


def test_a_file_too_large_to_be_any_image_is_quarantined_without_reading_it(pets):
    with (pets / "cats" / "huge.png").open("wb") as file:
        file.truncate(2**40)  # a hole: it takes no room on the disk
    found = reasons(load_dataset(pets))
    assert found == {"huge.png": "1099.5 GB: more than the limit of 1.4"}


def test_a_folder_that_cannot_be_looked_into_is_quarantined(pets, monkeypatch):
    put(pets, "cats/locked/a.jpg")
    walk = os.scandir

    def locked(path):  # tests may run as root, whom no permission stops
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return walk(path)

    monkeypatch.setattr(os, "scandir", locked)
    dataset = load_dataset(pets)
    assert len(dataset) == 60
    assert reasons(dataset) == {"locked": "a folder that cannot be read"}


# Folders with split folders


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("train", "validation", "test"), ("Training", "VALID", "testing"), ("TRAIN", "val", "Test")],
)
def test_split_folders_give_each_image_its_split(tmp_path, train, validation, test):
    names = {train: "train", validation: "validation", test: "test"}
    put(
        tmp_path,
        *(f"{split}/{c}/{n}.jpg" for split in names for c in ("cats", "dogs") for n in "ab"),
    )
    found = images(load_dataset(tmp_path), tmp_path)
    assert found == {
        f"{folder}/{c}/{n}.jpg": (c, split)
        for folder, split in names.items()
        for c in ("cats", "dogs")
        for n in "ab"
    }


@pytest.mark.parametrize("missing", ["validation", "test"])
@pytest.mark.parametrize("empty_folder", [False, True])
def test_a_missing_split_is_carved_out_of_train_only(tmp_path, missing, empty_folder):
    there = "test" if missing == "validation" else "validation"
    put(tmp_path, *(f"{s}/{c}/{n}.jpg" for s in ("train", there) for c in "ab" for n in range(100)))
    if empty_folder:
        (tmp_path / missing).mkdir()
    found = images(load_dataset(tmp_path), tmp_path)
    splits = Counter((path.split("/")[0], split) for path, (_, split) in found.items())
    assert splits.keys() == {("train", "train"), ("train", missing), (there, there)}
    assert splits[there, there] == 200
    share = {"validation": 0.15, "test": 0.25}[missing]
    assert splits["train", missing] / 200 == pytest.approx(share, abs=0.1)


def test_images_that_lie_loose_in_a_split_folder_are_quarantined(tmp_path):
    put(tmp_path, *(f"train/{c}/{n}.jpg" for c in ("cats", "dogs") for n in range(30)))
    put(tmp_path, "test/1.jpg", "test/2.jpg", "3.jpg", "README.md", "test/.hidden.jpg")
    dataset = load_dataset(tmp_path)
    assert dataset.classes == ("cats", "dogs")
    assert reasons(dataset) == dict.fromkeys(["1.jpg", "2.jpg", "3.jpg"], "in no class folder")


# CSV files


def test_a_csv_may_name_files_relative_to_itself_or_anywhere(tmp_path, monkeypatch):
    put(tmp_path / "far", "c.jpg", "d.jpg")
    put(tmp_path / "near", "img/a.jpg", "b.jpg")
    file = listing(
        tmp_path / "near" / "pets.csv",
        "path,label",
        "img/a.jpg,cat",
        "b.jpg,dog",
        "../far/c.jpg,cat",
        f"{tmp_path}/far/d.jpg,dog",
    )
    monkeypatch.chdir("/")
    dataset = load_dataset(file, shares=ALL_TO_TRAIN_ON)
    assert dataset.name == "pets"
    assert [path.read_text() for path in dataset.paths] == ["img/a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert [dataset.classes[label] for label in dataset.targets.labels] == [
        "cat",
        "dog",
        "cat",
        "dog",
    ]


def test_a_csv_may_be_as_excel_writes_it_and_have_more_columns(tmp_path):
    put(tmp_path, "a.jpg", "b, c.jpg", "d.jpg", "e.jpg")
    lines = [
        "path,when,label",
        "a.jpg,1,cat",
        '"b, c.jpg",2,cat',
        "d.jpg,3, dog ",
        "",
        " e.jpg,4,dog",
    ]
    file = tmp_path / "pets.csv"
    file.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    dataset = load_dataset(file, shares=ALL_TO_TRAIN_ON)
    assert dataset.classes == ("cat", "dog")
    assert [path.name for path in dataset.paths] == ["a.jpg", "b, c.jpg", "d.jpg", "e.jpg"]


def test_splits_given_in_a_csv_are_respected_and_blank_ones_are_drawn(tmp_path):
    put(tmp_path, *(f"{n}.jpg" for n in range(120)))
    given_splits = ["train", "Val", "TEST", "", " "]
    lines = [f"{n}.jpg,{'ab'[n % 2]},{given_splits[n % 5]}" for n in range(120)]
    file = listing(tmp_path / "x.csv", "path,label,split", *lines)
    found = images(load_dataset(file), tmp_path)
    by_given = [Counter(found[f"{n}.jpg"][1] for n in range(k, 120, 5)) for k in range(5)]
    assert by_given[:3] == [{"train": 24}, {"validation": 24}, {"test": 24}]
    drawn = by_given[3] + by_given[4]
    assert drawn.keys() == {"train", "validation", "test"}


def test_a_group_given_in_a_csv_stays_together(tmp_path):
    put(tmp_path, *(f"{n}.jpg" for n in range(120)))
    lines = [f"{n}.jpg,{'ab'[n % 2]},patient {n // 6}" for n in range(120)]
    dataset = load_dataset(listing(tmp_path / "x.csv", "path,label,group", *lines))
    found = images(dataset, tmp_path)
    groups = [{found[f"{n}.jpg"][1] for n in range(first, first + 6)} for first in range(0, 120, 6)]
    assert all(len(splits) == 1 for splits in groups)
    assert set.union(*groups) == {"train", "validation", "test"}


def test_a_file_that_a_csv_lists_twice_alike_is_used_once(tmp_path):
    put(tmp_path, *"abcd")
    file = listing(tmp_path / "x.csv", "path,label", "a,1", "b,1", "c,2", "d,2", "./a,1")
    dataset = load_dataset(file, shares=ALL_TO_TRAIN_ON)
    assert len(dataset) == 4
    assert dataset.quarantined == ()


def test_a_file_name_with_a_nul_in_a_csv_is_quarantined(tmp_path):
    put(tmp_path, *"abcd")
    file = listing(tmp_path / "x.csv", "path,label", "a,1", "b,1", "c,2", "d,2", "e\0.png,2")
    dataset = load_dataset(file, shares=ALL_TO_TRAIN_ON)
    assert len(dataset) == 4
    assert "null byte" in reasons(dataset)["e\0.png"]


@pytest.mark.timeout(20, method="thread")
def test_a_pipe_in_a_csv_does_not_hang(tmp_path):
    put(tmp_path, *"abcd")
    os.mkfifo(tmp_path / "pipe")
    file = listing(tmp_path / "x.csv", "path,label", "a,1", "b,1", "c,2", "d,2", "pipe,2")
    assert reasons(load_dataset(file, shares=ALL_TO_TRAIN_ON)) == {
        "pipe": "cannot be read: pipe is not a regular file"
    }


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_of_a_file_without_a_size_nothing_is_read(tmp_path):
    """As /proc/kmsg, which seems to be a file and never ends."""
    put(tmp_path, *"abcd")
    lines = ["a,1", "b,1", "c,2", "d,2", "/proc/self/status,2"]
    file = listing(tmp_path / "x.csv", "path,label", *lines)
    assert list(reasons(load_dataset(file, shares=ALL_TO_TRAIN_ON)).values()) == ["0 bytes"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,label", "a,cat"], "lacks the column path; it has file, label."),
        ([""], "lacks the column label, path; it has no columns."),
        (["path,label"], "lists no images."),
        (["path,label", "a,cat", "b,"], "line 3: the label is empty."),
        (["path,label", "a,cat", ",cat"], "line 3: the path is empty."),
        (["path,label", "a,cat", "b"], "line 3: the label is empty."),
        (["path,label,split", "a,cat,dev"], "line 2: unknown split 'dev'."),
        (["path,label", "a,cat", "a,dog"], "line 3: a is listed as dog, and as cat further up."),
        (
            ["path,label,split", "a,cat,train", "a,cat,test"],
            "line 3: a is listed as cat, test, and as cat, train further up.",
        ),
        (
            ["path,label,group", "a,cat,g1", "a,cat,g2"],
            "line 3: a is listed as cat, g2, and as cat, g1 further up.",
        ),
        (["path,label", "a,cat", "b,cat"], "images of one class only: cat."),
        (["path,label", "a,cat", "b,dog", "c,dog"], "too few images of the class cat (1)"),
        (["path,label", "no,cat", "nor,dog"], "none of the 2 files of x can be used; "),
        (
            ["path,label,split", "a,cat,test", "b,cat,test", "c,dog,train", "d,dog,train"],
            "too few training images of the class cat (0)",
        ),
        (
            ["path,label,split,group", "a,cat,train,g", "b,cat,test,g", "c,dog,,", "d,dog,,"],
            "the group g is in train and in test.",
        ),
        (
            ["path,label", '"' + "x" * 200_000 + '",cat'],
            "cannot be read as a CSV file: line 2: field",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_csv_that_cannot_be_used_is_refused_with_the_reason(tmp_path, lines, message):
    put(tmp_path, *"abcd")
    with pytest.raises(DataError) as caught:
        load_dataset(listing(tmp_path / "x.csv", *lines), shares=ALL_TO_TRAIN_ON)
    assert message in caught.value.found


@pytest.mark.parametrize("content", [b"\xff\xd8\xff\xe0 a JPEG", "path,label\n".encode("utf-16")])
def test_a_file_that_is_no_csv_is_refused_by_its_name(tmp_path, content):
    (tmp_path / "cat.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"cat\.jpg cannot be read as a CSV file: .*utf-8"):
        load_dataset(tmp_path / "cat.jpg")


# What cannot be learned from


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"there is no folder or file .*/nowhere"):
        load_dataset(tmp_path / "nowhere")


def test_a_name_that_no_file_can_have_is_refused():
    with pytest.raises(DataError, match=r"cannot read x+: File name too long"):
        load_dataset("x" * 5000)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no class folders"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("names", "can_be_labelled"),
    [
        (["a.jpg", "b.jpg"], True),
        (["notes.txt", "b.PNG"], True),
        (["notes.txt"], False),
        ([], False),
    ],
)
def test_a_folder_of_loose_images_is_refused_and_can_be_labelled(tmp_path, names, can_be_labelled):
    folder = tmp_path / "my photos"
    folder.mkdir()
    with pytest.raises(DataError, match="holds no class folders") as caught:
        load_dataset(put(folder, *names))
    assert "cats/, dogs/" in caught.value.expected
    command = f"pipeline label '{folder}'"
    assert caught.value.fix == (f"label the images in it: {command}" if can_be_labelled else "")


def test_empty_class_folders_are_refused(tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "dogs").mkdir()
    with pytest.raises(DataError, match=r"the class folders of .* are empty"):
        load_dataset(tmp_path)


def test_images_of_one_class_are_refused(tmp_path):
    with pytest.raises(DataError, match="images of one class only: cats"):
        load_dataset(put(tmp_path, "cats/a.jpg", "cats/b.jpg"))


def test_a_class_with_one_image_is_refused(pets):
    put(pets, "bird/a.jpg")
    with pytest.raises(DataError, match=r"too few images of the class bird \(1\)"):
        load_dataset(pets)


def test_a_class_whose_files_are_all_unusable_is_refused_with_the_reason(pets):
    put(pets, "bird/a.jpg", "bird/b.jpg")
    for file in (pets / "bird").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"class bird \(0\); 2 files skipped: .*: 0 bytes"):
        load_dataset(pets)


def test_files_none_of_which_are_images_are_refused_with_the_reasons(tmp_path):
    put(tmp_path, "cats/a.txt", "dogs/b.txt", *(f"dogs/{n}.doc" for n in range(9)))
    with pytest.raises(DataError, match=r"none of the 11 files .* it ends in .txt, .* and 6 more"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("shares", [(-0.1, 0.2), (0.2, -0.1), (0.5, 0.5), (0.7, 0.7), (np.nan, 0)])
def test_shares_that_leave_nothing_to_train_on_are_refused(pets, shares):
    with pytest.raises(DataError, match="leave nothing to train on"):
        load_dataset(pets, shares=Shares(*shares))


def test_two_images_of_a_class_are_trained_on_however_large_the_other_shares(pets):
    put(pets, "bird/a.jpg", "bird/b.jpg")
    dataset = load_dataset(pets, shares=Shares(validation=0, test=0.999999))
    assert min(dataset.targets.counts(dataset.where("train"))) == 2


@pytest.mark.parametrize("splits", [("", "", ""), ("train", "train", "test")])
def test_what_is_drawn_leaves_two_images_of_a_class_to_train_on(tmp_path, splits):
    names = {f"{label}{n}.jpg": (label, splits[n % 3]) for label in "ab" for n in range(3)}
    put(tmp_path, *names)
    lines = [f"{name},{label},{split}" for name, (label, split) in names.items()]
    file = listing(tmp_path / "x.csv", "path,label,split", *lines)
    dataset = load_dataset(file, shares=Shares(0.9, 0.05))
    assert dataset.targets.counts(dataset.where("train")).tolist() == [2, 2]
    assert dataset.targets.counts(dataset.where("test")).tolist() == [1, 1]


def test_splits_that_were_given_are_not_changed_for_a_class_that_is_not_trained_on(tmp_path):
    names = {f"{label}{n}.jpg": (label, SPLITS[n % 3]) for label in "ab" for n in range(3)}
    put(tmp_path, *names)
    lines = [f"{name},{label},{split}" for name, (label, split) in names.items()]
    with pytest.raises(DataError, match="too few training images") as caught:
        load_dataset(listing(tmp_path / "x.csv", "path,label,split", *lines))
    assert "add images of it to the training split, or leave" in caught.value.fix


ONLY_IN_TEST = {
    "no validation is given": ("train", "train", "test"),
    "all are given": ("train", "validation", "test"),
}


@pytest.mark.parametrize("case", ONLY_IN_TEST)
def test_no_other_seed_is_advised_for_a_class_that_was_given_to_the_test_alone(tmp_path, case):
    given = ONLY_IN_TEST[case]
    files = [(f"{label}{n}.jpg", label, given[n % 3]) for label in "ab" for n in range(9)]
    files += [(f"c{n}.jpg", "c", "test") for n in range(4)]
    put(tmp_path, *(name for name, _, _ in files))
    with pytest.raises(DataError, match="too few training images of the class c") as caught:
        load_dataset(listing(tmp_path / "x.csv", "path,label,split", *map(",".join, files)))
    assert caught.value.fix == "add images of it to the training split, or leave the class out"


def test_no_other_seed_is_advised_for_a_split_of_no_share(pets):
    with pytest.raises(DataError, match="validation split of pets is empty") as caught:
        load_dataset(pets, shares=Shares(validation=0)).require_all_splits()
    assert "--seed" not in caught.value.fix


def test_an_empty_split_that_was_given_is_not_drawn_with_another_seed(tmp_path):
    put(tmp_path, *(f"train/{label}/{n}.jpg" for label in "ab" for n in range(9)))
    for split in ("validation", "test"):
        for label in "ab":
            (tmp_path / split / label).mkdir(parents=True)
            (tmp_path / split / label / "empty.jpg").touch()
    dataset = load_dataset(tmp_path)
    with pytest.raises(DataError, match=r"validation split of .* is empty") as caught:
        dataset.require_all_splits()
    assert caught.value.fix == "add images to the validation split"


# The rules for splits, on digests alone

numbers = st.lists(st.integers(0, 10_000), max_size=50)
seeds = st.integers(-5, 1000)
share_pairs = st.tuples(st.floats(0, 0.45), st.floats(0, 0.45))


def by_its_bytes(number, seed, shares):
    """Tell which split an image's bytes alone would give it."""
    drawn = hashlib.sha256(b"%d:" % seed + fake_digest(number)).digest()
    place = int.from_bytes(drawn[:8], "big") / 2**64
    if place < shares.test:
        return "test"
    return "validation" if place < shares.test + shares.validation else "train"


def have_a_third(splits, shares):
    """Tell whether a class has a third of its share of each split, at least."""
    counts, n = Counter(splits), len(splits)
    train = max(2, (1 - shares.test - shares.validation) * n / 3)
    held_out = (
        counts[split] >= max(share * n / 3, share > 0)
        for split, share in (("test", shares.test), ("validation", shares.validation))
    )
    return counts["train"] >= train and all(held_out)


@given(st.sets(st.integers(0, 10_000), min_size=2, max_size=80), seeds, share_pairs)
def test_an_images_bytes_decide_its_split_where_each_split_has_a_third_of_its_share(
    images, seed, shares
):
    images, shares = sorted(images), Shares(*shares)
    drawn = [by_its_bytes(number, seed, shares) for number in images]
    found = assign(plain(len(images)), images, seed=seed, shares=shares)
    assert found == drawn or not have_a_third(drawn, shares)


@pytest.mark.parametrize("seed", range(3))
def test_adding_images_moves_none_of_a_class_that_has_some_in_every_split(seed):
    before = [*plain(200), *plain(60, "b")]
    both = [*before, *plain(40), *plain(7, "b"), *plain(5, "new")]
    assert assign(both, seed=seed)[: len(before)] == assign(before, seed=seed)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("count", "fewest"),
    [
        (2, {"train": 2}),
        (3, {"train": 2, "test": 1}),
        (4, {"train": 2, "test": 1, "validation": 1}),
        (8, {"train": 2, "test": 1, "validation": 1}),
        (25, {"train": 5, "test": 3, "validation": 2}),
    ],
)
def test_every_class_is_in_every_split_as_far_as_its_number_allows(count, fewest, seed):
    entries = [*plain(1000, "common"), *plain(count, "rare")]
    found = Counter(assign(entries, seed=seed)[1000:])
    assert all(found[split] >= least for split, least in fewest.items())


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("mixed", [False, True])
def test_groups_of_very_different_size_come_near_the_shares_and_stay_whole(seed, mixed):
    sizes = (40, 30, 25, 20, 15, 12, 9, 7, 6, 5, 3, 2, 2, 1)  # 177 images of 14 patients
    entries = [
        Entry(Path("x"), "ab"[(n if mixed else group) % 2], group=f"patient {group}")
        for group, size in enumerate(sizes)
        for n in range(size)
    ]
    splits = np.array(assign(entries, seed=seed))
    assert np.mean(splits == "test") == pytest.approx(0.25, abs=0.0501)
    assert np.mean(splits == "validation") == pytest.approx(0.15, abs=0.0501)
    assert len({(entry.group, split) for entry, split in zip(entries, splits)}) == 14
    assert len({(entry.label, split) for entry, split in zip(entries, splits)}) == 6
    assert assign(entries, seed=seed) == splits.tolist()
    backwards = assign(entries[::-1], range(len(entries))[::-1], seed=seed)[::-1]
    assert backwards == splits.tolist()


@given(numbers.flatmap(lambda some: st.tuples(st.just(some), st.permutations(range(len(some))))))
def test_neither_order_nor_names_decide_a_split(drawn):
    some, order = drawn
    straight = assign(plain(len(some)), some)
    renamed = [Entry(Path(f"other/{n}.png"), "other") for n in order]
    assert assign(renamed, [some[n] for n in order]) == [straight[n] for n in order]


@given(numbers)
def test_images_with_the_same_bytes_are_drawn_into_the_same_split(some):
    splits = assign(plain(2 * len(some)), some + some)
    assert splits[: len(some)] == splits[len(some) :]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 500)), max_size=60), seeds)
def test_a_group_is_never_in_two_splits(images_of_groups, seed):
    entries = [Entry(Path(f"{n}"), "a", group=f"g{g}") for n, (g, _) in enumerate(images_of_groups)]
    splits = assign(entries, [digest for _, digest in images_of_groups], seed=seed)
    pairs = {(entry.group, split) for entry, split in zip(entries, splits, strict=True)}
    assert len(pairs) == len({entry.group for entry in entries})


@pytest.mark.parametrize("shares", [(0.15, 0.25), (0.0, 0.3), (0.4, 0.0), (0.3, 0.5)])
def test_shares_come_out_near_what_was_asked(shares):
    counts = Counter(assign(plain(20_000), shares=Shares(*shares)))
    # Five standard deviations of a share of 0.5.
    assert counts["validation"] / 20_000 == pytest.approx(shares[0], abs=0.018)
    assert counts["test"] / 20_000 == pytest.approx(shares[1], abs=0.018)
    assert (counts["validation"] == 0) == (shares[0] == 0)


def test_each_class_has_its_share_of_each_split():
    entries = plain(9000, "common") + plain(3000, "rare")
    splits = np.array(assign(entries))
    for part in (splits[:9000], splits[9000:]):
        assert np.mean(part == "test") == pytest.approx(0.25, abs=0.04)
        assert np.mean(part == "validation") == pytest.approx(0.15, abs=0.04)


def test_a_larger_share_only_adds_to_the_test_split():
    small, large = (assign(plain(1000), shares=Shares(test=share)) for share in (0.2, 0.3))
    assert all(b == "test" for a, b in zip(small, large, strict=True) if a == "test")
    assert Counter(large)["test"] > Counter(small)["test"]


def test_another_seed_gives_another_split_and_the_same_seed_the_same():
    splits = [assign(plain(200), seed=seed) for seed in (0, 1, 2, -1)]
    assert all(a != b for a, b in pairwise(splits))
    assert assign(plain(200), seed=0) == splits[0]


@given(
    st.lists(
        st.tuples(st.sampled_from(["train", "validation", "test", ""]), st.integers(0, 50)),
        max_size=60,
    ),
    seeds,
)
def test_given_splits_are_respected_and_what_is_missing_comes_out_of_train(images_given, seed):
    splits_given = [split for split, _ in images_given]
    entries = [Entry(Path(f"{n}"), "a", split) for n, split in enumerate(splits_given)]
    splits = assign(entries, [digest for _, digest in images_given], seed=seed)
    absent = {"validation", "test"} - set(splits_given)
    for asked, split in zip(splits_given, splits, strict=True):
        if asked in ("validation", "test"):
            assert split == asked
        elif asked == "train":
            assert split in {"train", *absent}
        else:
            assert split in SPLITS


def test_where_all_splits_are_given_nothing_is_drawn():
    entries = [Entry(Path(f"{n}"), "a", SPLITS[n % 3]) for n in range(300)]
    assert assign(entries) == [entry.split for entry in entries]


def test_the_share_carved_out_of_train_is_the_share_of_train():
    entries = [Entry(Path(f"{n}"), "a", "train" if n % 2 else "test") for n in range(20_000)]
    splits = np.array(assign(entries))
    assert np.mean(splits[1::2] == "validation") == pytest.approx(0.15, abs=0.02)
    assert set(splits[::2]) == {"test"}


def test_a_group_that_is_given_two_splits_is_refused():
    entries = [Entry(Path("1"), "a", "train", "g"), Entry(Path("2"), "a", "test", "g")]
    with pytest.raises(DataError, match="the group g is in train and in test"):
        assign([*entries, Entry(Path("3"), "a", "validation")])


def test_a_group_is_not_a_digest_that_reads_the_same():
    """An image without a group must not be bound to a group by its name."""
    entries = [Entry(Path("1"), "a", group=f"g{n}") for n in range(200)]
    digests = [f"g{n}".encode() for n in range(200)]
    grouped = assign_splits(entries, digests, 0, Shares())
    alone = assign_splits(plain(200), digests, 0, Shares())
    assert grouped != alone


# Copies of an image in several splits


def with_copies(rows: list[tuple[int, str]]) -> Dataset:
    return Dataset(
        "copies",
        tuple(Path(f"{place}.png") for place in range(len(rows))),
        tuple(fake_digest(number) for number, _ in rows),
        Targets(np.zeros(len(rows), np.int64), ("a",)),
        np.array([split for _, split in rows], dtype="<U10"),
    )


@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from(SPLITS)), max_size=40))
def test_of_the_same_bytes_only_those_in_the_most_held_out_split_stay(rows):
    gone = {bad.path for bad in copies_across_splits(with_copies(rows))}
    most = {}
    for number, split in rows:
        most[number] = max(most.get(number, 0), SPLITS.index(split))
    for place, (number, split) in enumerate(rows):
        stays = SPLITS.index(split) == most[number]
        assert (Path(f"{place}.png") in gone) == (not stays)


def test_a_copy_in_another_split_is_set_aside_with_the_file_it_copies(tmp_path):
    names = [f"{split}/{c}/{n}.jpg" for split in SPLITS for c in "ab" for n in "123"]
    put(tmp_path, *names)
    copies = ("train/a/copy.jpg", "validation/a/copy.jpg", "train/b/other label.jpg")
    for copy in copies:
        (tmp_path / copy).write_bytes((tmp_path / "test/a/1.jpg").read_bytes())
    (tmp_path / "test/a/twin.jpg").write_bytes((tmp_path / "test/a/1.jpg").read_bytes())
    dataset = load_dataset(tmp_path)
    assert images(dataset, tmp_path).keys() == {*names, "test/a/twin.jpg"}
    kept = tmp_path / "test/a/1.jpg"
    found = {str(bad.path.relative_to(tmp_path)): bad.reason for bad in dataset.quarantined}
    assert found == dict.fromkeys(copies, f"the same bytes as {kept}, which is in test")


@pytest.mark.parametrize("split", SPLITS)
def test_no_copy_without_a_label_takes_the_place_of_a_labelled_image(tmp_path, split):
    names = [f"{each}/{c}/{n}.jpg" for each in SPLITS for c in "ab" for n in "123456"]
    put(tmp_path, *names)
    labelled = load_dataset(tmp_path)
    for number, path in enumerate(labelled.paths):  # beside the splits: theirs are drawn
        (tmp_path / f"{number}.jpg").write_bytes(path.read_bytes())
    (tmp_path / split / "unlabelled").mkdir()
    (tmp_path / split / "unlabelled" / "b.jpg").write_bytes((tmp_path / names[0]).read_bytes())
    found = images(list_partly_labelled(tmp_path), tmp_path)
    assert images(labelled, tmp_path).items() <= found.items()


def test_a_copy_in_a_group_that_is_held_out_leaves_train(tmp_path):
    put(tmp_path, *(f"{n}.jpg" for n in range(60)))
    lines = [f"{n}.jpg,{'ab'[n % 2]}," for n in range(60)]
    alone = load_dataset(listing(tmp_path / "x.csv", "path,label,group", *lines))
    trained = next(path for path, (_, split) in images(alone, tmp_path).items() if split == "train")
    (tmp_path / "copy.jpg").write_bytes((tmp_path / trained).read_bytes())
    label = images(alone, tmp_path)[trained][0]
    for number in range(100):  # until the group is tested on, and the other is not
        line = f"copy.jpg,{label},g{number}"
        dataset = load_dataset(listing(tmp_path / "y.csv", "path,label,group", *lines, line))
        if trained in reasons(dataset):
            break
    assert images(dataset, tmp_path)["copy.jpg"][0] == label
    assert images(dataset, tmp_path)["copy.jpg"][1] != "train"
    assert reasons(dataset)[trained].startswith("the same bytes as ")


def test_what_copies_leave_behind_must_still_be_enough_to_learn_from(tmp_path):
    put(tmp_path, *(f"{split}/{c}/{n}.jpg" for split in SPLITS for c in "ab" for n in "12"))
    for n in "12":
        (tmp_path / f"train/a/{n}.jpg").write_bytes((tmp_path / f"test/a/{n}.jpg").read_bytes())
    with pytest.raises(
        DataError, match=r"too few training images of the class a \(0\); 2 files .* same bytes"
    ):
        load_dataset(tmp_path)


# The data set as a whole


def test_adding_removing_and_renaming_files_moves_no_image_of_a_folder(pets):
    before = images(load_dataset(pets), pets)
    put(pets, *(f"cats/more {n}.jpg" for n in range(20)), *(f"birds/{n}.jpg" for n in range(20)))
    (pets / "dogs" / "0.jpg").unlink()
    (pets / "dogs" / "1.jpg").rename(pets / "dogs" / "zzz.jpg")
    after = images(load_dataset(pets), pets)
    after["dogs/1.jpg"] = after.pop("dogs/zzz.jpg")
    assert {path: after[path] for path in before if path != "dogs/0.jpg"} == {
        path: split for path, split in before.items() if path != "dogs/0.jpg"
    }


def test_the_digest_of_a_data_set_ignores_order_and_names_and_nothing_else(pets, tmp_path):
    dataset = load_dataset(pets)
    moved = pets.rename(tmp_path / "moved")
    for path in (moved / "cats").iterdir():
        path.rename(path.with_name(f"x{random.random()}.jpg"))
    assert load_dataset(moved).digest == dataset.digest
    assert load_dataset(moved, seed=1).digest != dataset.digest
    labels = dataset.targets.labels.copy()
    labels[0] = 1 - labels[0]
    assert relabelled(dataset, labels).digest != dataset.digest
    assert dataset.without([Quarantined(dataset.paths[0], "")]).digest != dataset.digest


def test_where_finds_the_images_of_splits(pets):
    dataset = load_dataset(pets)
    places = dataset.where("train", "test")
    assert set(dataset.splits[places]) == {"train", "test"}
    assert len(places) + len(dataset.where("validation")) == len(dataset)


def test_files_taken_out_join_the_quarantine_and_the_others_keep_their_values(pets):
    put(pets, "cats/x.txt")
    dataset = load_dataset(pets)
    before = images(dataset, pets)
    left = dataset.without(
        [Quarantined(dataset.paths[7], "why"), Quarantined(dataset.paths[50], "w")]
    )
    assert images(left, pets) == {
        path: value for place, (path, value) in enumerate(before.items()) if place not in (7, 50)
    }
    assert left.digests == (*dataset.digests[:7], *dataset.digests[8:50], *dataset.digests[51:])
    assert [bad.reason for bad in left.quarantined][1:] == ["why", "w"]
    assert len(dataset) == 60


def test_a_file_that_changed_since_it_was_listed_is_not_taken_for_what_it_was(tmp_path):
    file = tmp_path / "a.jpg"
    file.write_bytes(b"one")
    data, digest = read_image(file)
    assert (data, digest) == (b"one", hashlib.sha256(b"one").digest())
    assert read_image(file, digest) == (data, digest)
    file.write_bytes(b"two")
    with pytest.raises(ImageError, match="changed while the work went on"):
        read_image(file, digest)


# Names


NAMES = [
    "with spaces .png",
    "naïve 猫 🐈.png",
    "e\u0301 decomposed.png",
    "new\nline.png",
    "tab\tand 'quotes\" , comma;.png",
    "[red]markup[bold] {x} %s \\n.png",
    "\x1b[31mescape.png",
    "-rf.png",
    os.fsdecode(b"not utf-8 \xff\xe9.png"),
]


def test_files_are_listed_whatever_their_names(tmp_path):
    put(tmp_path, *(f"{c}/{name}" for c in ("a", "b") for name in NAMES))
    dataset = load_dataset(tmp_path, shares=ALL_TO_TRAIN_ON)
    assert {path.name for path in dataset.paths} == set(NAMES)
    assert len(dataset) == 2 * len(NAMES)
    assert dataset.quarantined == ()


@settings(deadline=None, max_examples=30)
@given(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=40))
def test_a_csv_can_name_any_file_whose_name_is_text(tmp_path_factory, name):
    name = name.strip(string.whitespace) or "x"
    folder = tmp_path_factory.mktemp("names")
    try:
        put(folder, "a", "b", "c", f"d{name}d")
    except OSError:  # longer than names can be, in UTF-8
        return
    with (folder / "x.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [("path", "label"), ("a", 1), ("b", 1), ("c", 2), (f"d{name}d", 2)]
        )
    dataset = load_dataset(folder / "x.csv", shares=ALL_TO_TRAIN_ON)
    assert [path.name for path in dataset.paths] == ["a", "b", "c", f"d{name}d"]


def test_odd_names_of_files_and_classes_come_out_of_a_run_as_they_went_in(tmp_path, recipe):
    classes = (os.fsdecode(b"\xff no text"), "line\nbreak")
    photos = paint_classes(tmp_path / "photos", 20, ("blue", "red"))
    for colour, odd in zip(("blue", "red"), classes, strict=True):
        (photos / colour).rename(photos / odd)
        for name in NAMES:
            number = NAMES.index(name)
            (photos / odd / f"{number:03}.png").rename(photos / odd / name)
    run = classify(photos, "knn", extractor=Extractor(recipe, forward=CountingBackbone(recipe)))
    with (run.folder / "predictions.csv").open(
        newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        rows = list(csv.DictReader(file))
    assert {row["path"] for row in rows} == {str(path) for path in photos.rglob("*.png")}
    assert {row["label"] for row in rows} == set(classes)
    assert json.loads((run.folder / "run.json").read_bytes())["dataset"]["classes"] == sorted(
        classes
    )


def test_hashing_is_done_by_several_threads_and_kept_in_order(pets, monkeypatch):
    real = digests_module.read_image
    barrier = threading.Barrier(2, timeout=10)

    def slow(path, digest=None):
        if path.name == "0.jpg":
            barrier.wait()  # both classes' first files at once, or never
        return real(path, digest)

    for number in range(1, 29):
        (pets / "cats" / f"{number}.jpg").unlink()
    monkeypatch.setattr(digests_module, "read_image", slow)
    dataset = load_dataset(pets, shares=ALL_TO_TRAIN_ON)
    assert list(dataset.digests) == [
        hashlib.sha256(path.read_bytes()).digest() for path in dataset.paths
    ]
