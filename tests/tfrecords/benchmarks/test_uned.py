"""UnED's lists as they are: order, labels, roles of the splits, names that unzip escaped, and hostile lists."""

import json
import os
import pickle

import pytest

from pipeline.errors import BadInput
from tests.drawn_benchmarks import UNED, draw_uned, picture, write_list
from tfrecords.benchmarks import uned
from tfrecords.listing.unzipped import escaped
from tfrecords.sources import find_layout, list_source


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return draw_uned(tmp_path_factory.mktemp("uned"))


def listed(root, domain, split="train"):
    listing = list_source("uned", root, {"domain": domain, "split": split})
    return listing, list(listing.items)


@pytest.mark.parametrize("domain", UNED)
def test_a_split_is_its_list_row_by_row(root, domain):
    for path in sorted((root / "info_files" / domain).glob("*.json")):
        rows = json.loads(path.read_text())
        listing, items = listed(root, domain, path.stem)
        assert [item.key for item in items] == [row["path"] for row in rows]
        labels = [row["class_id"] if isinstance(row["class_id"], list) else [row["class_id"]] for row in rows]
        assert [[item.class_name, *item.also] for item in items] == [[str(each) for each in row] for row in labels]
        assert listing.classes == [str(each) for each in sorted({each for row in labels for each in row})]
        for item, row in zip(items, labels, strict=True):
            assert pickle.loads(pickle.dumps(item)).read() == picture(f"{domain} {row[0]}", item.key)
        assert [item.key for item in listing.items] == [item.key for item in items]  # again


def test_queries_and_index_are_those_of_the_protocol(root):
    # The table of the benchmark's own code: (query, index) of val and of test.
    table = dict.fromkeys(UNED, (("val", "val"), ("test", "test")))
    table |= dict.fromkeys(("inshop", "gldv2"), (("val", "val"), ("test", "index")))
    table["met"] = (("val", "small_index"), ("test", "index"))
    for domain, pairs in table.items():
        for (query, index), (own_query, own_index) in zip(
            (("val", "val_index"), ("query", "index")), pairs, strict=True
        ):
            assert uned.file_of(root, domain, query).stem == own_query
            assert uned.file_of(root, domain, index).stem == own_index
    assert find_layout("uned").searched == {"query": "index", "val": "val_index"}
    with pytest.raises(
        BadInput, match=r"inshop has no list small_index.json for the split small_index; its lists: index"
    ):
        listed(root, "inshop", "small_index")


def test_a_query_may_have_several_labels_or_none_that_the_index_has(root):
    _, queries = listed(root, "gldv2", "query")
    _, index = listed(root, "gldv2", "index")
    assert (queries[0].class_name, queries[0].also) == ("2000", ("2001",))
    labels = {label for item in index for label in (item.class_name, *item.also)}
    assert queries[-1].class_name == "2999" and "2999" not in labels
    assert (index[-1].class_name, index[-1].also) == ("2003", ("2000",))


def test_names_beyond_ascii_are_read_as_listed_or_as_unzip_wrote_them(tmp_path):
    rows = [("rp2k/all/train/山/水.jpg", 0), ("rp2k/all/train/山/1.jpg", 0), ("rp2k/all/test/é/1.jpg", 1)]
    write_list(tmp_path, "rp2k", "train", rows)
    images = tmp_path / "images"
    # The folder as listed with an escaped file in it; an ASCII file in it; an escaped folder.
    places = ["rp2k/all/train/山/#U6c34.jpg", "rp2k/all/train/山/1.jpg", "rp2k/all/test/#U00e9/1.jpg"]
    for place, (path, label) in zip(places, rows, strict=True):
        (images / place).parent.mkdir(parents=True, exist_ok=True)
        (images / place).write_bytes(picture(str(label), path))
    _, items = listed(tmp_path, "rp2k")
    assert [item.key for item in items] == [path for path, _ in rows]
    assert [os.path.relpath(item.file, images) for item in items] == places
    (images / rows[0][0]).write_bytes(b"as listed")  # both are there: the name of the list goes first
    assert listed(tmp_path, "rp2k")[1][0].read() == b"as listed"
    (images / rows[0][0]).unlink()
    (images / places[0]).unlink()
    with pytest.raises(OSError):
        listed(tmp_path, "rp2k")[1][0].read()
    # As the benchmark's own code escapes, of letters with four hexadecimal digits and with two.
    name = "山/a é.jpg"
    theirs = str(name.encode("unicode-escape")).replace("\\\\u", "#U").replace("\\\\x", "#U00")[2:-1]
    assert escaped(name) == theirs


def test_a_row_twice_stays_twice_for_the_order_of_descriptors(tmp_path):
    write_list(
        tmp_path, "cars", "test", [("cars/car_ims/1.jpg", 5), ("cars/car_ims/2.jpg", 5), ("cars/car_ims/1.jpg", 5)]
    )
    _, items = listed(tmp_path, "cars", "query")
    assert [item.key for item in items] == ["cars/car_ims/1.jpg", "cars/car_ims/2.jpg", "cars/car_ims/1.jpg"]


def test_a_domain_of_ones_own_is_listed_beside_the_eight(tmp_path):
    draw_uned(tmp_path, ["sop", "cars"])
    write_list(tmp_path, "shoes", "test", [("shoes/1.jpg", 3)])
    assert uned.domains(tmp_path) == ["cars", "sop", "shoes"]
    assert listed(tmp_path, "shoes", "index")[0].classes == ["3"]
    layout = find_layout("uned")
    assert layout.size({"domain": "met"}) == (224_408, 397_121) and layout.size({"domain": "shoes"}) is None
    assert layout.size({"domain": "met", "split": "test"}) is None
    assert sum(sizes["train"] for sizes in uned.DOMAINS.values()) == layout.published["train"].images == 2_831_222
    assert sum(uned.TRAIN_CLASSES.values()) == layout.published["train"].classes == 316_446
    assert sum(sizes["test"] for sizes in uned.DOMAINS.values()) == 241_986
    assert sum(sizes.get("index", sizes["test"]) for sizes in uned.DOMAINS.values()) == 1_397_126


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "lists no image"),
        ('[{"path": "cars/1.jpg"}]', "row 1: expected class_id as a whole number or a list of them, got None"),
        ('[{"path": "cars/1.jpg", "class_id": "7"}]', "got '7'"),
        ('[{"path": "cars/1.jpg", "class_id": true}]', "got True"),
        ('[{"path": "cars/1.jpg", "class_id": 1.0}]', "got 1.0"),
        ('[{"path": "cars/1.jpg", "class_id": -1}]', "got -1"),
        ('[{"path": "cars/1.jpg", "class_id": []}]', r"got \[\]"),
        ('[{"path": "cars/1.jpg", "class_id": [1, null]}]', r"got \[1, None\]"),
        (
            '[{"path": "cars/1.jpg", "class_id": 1}, {"path": 5, "class_id": 1}]',
            "row 2: expected a path as text, got 5",
        ),
        ('[{"path": "", "class_id": 1}]', "expected a path as text"),
        ('[{"path": "../../etc/passwd", "class_id": 1}]', "row 1: path '../../etc/passwd' leaves the source's root"),
        ('[{"path": "/etc/passwd", "class_id": 1}]', "leaves the source's root"),
        ('[{"path": "a/../../b", "class_id": 1}]', "leaves the source's root"),
        ('[{"path": "a\\u0000b", "class_id": 1}]', "leaves the source's root"),
        ('[{"path": "a\\ud800.jpg", "class_id": 1}]', "is no text that UTF-8 can hold"),
        ('{"cars/1.jpg": 1}', "expected a list of objects"),
        ('[{"path": "cars/1.jpg", "class_id": 1}', "is damaged JSON behind row 1"),
    ],
)
def test_a_list_of_another_form_is_bad_input_in_one_line(tmp_path, text, says):
    path = write_list(tmp_path, "cars", "train", [])
    path.write_text(text)
    with pytest.raises(BadInput, match=says) as caught:
        listed(tmp_path, "cars")
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_domain_or_root_that_is_not_there_is_bad_input(root, tmp_path):
    for options, says in (
        ({}, "option domain expects one of cars, sop, inshop, inat, met, gldv2, food2k, rp2k; it is not given"),
        ({"domain": "car"}, "got 'car', nearest: cars"),
        ({"domain": "../cars"}, "option domain expects"),
        ({"domain": "cars", "split": "tset"}, "option split expects train, val, test, .*got 'tset'"),
    ):
        with pytest.raises(BadInput, match=says):
            list_source("uned", root, options)
    (tmp_path / "info_files").mkdir()
    with pytest.raises(BadInput, match="expects a folder a domain"):
        list_source("uned", tmp_path, {"domain": "cars"})
