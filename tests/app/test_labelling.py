"""A labelling session: what is asked, answered, taken back and kept."""

import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import paint, paint_classes
from rows import noisy

from pipeline import Labelling, PipelineError, load_dataset
from pipeline.app import progress, reviewing
from pipeline.data.listing import list_entries


@pytest.fixture
def loose(tmp_path):
    """Pictures of two colours in one folder, without labels."""
    folder = tmp_path / "loose"
    for number in range(30):
        paint(folder / f"red-{number}.png", (180, 70, 70), number)
        paint(folder / f"blue-{number}.png", (70, 70, 180), 100 + number)
    return folder


@pytest.fixture
def label(extractor):
    def open_here(data, **options):
        return Labelling(data, extractor=extractor, **options)

    return open_here


def truth(path):
    return re.match("[a-z]+", path.name)[0]


def answer(labelling, count):
    for _ in range(count):
        [question] = labelling.next()
        state = labelling.answer(question.path, truth(question.path))
    return state


def test_all_is_asked_once_and_classify_takes_what_was_answered(loose, label):
    labelling = label(loose)
    state = answer(labelling, 60)
    assert labelling.next() == []
    assert (state.labelled, state.unlabelled, state.answered) == (60, 0, 60)
    assert state.counts == {"blue": 30, "red": 30}
    dataset = load_dataset(labelling.file)
    assert all(
        dataset.targets.name(place) == truth(path) for place, path in enumerate(dataset.paths)
    )
    assert len(dataset) == 60


def test_typical_images_of_all_clusters_come_first_then_unsure_ones(loose, label):
    labelling = label(loose)
    first = labelling.next(2)
    assert {truth(question.path) for question in first} == {"red", "blue"}
    assert {question.why for question in first} == {"typical"}
    assert {question.suggested for question in first} == {""}
    answer(labelling, 30)
    [question] = labelling.next()
    assert question.why == "unsure"
    assert question.suggested in ("red", "blue")


def test_class_folders_with_one_image_each_can_be_labelled(tmp_path, label):
    for name in ("red", "blue"):
        paint(tmp_path / "photos" / name / "only.png", (180, 70, 70), len(name))
    labelling = label(tmp_path / "photos")
    assert labelling.next() == []
    assert labelling.answer(0, "red").counts == {"blue": 0, "red": 2}


def test_no_image_is_moved_or_changed(loose, label):
    before = {path: path.read_bytes() for path in loose.rglob("*")}
    answer(label(loose), 5)
    assert {path: path.read_bytes() for path in loose.rglob("*")} == before


def test_an_answer_can_be_taken_back_and_its_image_is_asked_again(loose, label):
    labelling = label(loose)
    state = answer(labelling, 12)
    [question] = labelling.next()
    labelling.answer(question.place, "green")
    assert labelling.undo().path == question.path
    back = labelling.state()
    assert (back.labelled, back.answered, back.accuracy) == (12, 12, state.accuracy)
    assert back.history == state.history
    assert question.path in [each.path for each in labelling.next(60)]
    assert label(loose).state().labelled == 12
    for _ in range(12):
        labelling.undo()
    assert labelling.undo() is None
    assert labelling.state().labelled == 0


def test_labels_of_class_folders_are_learned_and_kept_beside_the_answers(tmp_path, label):
    folder = paint_classes(tmp_path / "photos", 20)
    paint(folder / "red-1.png", (180, 70, 70), 1)
    paint(folder / "blue-1.png", (70, 70, 180), 2)
    labelling = label(folder)
    assert labelling.state().labelled == 40
    questions = {question.path.name: question for question in labelling.next(5)}
    assert questions["red-1.png"].suggested == "red"
    assert questions["blue-1.png"].why == "unsure"
    labelling.answer(folder / "red-1.png", "red")
    labelling.answer(folder / "red" / "000.png", "blue")
    dataset = load_dataset(labelling.file)
    assert dataset.targets.counts().tolist() == [21, 20]
    labelling.undo()
    assert load_dataset(labelling.file).targets.counts().tolist() == [20, 21]


def test_it_goes_on_where_it_was(loose, label):
    answer(label(loose), 7)
    again = label(loose)
    assert again.state().labelled == 7
    assert again.classes == ["blue", "red"]
    assert again.next()[0].why == "typical"


def test_a_new_class_joins_at_the_end_so_that_keys_stay(loose, label):
    labelling = label(loose)
    for name in ("zebra", "ant", "zebra"):
        labelling.answer(labelling.next()[0].place, name)
    assert labelling.classes == ["zebra", "ant"]


@pytest.mark.parametrize("name", ["", "  ", "NaN", "a\nb", "\x1b[31m", "null"])
def test_a_name_that_no_class_can_have_is_refused_and_nothing_changes(loose, label, name):
    labelling = label(loose)
    with pytest.raises(PipelineError, match="cannot be the name of a class"):
        labelling.answer(0, name)
    assert labelling.state().labelled == 0


@pytest.mark.parametrize("image", ["elsewhere.png", 60, -1])
def test_an_image_that_is_not_in_the_data_set_is_refused(loose, label, image):
    with pytest.raises(PipelineError, match="not one of the images"):
        label(loose).answer(image, "red")


def test_two_sessions_see_each_others_answers(loose, label):
    first, second = label(loose), label(loose)
    asked = first.next()[0]
    first.answer(asked.place, "red")
    assert asked.path not in [question.path for question in second.next(60)]
    assert second.classes == ["red"]
    state = second.answer(second.next()[0].place, "green")
    assert state.counts == {"red": 1, "green": 1}
    assert sorted(first.labels())[-2:] == ["green", "red"]  # as a CSV of the page has them
    first.refresh()
    assert first.state().counts == {"red": 1, "green": 1}


def test_only_ones_own_last_answer_is_taken_back(loose, label):
    first, second = label(loose), label(loose)
    first.answer(0, "red")
    second.answer(0, "green")
    with pytest.raises(PipelineError, match="was labelled green in another window meanwhile"):
        first.undo()
    assert label(loose).labels()[0] == "green"
    assert first.labels()[0] == "green"
    assert first.undo() is None
    assert second.undo().label == "red"


def test_an_answer_tells_which_label_it_is_to_replace(loose, label):
    labelling = label(loose)
    labelling.answer(0, "red", was="")
    with pytest.raises(PipelineError, match="was labelled red in another window meanwhile"):
        labelling.answer(0, "green", was="")
    assert labelling.state().counts == {"red": 1}
    labelling.undo()
    with pytest.raises(PipelineError, match="has no label now"):
        labelling.answer(0, "green", was="red")
    assert labelling.labels()[0] == ""


def test_a_skipped_image_comes_last(loose, label):
    labelling = label(loose)
    first = labelling.next()[0]
    labelling.skip(first.place)
    assert labelling.next()[0].path != first.path
    answer(labelling, 59)
    assert [(question.path, question.why) for question in labelling.next(3)] == [
        (first.path, "skipped")
    ]


def test_images_of_the_test_split_are_not_learned_from(tmp_path, label):
    folder = paint_classes(tmp_path / "photos" / "train", 3).parent
    for number in range(8):
        paint(folder / "test" / "red" / f"{number}.png", (180, 70, 70), 5000 + number)
        paint(folder / "test" / "blue" / f"{number}.png", (70, 70, 180), 6000 + number)
    labelling = label(folder)
    assert labelling.state().labelled == 22
    assert np.count_nonzero(labelling._learner.labels >= 0) == 6
    labelling.answer(folder / "train" / "red" / "000.png", "blue")
    listed = list_entries(labelling.file).entries
    assert [entry.split for entry in listed].count("test") == 16
    assert [entry.split for entry in listed].count("train") == 6


def test_labels_that_are_likely_wrong_are_asked_about_in_a_review(tmp_path, extractor):
    folder = paint_classes(tmp_path / "photos", 30)
    shutil.move(folder / "red" / "003.png", folder / "blue" / "wrong.png")
    paint(folder / "loose.png", (180, 70, 70), 1)
    labelling = Labelling(folder, extractor=replace(extractor, forward=noisy))
    assert labelling.review() == 1
    [question] = labelling.next(9)
    assert (question.path.name, question.label) == ("wrong.png", "blue")
    assert (question.suggested, question.why) == ("red", "suspicious")
    labelling.answer(question.path, "red")
    assert [each.path.name for each in labelling.next(9)] == ["loose.png"]
    assert labelling.undo() == question
    assert labelling.next(9) == [question]
    labelling.answer(question.path, "red")
    assert labelling.review() == 0


@pytest.fixture
def suspicious(tmp_path, extractor):
    """Open a data set in which one label is likely wrong, as often as is wanted."""
    folder = paint_classes(tmp_path / "photos", 30)
    shutil.move(folder / "red" / "003.png", folder / "blue" / "wrong.png")
    return lambda: Labelling(folder, extractor=replace(extractor, forward=noisy))


def test_a_label_that_was_confirmed_is_not_asked_about_again(suspicious):
    first, other = suspicious(), suspicious()
    assert first.review() == other.review() == 1
    [question] = first.next()
    first.answer(question.path, "blue")
    for labelling in (first, other, suspicious()):
        assert labelling.review() == 0
        assert labelling.next() == []
    dataset = load_dataset(first.file)
    assert dataset.targets.counts().tolist() == [31, 29]
    assert first.file.read_text().startswith("path,label\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda labelling, image: labelling.undo(),
        lambda labelling, image: labelling.undo(image, "blue"),
        lambda labelling, image: labelling.forget([image]),
    ],
    ids=["undo", "undo of an image", "forget"],
)
def test_a_confirmation_that_was_taken_back_is_asked_for_again(suspicious, change):
    labelling = suspicious()
    labelling.review()
    [question] = labelling.next()
    labelling.answer(question.path, "blue")
    change(labelling, question.path)
    for each in (labelling, suspicious()):
        assert each.review() == 1
        assert each.next() == [question]


def test_an_answer_by_somebody_who_has_not_seen_the_label_confirms_nothing(suspicious):
    labelling, other = suspicious(), suspicious()
    [place] = [at for at, path in enumerate(labelling.dataset.paths) if path.name == "wrong.png"]
    labelling.answer(place, "blue", was="")  # as one that is sent twice, or given by two at once
    assert labelling.review() == 1
    other.answer(place, "blue", was="blue")
    assert labelling.review() == 0
    labelling.undo()
    assert labelling.review() == 0
    other.undo()
    assert labelling.review() == 1


def test_only_the_label_that_was_confirmed_is_not_asked_about(suspicious):
    labelling = suspicious()
    other, wrong = "red/000.png", "blue/wrong.png"
    folder = labelling.dataset.paths[0].parents[1]
    labelling.answer(folder / other, "red")  # as it is
    labelling.answer(folder / other, "blue")  # by mistake
    labelling.answer(folder / wrong, "blue")
    assert suspicious().review() == 1
    assert labelling.review() == 1
    [question] = labelling.next()
    assert (question.path, question.label) == (folder / other, "blue")


def test_a_confirmation_that_cannot_be_kept_is_an_error(suspicious):
    labelling = suspicious()
    Path(".photos-labels.csv.confirmed").mkdir()
    with pytest.raises(
        PipelineError, match="the labels are kept, and then: cannot keep the confirmation of"
    ):
        labelling.answer(0, labelling.labels()[0])


def test_the_other_labels_are_kept_where_a_confirmation_cannot_be(suspicious):
    labelling = suspicious()
    Path(".photos-labels.csv.confirmed").mkdir()
    first, last = labelling.labels()[0], labelling.labels()[-1]
    assert first != last
    with pytest.raises(
        PipelineError, match="the labels are kept, and then: cannot keep the confirmation of"
    ):
        labelling.answer_all([0, len(labelling.dataset) - 1], first)
    assert labelling.labels()[-1] == suspicious().labels()[-1] == first


def test_labels_are_given_while_suspicious_ones_are_looked_for(loose, label, monkeypatch):
    labelling, find_problems = label(loose), reviewing.find_problems
    answer(labelling, 30)

    def slow(*given, **options):
        thread = threading.Thread(target=answer, args=(labelling, 1))
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
        return find_problems(*given, **options)

    monkeypatch.setattr(reviewing, "find_problems", slow)
    labelling.review()
    assert labelling.state().labelled == 31


def test_answers_to_images_that_have_a_label_do_not_say_that_it_is_enough(
    loose, label, monkeypatch
):
    monkeypatch.setattr(progress, "WINDOW", 15)
    labelling = label(loose)
    answer(labelling, 12)
    for _ in range(40):
        state = labelling.answer(0, labelling.labels()[0] or "red")
    assert state.agreement is None
    assert not state.may_stop
    assert len(state.history) <= 13


def test_what_was_predicted_long_ago_is_not_kept(loose, label, monkeypatch):
    monkeypatch.setattr(progress, "WINDOW", 5)
    labelling = label(loose)
    answer(labelling, 40)
    kept = [moment for moment in labelling._progress._moments if moment.predicted is not None]
    assert len(kept) == 6
    history = labelling.state().history
    assert [number for number, _ in history][-5:] == [36, 37, 38, 39, 40]


def test_it_says_when_the_last_fifty_labels_changed_nothing(tmp_path, label, monkeypatch):
    monkeypatch.setattr(progress, "WINDOW", 15)
    folder = tmp_path / "loose"
    for number in range(40):
        paint(folder / f"red-{number}.png", (180, 70, 70), number)
        paint(folder / f"blue-{number}.png", (70, 70, 180), 100 + number)
    labelling = label(folder)
    states = [answer(labelling, 1) for _ in range(40)]
    assert not any(state.may_stop for state in states[:15])
    assert states[-1].may_stop
    assert states[-1].agreement == 1
    assert states[-1].accuracy.value == 1
    assert states[-1].history[-1] == (40, states[-1].accuracy)


@pytest.fixture
def many(tmp_path):
    """Pictures of two colours, as many as must have changed nothing and more."""
    folder = tmp_path / "loose"
    for number in range(40):
        paint(folder / f"red-{number}.png", (180, 70, 70), number)
        paint(folder / f"blue-{number}.png", (70, 70, 180), 100 + number)
    return folder


@pytest.mark.parametrize("sessions", [1, 5])
def test_it_may_stop_whatever_the_number_of_sessions_that_the_labels_were_given_in(
    many, label, sessions
):
    for _ in range(sessions):
        answer(label(many), 70 // sessions)
    state = label(many).state()
    assert (state.may_stop, state.agreement, state.answered) == (True, 1, 0)
    assert [number for number, _ in state.history] == [20, 70]


def test_labels_that_changed_much_do_not_say_after_a_new_start_that_it_is_enough(many, label):
    reds, blues = ([many / f"{name}-{n}.png" for n in range(35)] for name in ("red", "blue"))
    labelling = label(many)
    labelling.answer_all(reds[:10], "red")
    labelling.answer_all(blues[:10], "blue")
    labelling.answer_all([*reds[10:], *blues[10:]], "green")
    for state in (labelling.state(), label(many).state()):
        assert state.agreement < 0.5
        assert not state.may_stop


def test_fewer_than_fifty_labels_do_not_say_after_a_new_start_that_it_is_enough(many, label):
    answer(label(many), 49)
    assert label(many).state().agreement is None


def test_labels_of_class_folders_do_not_count_as_answers_after_a_new_start(tmp_path, label):
    folder = paint_classes(tmp_path / "photos", 60)
    paint(folder / "loose.png", (180, 70, 70), 1)
    label(folder).answer(folder / "loose.png", "red")
    label(folder).answer_all([folder / "blue" / f"{number:03}.png" for number in range(20)], "red")
    assert label(folder).state().agreement is None


def test_several_images_get_one_label_and_what_they_were_is_told(loose, label):
    labelling = label(loose)
    labelling.answer(0, "green")
    changes = labelling.answer_all([0, labelling.dataset.paths[1], np.int64(2), 2], "red")
    assert [(change.before, change.label) for change in changes] == [
        ("green", "red"),
        ("", "red"),
        ("", "red"),
    ]
    assert [change.path for change in changes] == list(labelling.dataset.paths[:3])
    assert labelling.state().counts == {"green": 0, "red": 3}
    assert label(loose).state().counts == {"red": 3}
    assert labelling.answer_all([], "red") == labelling.forget([]) == []
    assert labelling.undo().place == 2


@pytest.mark.parametrize("images", [[0, 60], [0, "nowhere.png"]])
def test_of_several_images_none_is_changed_if_one_is_not_in_the_data_set(loose, label, images):
    labelling = label(loose)
    for change in (lambda: labelling.answer_all(images, "red"), lambda: labelling.forget(images)):
        with pytest.raises(PipelineError, match="not one of the images"):
            change()
    assert labelling.state().labelled == 0


def test_of_several_images_none_is_changed_if_the_labels_cannot_be_kept(loose, label, monkeypatch):
    labelling = label(loose)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.system.journal.os.fsync", full)
        with pytest.raises(PipelineError, match=r"cannot keep the labels of 4 images .*No space"):
            labelling.answer_all([0, 1, 2, 3], "red")
    assert labelling.state().labelled == label(loose).state().labelled == 0


def test_a_label_is_taken_away_whoever_gave_it_and_not_taken_back_once_more(loose, label):
    first, second = label(loose), label(loose)
    first.answer(0, "red")
    second.answer(1, "red")
    changes = second.forget([0, 1, 2])
    assert [(change.before, change.label) for change in changes] == [
        ("red", ""),
        ("red", ""),
        ("", ""),
    ]
    assert second.undo() is None
    assert second.state().labelled == label(loose).state().labelled == 0
    first.refresh()
    assert first.state().labelled == 0
    assert 0 in [question.place for question in first.next(60)]


def test_what_is_forgotten_has_the_label_of_its_class_folder_again(tmp_path, label):
    folder = paint_classes(tmp_path / "photos", 5)
    labelling = label(folder)
    image = folder / "red" / "000.png"
    labelling.answer(image, "blue")
    [change] = labelling.forget([image])
    assert (change.before, change.label) == ("blue", "red")
    for each in (labelling, label(folder)):
        assert each.state().counts == {"blue": 5, "red": 5}


def test_the_accuracy_is_unknown_while_there_is_one_class(loose, label):
    labelling = label(loose)
    for _ in range(35):
        state = labelling.answer(labelling.next()[0].place, "same")
    assert state.accuracy is None
    assert not state.may_stop


def test_the_labels_lie_in_the_working_directory_unless_another_place_is_named(loose, label):
    assert label(loose).file == Path("loose-labels.csv")
    assert label(loose, labels=loose / "mine.csv").file == loose / "mine.csv"


def test_the_labels_of_another_folder_of_the_same_name_are_not_taken_for_its_own(loose, label):
    answer(label(loose), 3)
    other = loose.parent / "elsewhere" / "loose"
    shutil.copytree(loose, other)
    with pytest.raises(PipelineError, match="has labels of 3 other images"):
        label(other)
    assert len(list_entries("loose-labels.csv").entries) == 3
    labelling = label(other, labels=Path("loose-labels.csv"))  # it is meant
    [remark] = labelling.remarks
    assert remark.startswith("3 of the 3 labels in loose-labels.csv are of images that are not in")
    answer(labelling, 1)
    assert len(list_entries("loose-labels.csv").entries) == 4
    [remark] = label(other).remarks
    assert remark.startswith("3 of the 4 labels")
    assert label(loose).remarks == (remark.replace("3 of", "1 of"),)
