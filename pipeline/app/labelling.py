"""Labelling images: which to ask about next, what was answered, and when it is enough."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.analysis.active_learning import NONE, ActiveLearner
from pipeline.analysis.problems import find_problems
from pipeline.analysis.reduction import reduced_rows
from pipeline.app.labels import ChangedError, LabelsFile
from pipeline.app.progress import LabellingState, Moment, agreement_of, is_steady
from pipeline.app.questions import Answer, Question
from pipeline.data.listing import list_entries
from pipeline.data.loading import list_partly_labelled
from pipeline.data.names import MISSING, UNCLEAR, nfc
from pipeline.data.splits import Shares
from pipeline.data.targets import Targets
from pipeline.data.urls import locate, whole_name
from pipeline.errors import PipelineError, printable
from pipeline.evaluation.groups import find_units
from pipeline.evaluation.intervals import Share
from pipeline.features.extractor import Extractor, extract
from pipeline.features.listener import Listener

_TYPICAL = 30  # images that are labelled before the classifier is asked what it is unsure of
_WINDOW = 50  # labels that must have changed nothing
_AGREEMENT = 0.99
_FEWEST_TO_JUDGE = 10

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
        file = LabelsFile(labels or Path(f"{listed.name}-labels.csv"), entries)
        if labels is None and file.foreign and not file.own:
            raise PipelineError(
                f"{file.path} has labels of {file.foreign:,} other images, of those here none.",
                fix="name another file with labels (--labels), or this one, if all are to be in it",
            )
        self.remarks: tuple[str, ...] = ()
        if file.foreign:
            remark = (
                f"{file.foreign:,} of the {file.own + file.foreign:,} labels in {file.path} are of "
                f"images that are not in {listed.name}: they stay there."
            )
            self.remarks = (remark,)
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
        self._take_in()
        missing = np.flatnonzero(self._labels == NONE)
        first = _TYPICAL - (len(rows) - len(missing))
        self._typical = (
            list(self._learner.typical(missing, first)) if first > 0 < len(missing) else []
        )
        self._suspects: dict[int, str] = {}
        self._skipped: dict[int, None] = {}
        self._answers: list[Answer] = []
        self._moments = [self._moment()]

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
            place, label = self._find(image), self._checked(label)
            before = self._put(place, label, was)
            suspected = self._suspects.pop(place, None)
            self._answers.append(Answer(place, label, before, suspected))
            self._skipped.pop(place, None)
            self._changed(place, label)
            self._keep_moment(1 if before else 0)
            return self.state()

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
            if not answers or (label and self._checked(label) != answers[-1].label):
                raise ChangedError.of(self.dataset.paths[place], self.labels()[place])
            last = answers[-1]
            try:
                self._put(place, last.before, last.label)
            except ChangedError:
                self._answers.remove(last)
                raise
            self._answers.remove(last)
            if last.suspected is not None:
                self._suspects = {place: last.suspected, **self._suspects}
            self._changed(place, last.before)
            self._keep_moment(1 if last.before else 2)
            return self._question(place, "undone" if last.suspected is None else "suspicious")

    def review(self) -> int:
        """Ask next about the labels that are likely wrong, and tell how many these are.

        They are those that `pipeline problems` finds. Answer with the same label to confirm it.
        """
        with self._lock:
            self.refresh()
            before = self._labels.copy()
        places = np.flatnonzero(before != NONE)
        used, labels = np.unique(before[places], return_inverse=True)
        if len(used) < 2:
            return 0
        order = sorted(range(len(used)), key=lambda at: self.classes[used[at]])
        names = tuple(self.classes[used[at]] for at in order)
        labelled = replace(
            self.dataset.take(places),
            targets=Targets(np.argsort(order)[labels], names),
        ).all_in("train")
        rows = self._extraction.rows(places=[*map(int, places)])
        # Meanwhile, labels are given.
        suspects = find_problems(labelled, rows, repeats=0, seed=self._seed).labels.suspects
        likely = {
            int(places[suspect.place]): names[suspect.suggested]
            for suspect in suspects
            if suspect.likely
        }
        with self._lock:
            self._suspects = {
                place: name
                for place, name in likely.items()
                if self._labels[place] == before[place]
            }
            return len(self._suspects)

    def end_review(self) -> None:
        """Ask about images without a label again."""
        with self._lock:
            self._suspects.clear()

    def state(self) -> LabellingState:
        """Tell how far the labelling is."""
        with self._lock:
            before, now = self._moments[-_WINDOW - 1 :][0], self._moments[-1]
            full = len(self._moments) > _WINDOW and before.predicted is not None
            agreement = agreement_of(before, now, self._labels == NONE) if full else None
            counts = np.bincount(self._labels[self._labels != NONE], minlength=len(self.classes))
            return LabellingState(
                counts=dict(zip(self.classes, counts.tolist())),
                labelled=now.labelled,
                unlabelled=len(self.dataset) - now.labelled,
                answered=len(self._answers),
                accuracy=now.accuracy,
                history=tuple((m.labelled, m.accuracy) for m in self._moments if m.accuracy),
                agreement=agreement,
                may_stop=(agreement or 0) >= _AGREEMENT and is_steady(before, now),
                unwritten=self._file.unwritten,
            )

    def labels(self) -> list[str]:
        """Give the label of each image so far, empty where it has none."""
        with self._lock:
            names = [*self.classes, ""]  # the last for `NONE`
            return [names[label] for label in self._labels]

    def refresh(self) -> None:
        """Take in what others answered."""
        with self._lock:
            self._file.refresh()
            if self._file.rereads != self._seen:
                self._take_in()
                self._keep_moment(1)

    def _put(self, place: int, label: str, was: str | None) -> str:
        """Keep a label, and give the one that it replaces."""
        try:
            return self._file.put(self.dataset.paths[place], label, was)
        except ChangedError:
            self.refresh()
            raise

    def _take_in(self) -> None:
        """Learn the labels in the file that are not learned."""
        found = self._file.labels
        new = sorted({found[key] for key in self._keys if key in found} - {*self.classes})
        self.classes += new
        number = {name: label for label, name in enumerate(self.classes)} | {"": NONE}
        labels = np.array([number[found.get(key, "")] for key in self._keys], np.int64)
        self._learn(np.flatnonzero(labels != self._labels), labels)

    def _learn(self, places: Places, labels: Places) -> None:
        self._labels[places] = labels[places]
        learned = places[self.dataset.splits[places] != "test"]
        self._learner.learn(learned, labels[learned])
        self._seen = self._file.rereads

    def _changed(self, place: int, label: str) -> None:
        """Learn one answer, and what others answered meanwhile."""
        if label and label not in self.classes:
            self.classes.append(label)
        if self._file.rereads != self._seen:
            self._take_in()
        labels = self._labels.copy()
        labels[place] = self.classes.index(label) if label else NONE
        self._learn(np.array([place]), labels)

    def _keep_moment(self, replaced: int) -> None:
        """Add what the classifier says now, in place of some that were last."""
        moments = self._moments
        moments[len(moments) - replaced :] = [self._moment()]
        if len(moments) > _WINDOW + 1:
            moments[-_WINDOW - 2] = replace(moments[-_WINDOW - 2], predicted=None)

    def _moment(self) -> Moment:
        labelled = int(np.count_nonzero(self._labels != NONE))
        if len(self._learner.classes) < 2:
            return Moment(labelled, None, None)
        accuracy = None
        if np.count_nonzero(self._learner.labels != NONE) >= _FEWEST_TO_JUDGE:
            places, predicted = self._learner.held_out()
            hits = np.count_nonzero(self._labels[places] == predicted)
            accuracy = Share(int(hits), len(places))
        return Moment(labelled, accuracy, self._learner.predicted().astype(np.int32))

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
        predicted = self._moments[-1].predicted
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
        place = image if isinstance(image, int) else self._place.get(whole_name(locate(image)), -1)
        if not 0 <= place < len(self.dataset):
            raise PipelineError(f"{image} is not one of the images of {self.dataset.name}.")
        return place

    def _checked(self, label: str) -> str:
        name = nfc(label.strip())
        if name in self.classes:
            return name
        if not name or name in MISSING - UNCLEAR or printable(name) != name:
            raise PipelineError(
                f"{label!r} cannot be the name of a class.",
                expected="a name on one line, and not as programs write a missing value",
            )
        return name
