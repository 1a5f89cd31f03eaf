"""Labelling images: which to ask about next, what was answered, and when it is enough."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.analysis.active_learning import NONE, ActiveLearner
from pipeline.analysis.reduction import reduced_rows
from pipeline.app.labels import ChangedError, LabelsFile
from pipeline.app.progress import WINDOW, LabellingState, Moment, Progress
from pipeline.app.questions import Answer, Change, Question, class_name
from pipeline.data.confirmed import labels_file_of
from pipeline.data.listing import list_entries
from pipeline.data.loading import list_partly_labelled
from pipeline.data.splits import Shares
from pipeline.data.urls import locate, whole_name
from pipeline.errors import PipelineError
from pipeline.evaluation.groups import find_units
from pipeline.features.extractor import Extractor, extract
from pipeline.features.listener import Listener

_TYPICAL = 30  # images that are labelled before the classifier is asked what it is unsure of

Places = npt.NDArray[np.int64]


class Labelling:
    """Label the images of a data set, those first that teach a classifier most.

    Images need a label if they are beside the class folders or in a folder named unlabelled, or if
    their label in a CSV file is empty; there need be no class folders at all. No image is moved or
    changed: labels are kept in a CSV file that `classify` takes, with those of the class folders.
    First come images that are typical of many, then those that a classifier, trained again after
    each answer, is least sure of. Images that are given the split test are not learned from.

    Several may label the same images at once, in this process or others: an answer is on disk when
    `answer` returns, and of several for an image the last holds. Methods may be called from any
    thread.

    Parameters
    ----------
    data : str or Path
        As for `pipeline.load_dataset`, and images may lack a label.
    labels : Path, optional
        The CSV file; the default is named after the data set, in the working directory.
    extractor : Extractor, optional
        How images become features, and where these are kept; missing ones are computed first.
    seed : int
        Random seed of the order.
    listener : Listener, optional
        Told how far the computing is.

    Attributes
    ----------
    dataset : Dataset
        The images.
    classes : list of str
        Names of the classes, in the order of their keys: a new one joins at the end.
    remarks : tuple of str
        What to know of the file of labels, in sentences.

    Raises
    ------
    PipelineError
        The images or the file of labels cannot be read.

    Examples
    --------
    >>> from pipeline import Labelling
    >>> labelling = Labelling("photos")  # doctest: +SKIP
    >>> [question] = labelling.next()  # doctest: +SKIP
    >>> labelling.answer(question.path, "cats").accuracy  # doctest: +SKIP
    """

    def __init__(
        self,
        data: str | Path,
        *,
        labels: Path | None = None,
        extractor: Extractor | None = None,
        seed: int = 0,
        listener: Listener | None = None,
    ) -> None:
        extractor = extractor or Extractor()
        entries = list_entries(data, unlabelled=True).composed().entries
        none = Shares(validation=0, test=0)
        listed = list_partly_labelled(data, seed=seed, shares=none, cache=extractor.cache)
        file = LabelsFile(labels or labels_file_of(listed.name), entries)
        if labels is None and file.foreign and not file.own:
            raise PipelineError(
                f"{file.path} has labels of {file.foreign:,} other images, of those here none.",
                fix="name another file with labels (--labels), or this one, if all are to be in it",
            )
        self.remarks = file.remarks(listed.name)
        self._extraction = extract(listed, extractor=extractor, learnable=False, listener=listener)
        self.dataset = self._extraction.dataset
        self._file, self._seed = file, seed
        self._lock = threading.RLock()
        rows = reduced_rows(self._extraction, seed=seed)
        self._learner = ActiveLearner(rows, find_units(self.dataset), seed=seed)
        self._keys = [whole_name(path) for path in self.dataset.paths]
        self._place = {key: place for place, key in enumerate(self._keys)}
        self._labels = np.full(len(rows), NONE, np.int64)
        self.classes = sorted(set(file.labels.values()))
        self._progress = Progress(sum(not file.given(path) for path in self.dataset.paths))
        recent = [key for key in file.added if key in self._place][-WINDOW:]
        if len(recent) == WINDOW:  # as it was before these, to tell what they changed
            self._take_in(but=recent)
        self._take_in()
        missing = np.flatnonzero(self._labels == NONE)
        first = _TYPICAL - (len(rows) - len(missing))
        self._typical = (
            list(self._learner.typical(missing, first)) if first > 0 < len(missing) else []
        )
        self._suspects: dict[int, str] = {}
        self._skipped: dict[int, None] = {}
        self._answers: list[Answer] = []

    @property
    def file(self) -> Path:
        """The CSV file with the labels."""
        return self._file.path

    def next(self, count: int = 1) -> list[Question]:
        """Tell which images to label next, the most useful first; none if all have a label.

        Parameters
        ----------
        count : int
            How many, so that a page can load pictures ahead.
        """
        with self._lock:
            self.refresh()
            suspects = [(place, "suspicious") for place in self._suspects]
            return [self._question(*each) for each in (suspects or self._open(count))[:count]]

    def answer(
        self, image: str | Path | int, label: str, *, was: str | None = None
    ) -> LabellingState:
        """Give an image its label; it is on disk when this returns.

        Parameters
        ----------
        image : str, Path or int
            The image, by its file or its position.
        label : str
            A class, which may be new.
        was : str, optional
            The label that it had when it was looked at, empty if none. The answer is refused if
            somebody gave it another one meanwhile.

        Raises
        ------
        PipelineError
            The image is not in the data set, the class cannot be used, or the answer cannot be
            kept; nothing has changed then.
        """
        with self._lock:
            self._give({self._find(image): class_name(label, self.classes)}, was)
            return self.state()

    def answer_all(self, images: Iterable[str | Path | int], label: str) -> list[Change]:
        """Give several images one label, and tell what it was before; all is on disk then.

        As `answer`, and nothing has changed if one of the images is not in the data set.
        """
        with self._lock:
            label = class_name(label, self.classes)
            return self._give({self._find(image): label for image in images})

    def forget(self, images: Iterable[str | Path | int]) -> list[Change]:
        """Take away the labels that images were given, by whomever, and tell what they were.

        Each image has the label again that it has in the data set, as that of its class folder;
        none if it has none there.

        Raises
        ------
        PipelineError
            As for `answer_all`.
        """
        with self._lock:
            places = {self._find(image): None for image in images}
            paths, confirmed = self.dataset.paths, self._file.confirmed()
            self._file.confirm(
                {paths[place]: "" for place in places if self._keys[place] in confirmed}
            )
            labels = {place: self._file.given(paths[place]) for place in places}
            changes = self._give(labels, confirming=False)
            self._answers = [each for each in self._answers if each.place not in places]
            return changes

    def skip(self, image: str | Path | int) -> None:
        """Put an image off until all others are labelled."""
        with self._lock:
            place = self._find(image)
            self._suspects.pop(place, None)
            self._skipped[place] = None

    def undo(
        self, image: str | Path | int | None = None, label: str | None = None
    ) -> Question | None:
        """Take the last answer back, and give its image; None if there is none left.

        Parameters
        ----------
        image : str, Path or int, optional
            Take back the last answer for this image.
        label : str, optional
            Only if this is what was answered.

        Raises
        ------
        PipelineError
            The image has another label by now, or no answer of it is left; nothing has changed.
        """
        with self._lock:
            if image is None and not self._answers:
                return None
            place = self._answers[-1].place if image is None else self._find(image)
            answers = [each for each in self._answers if each.place == place]
            if not answers or (label and class_name(label, self.classes) != answers[-1].label):
                raise ChangedError.of(self.dataset.paths[place], self.labels()[place])
            last = answers[-1]
            try:
                self._put({place: last.before}, last.label)
            except ChangedError:
                self._answers.remove(last)
                raise
            if last.confirmed:
                self._file.confirm({self.dataset.paths[place]: ""})
            self._answers.remove(last)
            if last.suspected is not None:
                self._suspects = {place: last.suspected, **self._suspects}
            self._changed({place: last.before})
            return self._question(place, "undone" if last.suspected is None else "suspicious")

    def review(self) -> int:
        """Ask next about the labels that are likely wrong, and tell how many these are.

        They are those that `pipeline problems` finds. Answer with the same label to confirm it: it
        is not asked about again, after a new start either.
        """
        from pipeline.app.reviewing import likely_wrong  # with scikit-learn, which takes a second

        with self._lock:
            self.refresh()
            before = self._labels.copy()
        # Meanwhile, labels are given.
        likely = likely_wrong(self._extraction, before, self.classes, seed=self._seed)
        with self._lock:
            confirmed = self._file.confirmed()
            self._suspects = {
                place: name
                for place, name in likely.items()
                if self._labels[place] == before[place] and self._keys[place] not in confirmed
            }
            return len(self._suspects)

    def end_review(self) -> None:
        """Ask about images without a label again."""
        with self._lock:
            self._suspects.clear()

    def state(self) -> LabellingState:
        """Tell how far the labelling is."""
        with self._lock:
            missing = self._labels == NONE
            counts = np.bincount(self._labels[~missing], minlength=len(self.classes))
            return self._progress.state(
                dict(zip(self.classes, counts.tolist())),
                missing,
                answered=len(self._answers),
                unwritten=self._file.unwritten,
            )

    def labels(self) -> list[str]:
        """Give the label of each image by now, whoever gave it, empty where it has none."""
        with self._lock:
            self.refresh()
            names = [*self.classes, ""]  # the last for `NONE`
            return [names[label] for label in self._labels]

    def refresh(self) -> None:
        """Take in what others answered."""
        with self._lock:
            self._file.refresh()
            if self._file.rereads != self._seen:
                self._take_in()

    def _give(
        self, labels: Mapping[int, str], was: str | None = None, *, confirming: bool = True
    ) -> list[Change]:
        """Keep the labels of some images, and learn them; those that they had are confirmed."""
        if not labels:
            return []
        seen = confirming and was in (None, *labels.values())
        answers = [
            Answer(place, label, before, self._suspects.get(place), seen and before == label)
            for before, (place, label) in zip(self._put(labels, was), labels.items())
        ]
        paths = self.dataset.paths
        try:
            self._file.confirm(
                {paths[each.place]: each.label for each in answers if each.confirmed}
            )
        except PipelineError as error:
            answers = [each for each in answers if not each.confirmed]
            found = f"the labels are kept, and then: {error.found}"
            raise PipelineError(found, fix=error.fix) from error
        finally:
            for each in answers:
                self._suspects.pop(each.place, None)
                self._skipped.pop(each.place, None)
            self._answers += answers
            self._changed(labels)
        return [Change(paths[each.place], each.before, each.label) for each in answers]

    def _put(self, labels: Mapping[int, str], was: str | None) -> list[str]:
        """Keep labels, and give those that they replace."""
        paths = self.dataset.paths
        try:
            return self._file.put_all({paths[at]: label for at, label in labels.items()}, was)
        except ChangedError:
            self.refresh()
            raise

    def _take_in(self, but: Iterable[str] = ()) -> None:
        """Learn the labels in the file that are not learned, but those of some images."""
        found = self._file.labels
        for key in but:
            del found[key]
        new = sorted({found[key] for key in self._keys if key in found} - {*self.classes})
        self.classes += new
        labels = self._numbers(found.get(key, "") for key in self._keys)
        self._learn(np.flatnonzero(labels != self._labels), labels)

    def _numbers(self, labels: Iterable[str]) -> Places:
        number = {name: label for label, name in enumerate(self.classes)} | {"": NONE}
        return np.array([number[label] for label in labels], np.int64)

    def _learn(self, places: Places, labels: Places) -> None:
        self._labels[places] = labels[places]
        learned = places[self.dataset.splits[places] != "test"]
        self._learner.learn(learned, labels[learned])
        self._seen = self._file.rereads
        self._progress.keep(Moment.of(self._learner, self._labels))

    def _changed(self, given: Mapping[int, str]) -> None:
        """Learn answers, and what others answered meanwhile."""
        self.classes += sorted({*given.values()} - {*self.classes, ""})
        if self._file.rereads != self._seen:
            self._take_in()
        labels = self._labels.copy()
        labels[[*given]] = self._numbers(given.values())
        self._learn(np.array([*given]), labels)

    def _open(self, count: int) -> list[tuple[int, str]]:
        """Give images without a label, in the order of asking."""
        missing = self._labels == NONE
        typical = [place for place in self._typical if missing[place]]
        waiting = missing.copy()
        waiting[[*typical, *self._skipped]] = False
        found = [(place, "typical") for place in typical if place not in self._skipped]
        if len(found) < count:
            unsure = self._learner.unsure(np.flatnonzero(waiting), count - len(found))
            found += [(int(place), "unsure") for place in unsure]
        return [*found, *((place, "skipped") for place in self._skipped if missing[place])]

    def _question(self, place: int, why: str) -> Question:
        suggested = self._suspects.get(place, "")
        predicted = self._progress.now.predicted
        if not suggested and predicted is not None:
            suggested = self.classes[predicted[place]]
        label = self._labels[place]
        return Question(
            int(place),
            self.dataset.paths[place],
            "" if label == NONE else self.classes[label],
            suggested,
            why,
        )

    def _find(self, image: str | Path | int) -> int:
        if isinstance(image, int | np.integer):
            place = int(image)
        else:
            key = whole_name(locate(image))
            place = self._place.get(key, -1)
            for bad in self.dataset.quarantined if place < 0 else ():
                if whole_name(bad.path) == key:
                    raise PipelineError(f"{image} was skipped: {bad.reason}")
        if not 0 <= place < len(self.dataset):
            raise PipelineError(f"{image} is not one of the images of {self.dataset.name}.")
        return place
