"""Which folders of a data set are splits, and which are classes; refused where that is a guess."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.data.dataset import shorten
from pipeline.data.entries import LAYOUTS, SPLIT_NAMES
from pipeline.data.images import EXTENSIONS
from pipeline.data.names import MISSING, UNCLEAR
from pipeline.data.tree import Parts, why_no_image
from pipeline.data.urls import Location
from pipeline.errors import DataError

_SPLIT = "(?:train(?:ing)?|test(?:ing)?|val(?:id(?:ation)?)?|dev(?:elopment)?|eval(?:uation)?)"
_FILLER = (
    "(?:data(?:set)?|set|split|part|images?|imgs?|pictures?|pics|photos?|samples?|examples?|files?"
    "|folder|dir)"
)
_SPLIT_WORD = re.compile(f"{_SPLIT}+{_FILLER}?|holdout")
_FILLER_WORD = re.compile(_FILLER)
_WORD = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])")  # in trainA, training_set, val2017
_ORDINARY_WORDS = frozenset({"train", "valid"})  # a class may be called that


@dataclass
class Contents:
    """What lies in one folder: the names of its folders, and whether there are images beside."""

    folders: set[str] = field(default_factory=set)
    has_images: bool = False


def contents_by_name(
    files: Mapping[Parts, Collection[Location]], level: int
) -> dict[str, Contents]:
    """Gather what lies in the folders at a level: 0 for those in the root; empty ones are none."""
    found: dict[str, Contents] = defaultdict(Contents)
    for parts, inside in files.items():
        if len(parts) > level and inside:
            contents = found[parts[level]]
            if len(parts) > level + 1:
                contents.folders.add(parts[level + 1])
            else:
                contents.has_images |= any(file.suffix.lower() in EXTENSIONS for file in inside)
    return dict(sorted(found.items()))


def find_splits(root: Location, tops: Mapping[str, Contents]) -> dict[str, str]:
    """Tell the split of each top folder; none at all where they are classes.

    They are splits if all have a split's name, and one named for training holds folders.

    Raises
    ------
    DataError
        Some look like splits, and it cannot be told for certain.
    """
    splits = _splits_of(tops)
    trained = _are_trained_on(tops)
    if trained and all(splits.values()):
        return splits
    alike = _look_like_splits(tops)
    others = [name for name in tops if name not in alike]
    if others and all(name.lower() in _ORDINARY_WORDS and not tops[name].folders for name in alike):
        return {}
    if alike:
        unknown = [name for name in alike if not splits[name]]
        beside = f" beside {_named(others)}, which do not" if others else ""
        lacks = "" if trained or unknown else ", but none named train holds class folders"
        advice = [f"rename {_named(unknown)} to train, validation or test"] if unknown else []
        if loose := [name for name in alike if splits[name] == "train" and not trained]:
            advice.append(
                f"put the images in {_named(loose)} into a folder for each class, as "
                f"{loose[0]}/cats/, or list them with their classes in a CSV"
            )
        elif others and not trained and not unknown:
            are = "is a class, give it another name"
            if len(alike) > 1:
                are = "are classes, give them other names"
            advice.append(f"if {_named(alike)} {are}; if not, put {_named(others)} into train/")
        else:
            advice += [f"move {_named(others)} elsewhere"] if others else []
            advice += ["give classes other names"] if others or not unknown else []
        raise DataError(
            f"{root} holds folders that look like splits, {_named(alike)}{beside}{lacks}.",
            expected=LAYOUTS,
            fix="; ".join(advice),
        )
    return {}


def beside_splits(files: Mapping[Parts, Collection[Location]]) -> set[str]:
    """Find the folders that lie beside clear splits and hold no images, such as annotations/."""
    tops = contents_by_name(files, 0)
    if not _are_trained_on(tops):
        return set()
    others = {name for name, split in _splits_of(tops).items() if not split}
    opened: Counter[str] = Counter()
    for parts, inside in files.items():
        if others.intersection(parts[:1]) and not all(why_no_image(f, opened) for f in inside):
            others.remove(parts[0])
    return others


def _splits_of(names: Iterable[str]) -> dict[str, str]:
    return {name: SPLIT_NAMES.get(name.strip().lower(), "") for name in names}


def _are_trained_on(tops: Mapping[str, Contents]) -> bool:
    return any(tops[name].folders for name, split in _splits_of(tops).items() if split == "train")


def check_classes(root: Location, classes: Mapping[str, Contents], *, in_splits: bool) -> None:
    """Refuse folders that are taken for classes, and may well be something else.

    Raises
    ------
    DataError
        They hold splits, or all hold the same folders, or there is one with all classes in it.
    """
    nested = {
        name: sorted(contents.folders)
        for name, contents in classes.items()
        if contents.folders and not contents.has_images
    }
    where = f"the splits of {root}" if in_splits else str(root)
    for name in sorted((MISSING - UNCLEAR).intersection(classes)):
        raise DataError(
            f"{where} {'have' if in_splits else 'has'} a class folder {name}/, which is how "
            "programs write a missing value.",
            fix="move the folder elsewhere, or give the class another name",
        )
    for name, folders in nested.items():
        only = len(classes) == 1
        if only or _look_like_splits(folders) == folders:
            inside = (
                f"{_named(folders)} in it" if only else f"{_named(folders)}, like splits, in it"
            )
            raise DataError(
                f"{where} {'have' if in_splits else 'has'} {'one' if only else 'a'} folder "
                f"{name}/ with {inside}, where a class folder with images was expected.",
                expected=LAYOUTS,
                fix="move these folders up"
                if in_splits
                else f"if {name}/ is the data set, name it: {root / name}; if it is a class, "
                f"put it into each split, as in train/{name}",
            )
    common = sorted(set.intersection(*map(set, nested.values()))) if nested else []
    if len(nested) == len(classes) and len(common) > 1:
        raise DataError(
            f"the folders {_named(classes)} in {where} all hold {_named(common)}: either may be "
            "the classes.",
            expected=LAYOUTS,
            fix=f"if {_named(common)} are the classes, name the others train, validation and test, "
            "or list the images in a CSV; if not, put the images into their class folders directly",
        )


def remarks_on_layout(
    classes: Mapping[str, Contents],
    empty: Collection[str],
    passed_over: Collection[str],
    *,
    in_splits: bool,
) -> Iterable[str]:
    """Say which class folders look like splits or hold folders only, and which are empty."""
    for name in () if in_splits else _look_like_splits(classes):
        yield f"The folder {name}/ is taken for a class, as it holds no folders."
    whole = [name for name, own in classes.items() if len(own.folders) > 1 and not own.has_images]
    if whole:
        each = " each" if len(whole) > 1 else ""
        yield f"The folders in {_named(whole)} are taken for parts of one class{each}."
    if passed_over:
        are = "folders {} hold no images, and are"
        if len(passed_over) == 1:
            are = "folder {} holds no images, and is"
        yield f"The {are.format(_named(sorted(passed_over)))} passed over."
    if empty:
        are = "folder {} is" if len(empty) == 1 else "folders {} are"
        yield f"The {are.format(_named(sorted(empty)))} empty."


def _look_like_splits(names: Iterable[str]) -> list[str]:
    """Find names such as train_images, val2017, and trainA beside testA."""
    splits_of_rest: dict[Parts, set[Parts]] = defaultdict(set)
    rest_of: dict[str, Parts] = {}
    for name in sorted(names):
        words = [word.lower() for word in _WORD.findall(name)]
        splits = tuple(word for word in words if _SPLIT_WORD.fullmatch(word))
        if splits:
            rest = (w for w in words if w not in splits and not _FILLER_WORD.fullmatch(w))
            rest_of[name] = tuple(rest)
            splits_of_rest[rest_of[name]].add(splits)
    return [name for name, rest in rest_of.items() if not rest or len(splits_of_rest[rest]) > 1]


def _named(folders: Iterable[str]) -> str:
    return shorten(f"{name}/" for name in folders)
