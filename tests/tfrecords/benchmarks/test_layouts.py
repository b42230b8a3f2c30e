"""The other benchmarks in their authors' files: splits, order, classes, sizes, which split searches which."""

import pickle
import shutil
import tarfile
import zipfile

import cv2
import numpy as np
import pytest

from pipeline.errors import BadInput
from tests import drawn_benchmarks as drawn
from tests.drawn_benchmarks import picture
from tfrecords.benchmarks import LAYOUTS, gpr1200, ilias
from tfrecords.listing.items import NO_CLASS
from tfrecords.listing.unzipped import unescaped
from tfrecords.sources import list_source
from tfrecords.sources.cub200 import RETRIEVAL

DRAWN = {
    "gpr1200": drawn.draw_gpr1200,
    "sop": drawn.draw_sop,
    "inshop": drawn.draw_inshop,
    "cars196": drawn.draw_cars196,
    "cub200_retrieval": drawn.draw_cub200,
    "ilias": drawn.draw_ilias,
    "gldv2_retrieval": drawn.draw_gldv2,
    "met": drawn.draw_met,
    "rp2k": drawn.draw_rp2k,
    "food2k": drawn.draw_food2k,
    "inat2018": drawn.draw_inat2018,
    "oml": drawn.draw_oml,
}
ALL = (*LAYOUTS, RETRIEVAL)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    return {name: draw(folder / name) for name, draw in DRAWN.items()}


def listed(name, root, **options):
    listing = list_source(name, root, options)
    return listing, list(listing.items)


def shown(items):
    return [(item.key, item.class_name) for item in items]


@pytest.mark.parametrize("name", DRAWN)
def test_every_split_lists_its_images_the_same_each_time_and_reads_them(roots, name):
    layout = next(each for each in ALL if each.name == name)
    splits = layout.splits or tuple(layout.published)
    for split in splits if name != "gpr1200" else [None]:
        listing, items = listed(name, roots[name], **({"split": split} if split else {}))
        assert items and shown(listing.items) == shown(items)
        assert {label for item in items for label in (item.class_name, *item.also)} <= set(listing.classes)
        assert len({item.key for item in items}) == len(items)
        for item in items:
            data = pickle.loads(pickle.dumps(item)).read()
            assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None and item.file


def test_what_searches_what_names_splits_and_shares_classes_where_they_are_two(roots):
    pairs = {layout.name: dict(layout.searched) for layout in ALL}
    assert pairs == {
        "uned": {"query": "index", "val": "val_index"},
        "ilias": {"image_queries": "positives"},
        "gpr1200": {"all": "all"},
        "sop": {"test": "test"},
        "inshop": {"query": "gallery"},
        "cars196": {"test": "test"},
        "cub200_retrieval": {"test": "test"},
        "gldv2_retrieval": {"query": "index", "public": "index", "private": "index"},
        "met": {"val": "train", "test": "train"},
        "rp2k": {},
        "food2k": {},
        "inat2018": {"test": "test"},
        "oml": {"query": "gallery"},
    }
    for name, searched in pairs.items():
        for query, index in searched.items():
            if name in DRAWN and query != index:
                queries, found = (listed(name, roots[name], split=each)[1] for each in (query, index))
                assert {item.class_name for item in queries} & {item.class_name for item in found}
                assert not {item.key for item in queries} & {item.key for item in found} or name == "oml"


@pytest.mark.parametrize("name", ["sop", "inshop", "cars196", "cub200_retrieval", "inat2018", "oml"])
def test_train_and_test_have_no_class_in_common(roots, name):
    layout = next(each for each in ALL if each.name == name)
    trained = set(listed(name, roots[name], split="train")[0].classes)
    tested = {each for pair in layout.searched.items() for each in pair}
    for split in tested:
        assert not trained & set(listed(name, roots[name], split=split)[0].classes)


def test_gpr1200_goes_by_the_number_of_the_class_not_by_name(tmp_path):
    root = drawn.draw_gpr1200(tmp_path / "few", classes=4, images=2, start=8)
    listing, items = listed("gpr1200", root)
    assert listing.classes == ["8", "9", "10", "11"]
    assert [item.key for item in items][:3] == ["8_0_n.jpg", "8_1_n.jpg", "9_0_n.jpg"]
    of = gpr1200.domain_of([str(number) for number in range(1200)])
    assert [of[each] for each in ("0", "199", "200", "999", "1000")] == [
        "landmarks",
        "landmarks",
        "inat",
        "sop",
        "faces",
    ]
    many = tmp_path / "many" / "images"
    drawn.write(many, {f"{number}_a.jpg": b"x" for number in range(1200)})
    assert listed("gpr1200", many.parent, domain="inat")[0].classes == [str(number) for number in range(200, 400)]
    for name, says in (("notes.txt", "found 'notes.txt'"), ("x_1.jpg", "found 'x_1.jpg'")):
        drawn.write(tmp_path / name, {name: b""})
        with pytest.raises(BadInput, match=says):
            listed("gpr1200", tmp_path / name)
    with pytest.raises(BadInput, match="option domain expects one of landmarks"):
        listed("gpr1200", root, domain="cars")


def test_sop_is_read_of_its_zip_and_from_the_folder_above(roots, tmp_path):
    with zipfile.ZipFile(tmp_path / "Stanford_Online_Products.zip", "w") as archive:
        for path in sorted(roots["sop"].rglob("*")):
            archive.write(path, f"Stanford_Online_Products/{path.relative_to(roots['sop'])}")
    plain, zipped = (listed("sop", root, split="test")[1] for root in (roots["sop"], tmp_path))
    assert shown(plain) == shown(zipped) and [item.read() for item in plain] == [item.read() for item in zipped]
    assert [label for _, label in shown(plain)[:4]] == ["5", "5", "5", "6"]


def test_cars196_is_read_of_its_archive_and_named(roots, tmp_path):
    shutil.copy(roots["cars196"] / "cars_annos.mat", tmp_path)
    with tarfile.open(tmp_path / "car_ims.tgz", "w:gz") as archive:
        archive.add(roots["cars196"] / "car_ims", "car_ims")
    listing, items = listed("cars196", tmp_path, split="test")
    assert items[0].read() == listed("cars196", roots["cars196"], split="test")[1][0].read()
    assert listing.classes == ["99", "100", "196"] and listing.names["196"] == "Maker Model 196 2012"
    assert listed("cars196", roots["cars196"])[0].classes == ["1", "2", "98"]


def test_ilias_goes_by_its_lists_and_leaves_images_whole_unless_cropped(roots):
    root = roots["ilias"]
    listing, queries = listed("ilias", root)
    assert len(queries) == 7 and [item.key for item in queries] == sorted(item.key for item in queries)
    assert listing.classes == [f"object_{letter}_00{number}" for number, letter in enumerate("abcd")]
    assert "object_d_003" not in listed("ilias", root, split="positives")[0].classes  # a query without a match
    assert queries[0].read() == picture("ilias object_a_000", queries[0].key, (60, 30))
    cut = listed("ilias", root, crop=True)[1][0]
    pixels = cv2.imdecode(np.frombuffer(cut.read(), np.uint8), cv2.IMREAD_COLOR)
    whole = cv2.imdecode(np.frombuffer(queries[0].read(), np.uint8), cv2.IMREAD_COLOR)
    assert ilias.boxes(root / "ilias_core/object_a_000/query/Q000_00_bbox.txt") == [(4, 6, 20, 10), (30, 10, 12, 8)]
    assert np.abs(pixels.astype(int) - whole[6:18, 4:42]).max() <= 3  # two JPEG decoders
    assert cut.file == queries[0].file


def test_ilias_distractors_come_out_of_the_tars_all_mini_or_some(roots, tmp_path, monkeypatch):
    monkeypatch.setattr(ilias, "BLOCK", 2)
    monkeypatch.setattr(ilias, "LINES", 3)
    root = roots["ilias"]
    _, items = listed("ilias", root, split="distractors")
    members = {}
    for path in sorted((root / "yfcc100m").glob("*.tar")):
        with tarfile.open(path) as archive:
            jpegs = [each for each in archive if each.name.endswith(".jpg")]
            members |= {f"{path.name}/{each.name[:-4]}": archive.extractfile(each).read() for each in jpegs}
    assert {item.key: item.read() for item in items} == members and len(members) == 10
    assert {item.class_name for item in items} == {NO_CLASS} and not list(root.rglob("*.partial"))
    chosen = set((root / "image_ids/mini_ilias_yfcc100m_ids.txt").read_text().split())
    mini = listed("ilias", root, split="distractors", mini=True, verify=True)[1]
    assert [item.key for item in mini] == [item.key for item in items if item.key.split("/")[1] in chosen]
    assert len(mini) == 4
    assert len(listed("ilias", root, split="distractors", tars="*_00001.tar")[1]) == 5
    copied = tmp_path / "copied"
    shutil.copytree(root, copied)
    tar = copied / "yfcc100m/yfcc100m_00001.tar"
    tar.write_bytes(tar.read_bytes().replace(b"JFIF", b"JFIX", 1))
    with pytest.raises(BadInput, match="its SHA-256 is not that of checksums"):
        listed("ilias", copied, split="distractors", verify=True)
    tar.write_bytes(tar.read_bytes()[:3000])
    with pytest.raises(BadInput, match="cannot be read as a tar"):
        listed("ilias", copied, split="distractors")


def test_keys_are_looked_up_in_blocks_as_in_a_set():
    rng = np.random.default_rng(3)
    keys = ["".join(rng.choice(list("abé0"), rng.integers(1, 6))) for _ in range(400)]
    chosen = np.sort(np.array([key.encode() for key in keys[:150]]))
    asked = [*keys, "aaaaaaaaaaaa", "", "zz"]
    assert ilias.are_in(chosen, asked).tolist() == [key in set(keys[:150]) for key in asked]


def test_gldv2_follows_the_solutions_lists_and_leaves_ignored_queries_out(tmp_path):
    found = []
    for packed in (False, True):
        root = drawn.draw_gldv2(tmp_path / str(packed), packed)
        queries, index = (listed("gldv2_retrieval", root, split=each)[1] for each in ("query", "index"))
        found.append([(item.key, item.class_name, item.also, item.read()) for item in [*queries, *index]])
        assert [item.class_name for item in queries] == [item.key for item in queries]
        matches = {
            query.key: [item.key for item in index if query.key in (item.class_name, *item.also)] for query in queries
        }
        rows = [line.split(",") for line in (root / "retrieval_solution_v2.1.csv").read_text().split("\n")[1:-1]]
        known = {item.key for item in index}
        assert matches == {
            q: [each for each in images.split() if each in known] for q, images, use in rows if use != "Ignored"
        }
        assert matches[queries[3].key] == []  # what it names is not in the index
        assert [item.class_name for item in index].count(NO_CLASS) == 4
        assert len(listed("gldv2_retrieval", root, split="ignored")[1]) == 1
        public, private = (listed("gldv2_retrieval", root, split=each)[1] for each in ("public", "private"))
        assert shown(sorted([*public, *private], key=lambda item: item.key)) == shown(queries)
    assert found[0] == found[1]


def test_met_queries_without_an_exhibit_are_distractors_that_are_asked_for(roots):
    listing, queries = listed("met", roots["met"], split="test")
    assert listing.classes == ["100", "114", "128"] and len(queries) == 3
    listing, queries = listed("met", roots["met"], split="test", distractors=True)
    assert listing.classes[0] == NO_CLASS and [item.class_name for item in queries][-2:] == [NO_CLASS] * 2
    mini, train = (listed("met", roots["met"], split=each)[1] for each in ("mini", "train"))
    assert set(shown(mini)) < set(shown(train))


def test_rp2k_lists_names_as_they_were_meant(tmp_path):
    found = [listed("rp2k", drawn.draw_rp2k(tmp_path / str(escape), escape=escape), split="all") for escape in (0, 1)]
    (plain, items), (escaped, others) = found
    assert plain.classes == escaped.classes == ["可口可乐0", "可口可乐1", "可口可乐2"]
    assert shown(items) == shown(others) and [item.read() for item in items] == [item.read() for item in others]
    assert unescaped("#U0041#U002f#UD800#L110000") == "#U0041#U002f#UD800#L110000"  # unzip escapes none of these


def test_food2k_and_inat_follow_their_lists(roots):
    train = listed("food2k", roots["food2k"])[1]
    assert shown(train)[:4] == [("0/0.jpg", "0"), ("0/1.jpg", "0"), ("0/2.jpg", "0"), ("1/0.jpg", "1")]
    parts = [listed("food2k", roots["food2k"], split=each)[1] for each in ("train", "val", "test", "all")]
    assert sorted(shown(parts[3])) == sorted(each for part in parts[:3] for each in shown(part))
    sets = {
        split: listed("inat2018", roots["inat2018"], split=split) for split in ("train", "test", "train2018", "val2018")
    }
    assert sets["train2018"][0].names["2003"] == "Avis 3"
    both = [
        sorted(shown([*sets[one][1], *sets[other][1]])) for one, other in (("train", "test"), ("train2018", "val2018"))
    ]
    assert both[0] == both[1]  # the folder of an image is its category


def test_oml_takes_roles_of_rows_and_paths_below_its_folder(roots, tmp_path):
    query, gallery, validation = (
        listed("oml", roots["oml"], split=each)[1] for each in ("query", "gallery", "validation")
    )
    assert shown(query) == [(f"images/{name}.jpg", name[0]) for name in ("2_0", "2_2", "3_0", "3_2")]
    assert shown(gallery) == [(f"images/{name}.jpg", name[0]) for name in ("2_1", "2_2", "3_1", "3_2")]
    assert {*shown(query), *shown(gallery)} == set(shown(validation))
    assert shown(listed("oml", roots["oml"] / "df.csv")[1]) == shown(listed("oml", roots["oml"])[1])
    pandas = pytest.importorskip("pandas")  # its NaN: the flags of a train row
    before = shown(listed("oml", drawn.draw_oml(tmp_path), split="query")[1])
    pandas.read_csv(tmp_path / "df.csv").to_csv(tmp_path / "df.csv", index=False)
    assert shown(listed("oml", tmp_path, split="query")[1]) == before == shown(query)
