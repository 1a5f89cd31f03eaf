import numpy as np
import pytest
from PIL import Image

from pipeline.report import pictures
from pipeline.report.pictures import draw_confusion, draw_history


def pixels(file):
    with Image.open(file) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def confusion(folder, counts, classes, title="photos: logistic on test"):
    file = folder / f"{len(list(folder.iterdir()))}.png"
    draw_confusion(counts, classes, title, file)
    return pixels(file)


def test_another_confusion_gives_another_picture(tmp_path):
    good = confusion(tmp_path, [[9, 1], [2, 8]], ["cat", "dog"])
    bad = confusion(tmp_path, [[1, 9], [8, 2]], ["cat", "dog"])
    again = confusion(tmp_path, [[9, 1], [2, 8]], ["cat", "dog"])
    assert np.array_equal(good, again)
    assert (good != bad).any(axis=-1).mean() > 0.1


def test_the_darkest_cells_are_where_a_class_is_mostly_sent(tmp_path):
    # Blues goes from nearly white to dark blue; the cells' middles hold the numbers.
    picture = confusion(tmp_path, [[90, 10], [0, 10]], ["cat", "dog"]).astype(int)
    dark = (picture.sum(axis=2) < 300) & (picture[..., 2] > picture[..., 0] + 40)
    rows, columns = np.nonzero(dark[:, : int(picture.shape[1] * 0.75)])
    top = rows < np.median(rows)
    assert columns[top].mean() < columns[~top].mean()  # the diagonal: left above, right below


def test_the_number_in_a_cell_is_how_often_its_row_was_taken_for_its_column(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures, "_save", lambda figure, file: drawn.append(figure))
    draw_confusion([[1, 2000], [3, 4]], ["cat", "dog"], "photos", tmp_path / "x.png")
    axes = drawn[0].axes[0]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 0): "1",
        (1, 0): "2,000",
        (0, 1): "3",
        (1, 1): "4",
    }
    assert axes.get_xlabel() == "predicted"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]


def test_a_class_without_test_images_is_drawn_as_a_row_of_zeros(tmp_path):
    picture = confusion(tmp_path, [[5, 0], [0, 0]], ["cat", "dog"])
    assert picture.std() > 10


@pytest.mark.parametrize(
    "name",
    ["$a$", "$\\frac{$", "50 $ and 60 $", "太陽電池", "a\nb", "\udcff", "x" * 300, "\x00", "_^"],
)
def test_any_class_name_can_be_drawn(tmp_path, name):
    picture = confusion(tmp_path, [[5, 1], [1, 5]], [name, "dog"], title=f"{name}: knn on test")
    assert picture.shape[0] < 2000
    plain = confusion(tmp_path, [[5, 1], [1, 5]], ["cat", "dog"])
    # The matrix keeps most of its room, however long the name.
    assert (picture.std(axis=2) > 5).sum() > 0.3 * (plain.std(axis=2) > 5).sum()


def test_hundreds_of_classes_fit_into_a_picture_of_bounded_size(tmp_path):
    names = [f"class {number}" for number in range(120)]
    picture = confusion(tmp_path, np.eye(120, dtype=int) * 3, names)
    assert picture.shape[0] < 5000
    assert picture.std() > 1


def test_learning_curves_show_both_splits_and_the_epoch_that_was_kept(tmp_path):
    history = {
        "loss": [0.7, 0.5, 0.4],
        "accuracy": [0.5, 0.7, 0.8],
        "val_loss": [0.7, 0.6, 0.65],
        "val_accuracy": [0.5, 0.6, 0.6],
    }
    training = {name: values for name, values in history.items() if not name.startswith("val")}
    drawn = {}
    for name, (curves, epoch) in {
        "both": (history, 2),
        "training": (training, 2),
        "later": (history, 3),
    }.items():
        draw_history(curves, epoch, tmp_path / f"{name}.png")
        drawn[name] = pixels(tmp_path / f"{name}.png")
    assert drawn["both"].std() > 5
    assert (drawn["both"] != drawn["training"]).any()
    assert (drawn["both"] != drawn["later"]).any()
