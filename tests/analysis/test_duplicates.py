"""Duplicates that were added are found, and nothing else."""

import numpy as np
from synthetic import changed, digests, ends, photographs, splits

from pipeline.analysis.duplicates import find_duplicates
from pipeline.analysis.neighbours import find_neighbours


def duplicates(rows, where=None, labels=None, names=None):
    count = len(rows)
    return find_duplicates(
        rows,
        names or digests(count),
        np.zeros(count, np.int64) if labels is None else labels,
        splits(count, 0, 0) if where is None else where,
    )


def test_files_with_the_same_bytes_are_paired_with_the_least_held_out():
    rows, names = photographs(6), digests(6)
    rows[[4, 5]] = rows[1]
    names[4] = names[5] = names[1]
    where = np.array(["train", "test", "train", "train", "validation", "train"])
    pairs = duplicates(rows, where, names=names).pairs
    assert ends(pairs) == [(5, 1), (5, 4)]
    assert {pair.kind for pair in pairs} == {"same bytes"}
    assert pairs[0].splits == ("train", "test")


def test_changed_copies_are_found_among_photographs_and_nothing_else():
    rows = photographs(60)
    rows[50:55] = [changed(rows[place], 0.03, seed=place) for place in range(5)]
    pairs = duplicates(rows, splits(40, 5, 15)).pairs
    assert sorted(ends(pairs)) == [(place, 50 + place) for place in range(5)]
    assert all(0.95 < pair.similarity < 0.99 and pair.kind == "near" for pair in pairs)


def test_where_all_images_are_similar_only_copies_are_duplicates():
    base = photographs(1)[0]
    rows = np.stack([changed(base, 0.008, seed=place) for place in range(40)])
    assert find_neighbours(rows, 1)[0].similarities.min() > 0.98
    assert duplicates(rows).pairs == ()
    rows[7] = changed(rows[3], 0.0005, seed=99)
    assert ends(duplicates(rows).pairs) == [(3, 7)]


def test_two_similar_images_alone_are_not_duplicates_as_there_is_nothing_to_compare_with():
    row = photographs(1)[0]
    assert duplicates(np.stack([row, changed(row, 0.03)])).pairs == ()


def test_the_copy_itself_does_not_count_among_the_three_nearest_to_compare_with():
    rows = photographs(40)
    rows[[10, 11]] = [changed(rows[0], 0.15, seed=place) for place in (1, 2)]
    rows[20] = changed(rows[0], 0.03, seed=3)
    assert ends(duplicates(rows).pairs) == [(0, 20)]


def test_of_two_images_the_one_with_the_closer_others_decides():
    axes = np.eye(30, dtype=np.float32)
    crowd = [axes[0] + 0.3 * axes[1] + 0.15 * axes[place] for place in range(2, 8)]
    alone = axes[0] - 0.16 * axes[1]  # about 0.013 from the second, and 0.1 from the crowd
    rows = np.stack([alone, axes[0], *crowd, *axes[10:]])
    assert find_neighbours(rows, 1)[0].places[0] == 1
    assert duplicates(rows).pairs == ()
    assert ends(duplicates(np.delete(rows, range(2, 8), axis=0)).pairs) == [(0, 1)]


def test_more_copies_than_neighbours_are_all_in_one_group():
    rows = photographs(40)
    rows[:30] = rows[0]
    found = duplicates(rows)
    assert ends(found.pairs) == [(0, place) for place in range(1, 30)]
    assert len(set(found.groups[:30])) == 1
    assert len(set(found.groups)) == 11


def test_rows_of_zeros_are_duplicates():
    rows = photographs(12)
    rows[[2, 9]] = 0
    assert ends(duplicates(rows).pairs) == [(2, 9)]


def test_pairs_across_splits_come_first_and_different_labels_are_reported():
    rows = photographs(40)
    rows[1] = changed(rows[0], 0.001)
    rows[39] = changed(rows[2], 0.02)
    labels = np.zeros(40, np.int64)
    labels[1] = 1
    found = duplicates(rows, splits(30, 0, 10), labels)
    assert ends(found.pairs) == [(2, 39), (0, 1)]
    assert ends(found.across) == [(2, 39)]
    assert ends(found.contradictory) == [(0, 1)]
