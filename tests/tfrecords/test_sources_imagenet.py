"""ImageNet in each form that its users have: the same classes, the same labels, the same bytes."""

import io
import json
import subprocess
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import BadInput
from tests.tfrecords.test_sources_layouts import CUB, Files, contents, jpeg, tar, write, zipped
from tfrecords.listing.archives import Store, open_archive
from tfrecords.sources import list_source

WNIDS = ["n01440764", "n01443537", "n02000000"]
IMAGES = {f"{wnid}/{wnid}_{n}.JPEG": jpeg(10 * c + n) for c, wnid in enumerate(WNIDS) for n in range(2)}
MAPPING = "n01440764 tench, Tinca tinca\nn01443537 goldfish\nn02000000 third\n"
SOLUTION = "ImageId,PredictionString\nval_1,n02000000 0 0 63 63 \nval_2,n01440764 1 2 3 4 n01440764 5 6 7 8 \n"
VAL = {"val_1.JPEG": jpeg(101), "val_2.JPEG": jpeg(102)}


def kaggle_files() -> Files:
    return {
        "LOC_synset_mapping.txt": MAPPING,
        "LOC_val_solution.csv": SOLUTION,
        **{f"ILSVRC/Data/CLS-LOC/train/{name}": data for name, data in IMAGES.items()},
        **{f"ILSVRC/Data/CLS-LOC/val/{name}": data for name, data in VAL.items()},
    }


def tar_bytes(files: Files, scratch: Path) -> bytes:
    return tar(scratch / "inner.tar", files).read_bytes()


def original_tars(root: Path, scratch: Path) -> Path:
    inner = {
        f"{wnid}.tar": tar_bytes(
            {name.split("/")[1]: data for name, data in IMAGES.items() if name.startswith(wnid)}, scratch
        )
        for wnid in WNIDS
    }
    tar(root / "ILSVRC2012_img_train.tar", inner)
    tar(root / "ILSVRC2012_img_val.tar", VAL)
    return write(root, {"LOC_synset_mapping.txt": MAPPING, "LOC_val_solution.csv": SOLUTION})


FORMS = {
    "kaggle": lambda tmp: write(tmp / "set", kaggle_files()),
    "kaggle zip": lambda tmp: zipped(tmp / "imagenet.zip", kaggle_files()),
    "kaggle zip, stored": lambda tmp: zipped(tmp / "imagenet.zip", kaggle_files(), zipfile.ZIP_STORED),
    "zip in a folder": lambda tmp: (
        (tmp / "set").mkdir(),
        zipped(tmp / "set" / "imagenet-object-localization-challenge.zip", kaggle_files()).parent,
    )[1],
    "plain": lambda tmp: write(tmp / "set", {f"train/{name}": data for name, data in IMAGES.items()}),
    "class folders": lambda tmp: write(tmp / "set", dict(IMAGES)),
    "tars": lambda tmp: original_tars(tmp / "set", tmp),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_training_images_gives_the_same(tmp_path, form):
    listing = list_source("imagenet", FORMS[form](tmp_path))
    assert listing.classes == WNIDS
    items = list(listing.items)
    assert {item.key.rsplit("/", 1)[-1]: item.class_name for item in items} == {
        name.split("/")[1]: name.split("/")[0] for name in IMAGES
    }
    found = {key.rsplit("/", 1)[-1]: data for key, data in contents(items).items()}
    assert found == {name.split("/")[1]: data for name, data in IMAGES.items()}
    if form not in ("plain", "class folders"):
        assert listing.names["n01440764"] == "tench, Tinca tinca"


@pytest.mark.parametrize("form", ["kaggle", "kaggle zip", "tars"])
def test_validation_images_take_their_class_from_the_solution(tmp_path, form):
    listing = list_source("imagenet", FORMS[form](tmp_path), {"split": "val"})
    items = list(listing.items)
    assert listing.classes == WNIDS
    assert {i.key.rsplit("/", 1)[-1]: i.class_name for i in items} == {
        "val_1.JPEG": "n02000000",
        "val_2.JPEG": "n01440764",
    }
    assert {k.rsplit("/", 1)[-1]: v for k, v in contents(items).items()} == VAL


def test_validation_images_in_class_folders(tmp_path):
    root = write(tmp_path, {f"val/{name}": data for name, data in IMAGES.items()})
    assert list_source("imagenet", root, {"split": "val"}).classes == WNIDS


def test_labels_follow_the_mapping_not_the_folders_present(tmp_path):
    files = {name: data for name, data in kaggle_files().items() if WNIDS[0] not in name}
    assert list_source("imagenet", write(tmp_path, files)).classes == WNIDS


def test_tables_that_contradict_the_images_are_bad_input(tmp_path):
    strange = {"ILSVRC/Data/CLS-LOC/train/n09999999/x.JPEG": jpeg(1)}
    with pytest.raises(BadInput, match="names the class 'n09999999'"):
        list_source("imagenet", write(tmp_path / "a", {**kaggle_files(), **strange}))
    solution = {"LOC_val_solution.csv": "ImageId,PredictionString\nval_1,n09999999 0 0 1 1\n"}
    with pytest.raises(BadInput, match="names the class 'n09999999'"):
        list_source("imagenet", write(tmp_path / "b", {**kaggle_files(), **solution}), {"split": "val"})
    with pytest.raises(BadInput, match="expected a wnid"):
        list_source("imagenet", write(tmp_path / "c", {**kaggle_files(), "LOC_synset_mapping.txt": "tench\n"}))
    (tmp_path / "b" / "LOC_val_solution.csv").unlink()
    with pytest.raises(BadInput, match="LOC_val_solution"):
        list_source("imagenet", tmp_path / "b", {"split": "val"})


def write_parquet(path: Path, images: Sequence[bytes | None], labels: list[int], group: int, names: bool) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    column = [{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(images)]
    table = pa.table(
        {
            "image": pa.array(column, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "label": pa.array(labels, pa.int64()),
        }
    )
    if names:
        features = {"info": {"features": {"label": {"names": ["tench", "goldfish", "third"]}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)


@pytest.mark.parametrize("mapping", [False, True])
def test_parquet_shards_read_a_row_group_at_a_time(tmp_path, mapping):
    ordered = list(IMAGES.values())
    labels = [0, 0, 1, 1, 2, 2]
    write_parquet(tmp_path / "data/train-00000-of-00002.parquet", ordered[:4], labels[:4], 3, True)
    write_parquet(tmp_path / "data/train-00001-of-00002.parquet", ordered[4:], labels[4:], 3, True)
    if mapping:
        write(tmp_path, {"LOC_synset_mapping.txt": MAPPING})
    listing = list_source("imagenet", tmp_path)
    assert listing.classes == (WNIDS if mapping else ["0000", "0001", "0002"])
    assert listing.names[listing.classes[1]] == "goldfish"
    items = list(listing.items)
    assert [listing.classes.index(item.class_name) for item in items] == labels
    assert list(contents(items).values()) == ordered


@pytest.mark.faults("damaged archive")
def test_parquet_that_is_damaged_or_lacks_what_it_needs(tmp_path):
    path = tmp_path / "data/train-00000-of-00001.parquet"
    write_parquet(path, [jpeg(1), None], [0, 1], 2, False)
    listing = list_source("parquet", tmp_path)
    assert listing.classes == ["0000", "0001"]
    first, empty = listing.items
    assert first.read() == jpeg(1)
    with pytest.raises(ValueError, match="holds no image bytes"):
        empty.read()
    write_parquet(path, [jpeg(1)], [-1], 1, True)
    with pytest.raises(BadInput, match="label -1"):
        list(list_source("parquet", tmp_path).items)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInput, match="cannot be read as parquet"):
        list_source("parquet", tmp_path)


def test_parquet_classes_without_told_names_are_the_labels_present(tmp_path):
    path = tmp_path / "train-00000-of-00001.parquet"
    write_parquet(path, [jpeg(1), jpeg(2), jpeg(3)], [2_000_000, 7, 7], 2, False)
    listing = list_source("parquet", tmp_path)
    assert listing.classes == ["0007", "2000000"]
    assert [item.class_name for item in listing.items] == ["2000000", "0007", "0007"]
    for labels in ([], [-1, -1]):  # -1: Hugging Face's word for a label that is kept secret
        write_parquet(path, [jpeg(1)] * len(labels), labels, 2, False)
        with pytest.raises(BadInput, match="expected labels of 0 or more"):
            list_source("parquet", tmp_path)


@pytest.mark.faults("damaged archive")
def test_damaged_archives_are_bad_input_or_items_that_raise(tmp_path):
    path = FORMS["kaggle zip"](tmp_path)
    data = bytearray(path.read_bytes())
    items = list(list_source("imagenet", path).items)
    at = data.find(IMAGES[items[0].key.removeprefix("ILSVRC/Data/CLS-LOC/train/")][:0] or b"n01440764_0.JPEG") + 40
    data[at] ^= 0xFF  # inside the first image's packed bytes
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        items[0].read()
    assert items[1].read() == list(IMAGES.values())[1]
    path.write_bytes(bytes(data[: len(data) // 2]))
    with pytest.raises(BadInput, match="tar or zip"):
        list_source("imagenet", path)


def train_tar(tmp_path: Path) -> tuple[Path, bytes]:
    path = original_tars(tmp_path / "set", tmp_path) / "ILSVRC2012_img_train.tar"
    return path, path.read_bytes()


DAMAGES = {  # each: the tar's bytes, where its third header begins → what is left of them, what is said
    "outer header": (lambda data, at: data[:at] + b"\1" + data[at + 1 :], "header at byte {at} is damaged"),
    "zeroed header": (lambda data, at: data[:at] + bytes(512) + data[at + 512 :], "byte {at} is damaged"),
    "cut between members": (lambda data, at: data[:at], "cut off at byte {at}"),
    "cut in a header": (lambda data, at: data[: at + 100], "cut off at byte {at}"),
    "last member whole": (lambda data, at: data[: at + 512 + 10_240], "cut off at byte"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.faults("damaged archive")
def test_a_tar_that_is_damaged_or_cut_off_is_bad_input_not_a_smaller_set(tmp_path, damage):
    path, whole = train_tar(tmp_path)
    at = whole.index(b"n02000000.tar")
    change, said = DAMAGES[damage]
    path.write_bytes(change(whole, at))
    with pytest.raises(BadInput, match=said.format(at=at)):
        list(list_source("imagenet", path.parent).items)


@pytest.mark.parametrize("left", ["both members", "the first member", "half of the second", "nothing"])
@pytest.mark.faults("damaged archive")
def test_a_tar_within_the_tar_that_is_cut_off_is_bad_input_and_takes_nothing_of_the_next(tmp_path, left):
    files = {f"{WNIDS[0]}_{n}.JPEG": jpeg(n) for n in range(2)}
    whole = tar_bytes(files, tmp_path)
    with tarfile.open(tmp_path / "inner.tar") as archive:
        _, second = archive.getmembers()
    ends = {
        "both members": second.offset_data + -(-second.size // 512) * 512,
        "the first member": second.offset,
        "half of the second": second.offset_data + 100,
        "nothing": 0,
    }
    inner = {f"{WNIDS[0]}.tar": whole[: ends[left]], f"{WNIDS[1]}.tar": whole, f"{WNIDS[2]}.tar": whole}
    tar(tmp_path / "set" / "ILSVRC2012_img_train.tar", inner)
    taken = []
    with pytest.raises(BadInput, match=r"n01440764\.tar inside it cannot be read .*cut off at byte"):
        for item in list_source("imagenet", tmp_path / "set").items:
            taken.append(item.key)
    expected = {"both members": 2, "the first member": 1, "half of the second": 1, "nothing": 0}[left]
    assert taken == [f"{WNIDS[0]}/{name}" for name in files][:expected]


@pytest.mark.faults("damaged archive")
def test_a_damaged_header_in_a_tar_within_the_tar_is_bad_input(tmp_path):
    path, whole = train_tar(tmp_path)
    at = whole.index(b"n01443537_1.JPEG")
    path.write_bytes(whole[:at] + b"\1" + whole[at + 1 :])
    with pytest.raises(BadInput, match=f"n01443537.tar inside it cannot be read .*byte {at} is damaged"):
        list(list_source("imagenet", path.parent).items)


@pytest.mark.parametrize("ending", ["as tarfile writes it", "one block", "two blocks", "a hundred blocks", "gnu"])
def test_a_whole_tar_is_read_however_many_zero_blocks_end_it(tmp_path, ending):
    path = tmp_path / "set.tar"
    if ending == "gnu":
        write(tmp_path / "files", dict(IMAGES))
        command = ["tar", "-cf", path, "--format=gnu", "-C", tmp_path / "files", "."]
        try:
            subprocess.run(command, check=True)
        except FileNotFoundError:
            pytest.skip("tar is not installed")
    else:
        tar(path, IMAGES)
        blocks = {"one block": 1, "two blocks": 2, "a hundred blocks": 100}
        if ending in blocks:
            with tarfile.open(path) as archive:
                last = archive.getmembers()[-1]
            end = last.offset_data + -(-last.size // 512) * 512
            path.write_bytes(path.read_bytes()[:end] + bytes(512 * blocks[ending]))
    store = open_archive(path)
    assert {name: store.reader(name)() for name in store.files()} == IMAGES


def test_a_zip_whose_names_are_no_utf8_or_that_is_of_a_later_version_is_bad_input(tmp_path):
    data = zipped(tmp_path / "set.zip", {"é.jpg": b"x"}).read_bytes()
    directory = data.index(b"PK\1\2")
    for wrong in (data.replace("é".encode(), b"\xe9\xe9"), data[: directory + 6] + b"\xff" + data[directory + 7 :]):
        (tmp_path / "set.zip").write_bytes(wrong)
        with pytest.raises(BadInput, match="tar or zip"):
            open_archive(tmp_path / "set.zip")


@pytest.mark.faults("bomb")
def test_a_file_larger_than_any_image_is_refused_unread(tmp_path, monkeypatch):
    files = {"a/small.jpg": b"x" * 100, "a/film.mp4": bytes(101)}
    stores = [
        Store(write(tmp_path / "folder", files)),
        open_archive(tar(tmp_path / "set.tar", files)),
        open_archive(zipped(tmp_path / "deflated.zip", files)),
        open_archive(zipped(tmp_path / "stored.zip", files, zipfile.ZIP_STORED)),
    ]
    monkeypatch.setattr("tfrecords.listing.items.MAX_FILE_BYTES", 100)
    for store in stores:
        assert store.reader("a/small.jpg")() == b"x" * 100
        with pytest.raises(ValueError, match="holds 101 bytes: more than the 100 that are taken"):
            store.reader("a/film.mp4")()


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
@pytest.mark.faults("damaged archive")
def test_archives_damaged_at_random_never_crash_the_listing(tmp_path, monkeypatch, kind, tried):
    monkeypatch.setenv("GUIE_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    plain = {f"CUB_200_2011/{name}": data for name, data in CUB.items()}
    path = tmp_path / f"set.{kind}"
    if kind == "zip":
        zipped(path, kaggle_files())
    else:
        tar(path, plain, "w:gz" if kind == "tgz" else "w")
    whole = path.read_bytes()
    outcomes = set()
    for round_ in range(60):
        data = np.frombuffer(whole, np.uint8).copy()
        spots = rng.integers(0, len(data), 3)
        data[spots] = rng.integers(0, 256, 3)
        path.write_bytes(data[: len(data) if round_ % 5 else int(rng.integers(len(data)))].tobytes())
        try:
            for item in list_source("imagenet" if kind == "zip" else "cub200", path).items:
                try:
                    item.read()
                    outcomes.add("read")
                except (OSError, ValueError):
                    outcomes.add("rejected")
        except BadInput:
            outcomes.add("bad input")
    # Any other exception fails the test. Gzip's checksum finds every damage before an image is listed.
    assert outcomes == {"bad input"} if kind == "tgz" else {"read", "bad input"} <= outcomes
    tried(60)


@pytest.mark.faults("hostile name")
def test_archive_members_that_leave_the_root_or_are_links_are_refused(tmp_path):
    path = tmp_path / "cub.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("../../evil.jpg", "/abs.jpg", "ok.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hosts"
        archive.addfile(link)
    store = open_archive(path)
    assert store.reader("ok.jpg")() == b"x"
    for name in ("../../evil.jpg", "/abs.jpg", "link.jpg", "absent.jpg"):
        with pytest.raises(ValueError):
            store.reader(name)()
