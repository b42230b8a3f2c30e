"""What `guie fit` reads in a folder or a CSV, and what it refuses in one line."""

import pytest

from pipeline.errors import BadInput
from pipeline.fitting import looking, tables


def tree(folder, *paths):
    """Empty files: looking opens no image."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def classes(found):
    return {name: sorted(keys) for (_, name), keys in found.classes.items()}


def test_class_folders_are_read_as_they_lie_with_what_is_below_them(tmp_path):
    root = tree(tmp_path / "my pets", "cat/a.jpg", "cat/more/b.PNG", "dog/c.jpeg", ".git/d.jpg")
    found = looking.look(root)
    assert classes(found) == {"cat": ["cat/a.jpg", "cat/more/b.PNG"], "dog": ["dog/c.jpeg"]}
    assert [(each.layout, each.name, each.root) for each in found.sources] == [("folder", "my_pets", str(root))]
    assert not (found.said or found.table or found.merges)


def test_a_single_folder_around_the_class_folders_is_entered_and_said(tmp_path):
    root = tree(tmp_path / "birds", "images/all/jay/a.jpg", "images/all/owl/b.jpg", "README.txt")
    found = looking.look(root)
    assert found.sources[0].root == str(root / "images/all") and set(classes(found)) == {"jay", "owl"}
    assert found.said == [f"reads {root / 'images/all'}, the only folder with images"]


def test_folders_of_splits_are_one_set_whose_classes_are_joined(tmp_path):
    root = tree(tmp_path, "train/cat/a.jpg", "train/dog/b.jpg", "val/cat/c.jpg", "test/0.jpg")
    found = looking.look(root)
    assert classes(found) == {"cat": ["train/cat/a.jpg", "val/cat/c.jpg"], "dog": ["train/dog/b.jpg"]}
    assert found.sources[0].layout == "csv" and ("val/cat/c.jpg", "cat") in found.table
    assert found.said == [
        "test: left out, images without class folders",
        "takes train and val as one set, and makes splits of its own",
    ]


def test_folders_of_class_folders_are_domains_and_a_class_of_two_is_one(tmp_path):
    root = tree(tmp_path, "photos/cat/a.jpg", "photos/dog/b.jpg", "sketches/cat/c.jpg", "sketches/cow/d.jpg")
    found = looking.look(root)
    assert [each.name for each in found.sources] == ["photos", "sketches"]
    assert found.classes == {
        ("photos", "cat"): ["cat/a.jpg", "cat/c.jpg"],
        ("photos", "dog"): ["dog/b.jpg"],
        ("sketches", "cow"): ["cow/d.jpg"],
    }
    assert found.merges == [("sketches", "cat", "photos", "cat")] and "2 domains" in found.said[0]


def test_a_folder_of_many_groups_takes_each_folder_of_images_as_a_class(tmp_path):
    root = tree(tmp_path, *[f"{group}/{name}/a.jpg" for group in range(20) for name in "xy"])
    found = looking.look(root)
    assert len(found.classes) == 40 and classes(found)["3/x"] == ["3/x/a.jpg"]


def test_files_that_are_no_images_are_left_out_before_they_are_counted_as_rejects(tmp_path):
    root = tree(tmp_path, *[f"{name}/{n}.{end}" for name in "ab" for n in range(3) for end in ("jpg", "xml")])
    found = looking.look(root)
    assert found.images == 6 and found.said == ["6 files that are no images are left out"] and len(found.table) == 6


def test_classes_that_only_the_layout_would_see_do_not_move_the_split(tmp_path):
    """Whole classes are split by their names: a sample of training images must be of what the records train on."""
    images = [f"c{number}/{each}.jpg" for number in range(12) for each in range(20)]
    found = looking.look(tree(tmp_path, *images, "notes/a.txt", "notes/b.txt"))
    assert len(found.table) == 240 and found.said == ["2 files that are no images are left out"]
    (tmp_path / "notes/b.txt").unlink()  # a class of one file is left out by the records, too
    assert not looking.look(tmp_path).table


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        ((), "it is empty"),
        (("a/notes.txt",), "1 files, none of them .jpg"),
        (("a.jpg", "b.jpg"), "2 images and no class folder"),
        (("train/a.jpg", "test/b.jpg"), "test, train hold images, not class folders"),
    ],
)
def test_a_folder_without_classes_is_refused(tmp_path, paths, said):
    with pytest.raises(BadInput, match=said):
        looking.look(tree(tmp_path, *paths))


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadInput, match="nothing does not exist"):
        looking.look(tmp_path / "nothing")


def table(folder, text):
    tree(folder, "img/a.jpg", "img/b.jpg")
    (folder / "images.csv").write_text(text, encoding="utf-8")
    return folder / "images.csv"


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("path,label\nimg/a.jpg,cat\nimg/b.jpg,dog\n", {}),
        ("\ufeffid;Image Path;Species\n1;a.jpg;cat\n2;b.jpg;dog\n",
         {"path_column": "Image Path", "label_column": "Species", "images": "img", "delimiter": ";"}),
        ("label\tfilename\ncat\timg/a.jpg\ndog\timg/b.jpg\n", {"path_column": "filename", "delimiter": "\t"}),
    ],
)  # fmt: skip
def test_columns_delimiter_and_folder_of_a_csv_are_found(tmp_path, text, options):
    found = tables.look(table(tmp_path, text))
    assert set(classes(found)) == {"cat", "dog"} and found.sources[0].options == options
    assert not found.table


@pytest.mark.parametrize("second", ["{folder}/img/b.jpg", "../{name}/img/b.jpg"])
def test_paths_that_leave_the_folder_of_a_csv_start_where_they_all_lie(tmp_path, second):
    second = second.format(folder=tmp_path, name=tmp_path.name)
    found = tables.look(table(tmp_path, f"path,label\n{tmp_path}/img/a.jpg,cat\n{second},dog\n"))
    assert found.table == [("a.jpg", "cat"), ("b.jpg", "dog")]
    assert found.sources[0].options == {"images": str(tmp_path / "img")}


def test_rows_that_the_layout_would_refuse_are_left_out_and_said(tmp_path):
    text = "path,label\nimg/a.jpg,cat\nimg/b.jpg,dog\nimg/a.jpg,cat\nimg/c.jpg,\n" + f"{'long' * 2000}.jpg,dog\n"
    found = tables.look(table(tmp_path, text))
    assert found.table[:2] == [("img/a.jpg", "cat"), ("img/b.jpg", "dog")] and len(found.table) == 3
    assert found.said[-1].startswith("2 rows are left out") and found.sources[0].options == {"images": str(tmp_path)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\nimg/a.jpg,cat\nimg/a.jpg,dog\n", "img/a.jpg is of two classes, cat and dog"),
        ("", "has none"),
        ("width,height\n1,2\n", "a column of paths called path, filepath"),
        ("path,width\nimg/a.jpg,2\n", "a column of labels called label, class"),
        ("path,label\n", "no row with a path and a label"),
        ("path,label\nimg/z.jpg,cat\n", "img/z.jpg does not exist"),
        ("path,label\nimg/a.jpg,cat\nimg/b.jpg\n", "line 3 has 1 values"),
    ],
)
def test_a_csv_that_names_no_images_is_refused(tmp_path, text, said):
    with pytest.raises(BadInput, match=said):
        tables.look(table(tmp_path, text))
