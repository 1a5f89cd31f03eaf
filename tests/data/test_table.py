"""CSV files: every way to write them is read as it is meant, or refused with the line."""

import pytest

from pipeline.data.listing import list_entries
from pipeline.errors import DataError

ROWS = [("a.jpg", "cat"), ("b.jpg", "cat"), ("c.jpg", "dog"), ("d.jpg", "dog")]
LINES = ["path,label", "a.jpg,cat", "b.jpg,cat", "c.jpg,dog", "d.jpg,dog"]


@pytest.fixture
def listed(tmp_path):
    """Write a CSV, and list it."""

    def write_and_list(text, **options):
        file = tmp_path / "x.csv"
        file.write_bytes(text if isinstance(text, bytes) else text.encode(**options))
        return list_entries(file)

    return write_and_list


def rows(listing, tmp_path):
    return [(str(e.path.relative_to(tmp_path)), e.label) for e in listing.entries]


TEXT = "\n".join(LINES)
READ = {
    "as it should be": TEXT,
    "without a last line's end": TEXT.rstrip(),
    "semicolons": TEXT.replace(",", ";"),
    "tabs": TEXT.replace(",", "\t"),
    "bars": TEXT.replace(",", "|"),
    "spaces after commas": TEXT.replace(",", ", "),
    "spaces and quotes": TEXT.replace(",cat", ', "cat"').replace(",label", ', "label"'),
    "semicolons and quotes": '"path";"label"\n' + "\n".join(f'"{p}";"{c}"' for p, c in ROWS),
    "capitals": TEXT.replace("path,label", "Path,LABEL"),
    "the delimiter declared": "sep=;\r\n" + TEXT.replace(",", ";").replace("\n", "\r\n"),
    "with a mark of UTF-8": "\ufeff" + TEXT,
    "the mark, and capitals in quotes": "\ufeff" + TEXT.replace("path,label", '"Path","Label"'),
    "line ends of Windows": TEXT.replace("\n", "\r\n"),
    "line ends of old": TEXT.replace("\n", "\r"),
    "blank lines": TEXT.replace("\n", "\n\n  \n"),
    "lines of commas at the end": TEXT + "\n,\n,\n,,,\n",
    "a comma at each line's end": "\n".join(f"{line}," for line in LINES),
    "a comma at each line's end but the first's": TEXT.replace("cat", "cat,").replace(
        "dog", "dog,"
    ),
    "two files, one after the other": TEXT + "\n" + TEXT,
    "labels first": "label,path\n" + "\n".join(f"{label},{path}" for path, label in ROWS),
    "no value in the last column": TEXT.replace("path,label", "path,label,split"),
}


@pytest.mark.parametrize("case", READ)
def test_a_csv_is_read_however_it_is_written(listed, tmp_path, case):
    listing = listed(READ[case])
    assert rows(listing, tmp_path) == ROWS
    assert listing.remarks == []


REFUSED = {
    "two labels": (["a.jpg,cat,outdoor"], "line 6: 3 values (a.jpg, cat, outdoor) for 2 columns"),
    "a comma in a label": (["a.jpg,animal, cat"], "line 6: 3 values (a.jpg, animal, cat)"),
    "a comma in a path": (["a, b.jpg,cat"], "line 6: 3 values"),
    "a surplus value far right": (["a.jpg,cat,,,x"], "line 6: 5 values"),
    "no label": (["e.jpg"], "line 6: the label is empty"),
    "an empty label": (["e.jpg,"], "line 6: the label is empty"),
    "a blank label": (['e.jpg,"  "'], "line 6: the label is empty"),
    "no path": ([",cat"], "line 6: the path is empty"),
    **{
        f"a label {missing}": ([f"e.jpg,{missing}"], f"line 6: the label is {missing}, a missing")
        for missing in ("NaN", "nan", "NULL", "<NA>", "#N/A", "\\N")
    },
    "an unknown scheme": (["foo://x/e.jpg,cat"], "line 6: foo://x has an unknown scheme, foo://"),
    "a scheme whose package is missing": (
        ["hdfs://x/e.jpg,cat"],
        "line 6: hdfs:// needs a package that is not installed",
    ),
    "a quote left open": (['e.jpg,"cat', "f.jpg,dog"], "line 7: unexpected end of data"),
    "a quote left open, and another": (
        ['e.jpg,"cat', 'f.jpg,dog"', "g.jpg,dog"],
        "line 7: the label has a line break in it",
    ),
    "text after a quote": (['e.jpg,"cat" x'], "line 6: ',' expected after '\"'"),
    "the same file as another class": (["a.jpg,dog"], "line 6: a.jpg is listed as dog, and as cat"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_row_that_cannot_be_meant_is_refused_with_its_line(listed, case):
    lines, message = REFUSED[case]
    with pytest.raises(DataError) as caught:
        listed("\n".join([*LINES, *lines]))
    assert message in caught.value.found
    assert caught.value.expected or caught.value.fix or "empty" in message


@pytest.mark.parametrize(
    ("column", "value"), [("split", "nan"), ("group", "NaN"), ("group", "None"), ("group", "NULL")]
)
def test_a_missing_split_or_group_is_no_name(listed, column, value):
    with pytest.raises(DataError, match=rf"line 2: the {column} is {value}") as caught:
        listed(f"path,label,{column}\na.jpg,cat,{value}\n")
    assert caught.value.fix == "leave it empty"


@pytest.mark.parametrize(
    ("header", "message", "fix"),
    [
        ("path,label,label", "the column label 2 times", "delete or rename"),
        ("path,Label,label", "the column label 2 times", "delete or rename"),
        ("path,path,label", "the column path 2 times", "delete or rename"),
        ("path,label,group,Group", "the column group 2 times", "delete or rename"),
        ("file,label", "lacks the column path; it has file, label", "the column file to path"),
        ("image_path,class", "it has image_path, class", "label and rename the column image_path"),
        ("Filename;Category", "it has Filename, Category", "rename the column Category to label"),
        ("a.jpg,cat", "lacks the column label, path", "names of the columns into the first line"),
    ],
)
def test_a_first_line_that_is_not_clear_is_refused_with_what_to_change(
    listed, header, message, fix
):
    with pytest.raises(DataError) as caught:
        listed(f"{header}\na.jpg,cat,dog,1\n")
    assert message in caught.value.found
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("header", "remarks"),
    [
        ("path,label,when", ["The column when is not used."]),
        ("path,label,patient", ["The column patient is not used: did you mean group (images of"]),
        ("path,label,Patient ID", ["The column Patient ID is not used: did you mean group ("]),
        ("path,label,subjectId", ["The column subjectId is not used: did you mean group ("]),
        ("path,label,slide_no", ["The column slide_no is not used: did you mean group ("]),
        ("path,label,batch", ["did you mean group"]),
        ("path,label,subset", ["The column subset is not used: did you mean split?"]),
        (",path,label", ["Column 1, which has no name, is not used."]),
        ("path,label,a,b,c,d,e", ["column a ", "column b ", "column c ", "not used: d, e."]),
    ],
)
def test_a_column_that_is_not_used_is_named_with_what_it_may_be_meant_for(listed, header, remarks):
    columns = header.split(",")
    lines = [
        ",".join({"path": f"{n}.jpg", "label": "ab"[n % 2]}.get(name, str(n)) for name in columns)
        for n in range(4)
    ]
    said = listed("\n".join([header, *lines])).remarks
    assert len(said) == len(remarks)
    assert all(part in remark for part, remark in zip(remarks, said, strict=True))


def test_a_file_listed_twice_in_two_forms_of_unicode_is_listed_alike(listed):
    lines = ["path,label", "a.jpg,caf\u00e9", "a.jpg,cafe\u0301", "b.jpg,dog"]
    assert len(listed("\n".join(lines)).entries) == 2


def test_a_patient_beside_a_group_needs_no_question(listed):
    said = listed("path,label,group,patient\na.jpg,cat,1,7\nb.jpg,dog,2,8\n").remarks
    assert said == ["The column patient is not used."]


def test_a_path_from_windows_finds_its_file(listed, tmp_path):
    (tmp_path / "img").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "img" / name).touch()
    (tmp_path / "odd\\name.jpg").touch()
    listing = listed(
        "path,label\nimg\\a.jpg,cat\nimg\\b.jpg,dog\nodd\\name.jpg,dog\nimg\\no.jpg,cat"
    )
    names = [str(entry.path.relative_to(tmp_path)) for entry in listing.entries]
    assert names == ["img/a.jpg", "img/b.jpg", "odd\\name.jpg", "img\\no.jpg"]
