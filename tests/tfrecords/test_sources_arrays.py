"""Sets that are arrays: CIFAR's pickles and binary form, idx files, TFRecords; and pickles that would do harm."""

import builtins
import gzip
import io
import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import BadInput
from tests.tfrecords.test_sources_layouts import Files, contents, jpeg, tar, write
from tfrecords import schema
from tfrecords.listing import plain_pickle
from tfrecords.schema import Record, serialize
from tfrecords.shards import ShardWriter
from tfrecords.sources import list_source

RNG = np.random.default_rng(0)
TEN_NAMES = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def pixels(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)))


def batch(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows as CIFAR keeps them, uint8 [count, 3072] with all red values first, and labels [count]."""
    return RNG.integers(0, 256, (count, 3072), np.uint8), RNG.integers(0, 10, count)


def image_of(row: np.ndarray) -> np.ndarray:
    """The slow, obvious way from a row to a picture."""
    return np.array([[[row[c * 1024 + y * 32 + x] for c in range(3)] for x in range(32)] for y in range(32)])


def python2_pickle(data: np.ndarray, labels: list[int], key: bytes = b"labels") -> bytes:
    """A batch as the published ones are: protocol 2, written by Python 2, keys and raw data as its `str`."""
    out = io.BytesIO()

    def text(value: bytes) -> bytes:
        return pickle.BINSTRING + len(value).to_bytes(4, "little") + value

    out.write(pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.MARK)
    out.write(text(b"data") + b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n")
    out.write(b"K\x00" + pickle.TUPLE1 + text(b"b") + pickle.TUPLE3 + pickle.REDUCE)
    out.write(pickle.MARK + b"K\x01" + b"".join(b"M" + n.to_bytes(2, "little") for n in data.shape) + pickle.TUPLE2)
    out.write(b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01" + pickle.TUPLE3 + pickle.REDUCE)
    out.write(pickle.MARK + b"K\x03" + text(b"|") + b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00" + b"tb")
    out.write(pickle.NEWFALSE + text(data.tobytes()) + b"tb")
    out.write(text(key) + pickle.dumps(labels, 2)[2:-1] + pickle.SETITEMS + pickle.STOP)
    return out.getvalue()


def cifar10_files(form: str) -> tuple[Files, dict[str, tuple[np.ndarray, np.ndarray]]]:
    names = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
    batches = {name: batch(4) for name in names}
    files: dict[str, bytes | str] = {}
    for name, (rows, labels) in batches.items():
        if form == "binary":
            files[f"{name}.bin"] = np.concatenate([labels[:, None].astype(np.uint8), rows], 1).tobytes()
        elif form == "python 2":
            files[name] = python2_pickle(rows, labels.tolist())
        else:  # as Python 3 and today's NumPy would write it again, with protocol 2 or 4
            files[name] = pickle.dumps({b"data": rows, b"labels": labels.tolist()}, int(form[-1]))
    if form == "binary":
        files["batches.meta.txt"] = "\n".join(TEN_NAMES) + "\n\n"
    else:
        files["batches.meta"] = pickle.dumps({b"label_names": [n.encode() for n in TEN_NAMES]}, 2)
    return files, batches


@pytest.fixture(autouse=True)
def cache_of_the_test(tmp_path, monkeypatch):
    monkeypatch.setenv("GUIE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["python 2", "protocol 2", "protocol 4", "binary"])
def test_cifar10_gives_the_pixels_in_their_places(tmp_path, form, packed):
    files, batches = cifar10_files(form)
    folder = "cifar-10-batches-bin" if form == "binary" else "cifar-10-batches-py"
    if packed:
        archive = "cifar-10-binary.tar.gz" if form == "binary" else "cifar-10-python.tar.gz"
        root = tar(tmp_path / "set" / archive, {f"{folder}/{n}": d for n, d in files.items()}, "w:gz").parent
    else:
        root = write(tmp_path / "set" / folder, files).parent
    listing = list_source("cifar10", root, {"split": "all"})
    assert listing.classes == TEN_NAMES
    items = list(listing.items)
    assert len(items) == 24 and len(list(list_source("cifar10", root).items)) == 20
    found = contents(items)
    for item in items:
        name, _, index = item.key.rpartition("/")
        rows, labels = batches[name.removesuffix(".bin")]
        assert item.class_name == TEN_NAMES[labels[int(index)]]
        if int(index) == 1:
            np.testing.assert_array_equal(pixels(found[item.key]), image_of(rows[1]))


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("form", ["python", "binary"])
def test_cifar100_by_fine_and_by_coarse_classes(tmp_path, form, coarse):
    rows, _ = batch(3)
    fine, rough = [99, 0, 7], [19, 4, 4]
    fine_names, rough_names = [f"f{n}" for n in range(100)], [f"c{n}" for n in range(20)]
    if form == "python":
        files: dict[str, bytes | str] = {
            "train": pickle.dumps({b"data": rows, b"fine_labels": fine, b"coarse_labels": rough}, 2),
            "test": pickle.dumps({b"data": rows, b"fine_labels": fine, b"coarse_labels": rough}, 2),
            "meta": pickle.dumps({"fine_label_names": fine_names, "coarse_label_names": rough_names}, 2),
        }
    else:
        data = np.concatenate([np.array([rough, fine], np.uint8).T, rows], 1).tobytes()
        files = {"train.bin": data, "test.bin": data}
        files |= {"fine_label_names.txt": "\n".join(fine_names), "coarse_label_names.txt": "\n".join(rough_names)}
    listing = list_source("cifar100", write(tmp_path, files), {"coarse": coarse})
    assert listing.classes == (rough_names if coarse else fine_names)
    assert [i.class_name for i in listing.items] == (["c19", "c4", "c4"] if coarse else ["f99", "f0", "f7"])
    np.testing.assert_array_equal(pixels(list(listing.items)[2].read()), image_of(rows[2]))


@pytest.mark.faults("damaged archive")
def test_cifar_files_that_are_damaged_are_bad_input(tmp_path):
    files, _ = cifar10_files("protocol 2")
    first = files["data_batch_1"]
    assert isinstance(first, bytes)
    for number, data in enumerate([first[:200], b"", b"\0" * 500, pickle.dumps([1]), pickle.dumps({b"labels": [77]})]):
        root = write(tmp_path / str(number), {**files, "data_batch_1": data})
        with pytest.raises(BadInput, match="data_batch_1"):
            list(list_source("cifar10", root).items)
    files, _ = cifar10_files("binary")
    root = write(tmp_path / "bin", {**files, "data_batch_1.bin": b"\0" * 3072})
    with pytest.raises(BadInput, match="cut short"):
        list(list_source("cifar10", root).items)
    (root / "data_batch_2.bin").unlink()
    with pytest.raises(BadInput, match=r"expected the file data_batch_2\.bin"):
        list_source("cifar10", root)


class Harm:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize(
    "call",
    [
        (os.system, "touch {}"),
        (os.mkdir, "{}"),
        (subprocess.check_output, ["touch", "{}"]),
        (builtins.open, "{}", "w"),
        (builtins.eval, "open({!r}, 'w')"),
        (builtins.exec, "open({!r}, 'w')"),
        (np.save, "{}", 1),
        (builtins.getattr, os, "system"),
        (np.fromfile, "/etc/hosts", "u1"),
        (sys.exit, 0),
    ],
    ids=lambda call: call[0].__name__,
)
@pytest.mark.faults("hostile pickle")
def test_a_pickle_that_calls_anything_is_refused_and_nothing_runs(tmp_path, call):
    trace = tmp_path / "trace"
    function, *arguments = call
    arguments = [a.format(str(trace)) if isinstance(a, str) else a for a in arguments]
    arguments = [[x.format(str(trace)) for x in a] if isinstance(a, list) else a for a in arguments]
    for protocol in (0, 2, 4):
        try:
            data = pickle.dumps({b"data": Harm(function, *arguments), b"labels": [0]}, protocol)
        except Exception:  # a module as argument cannot be pickled: take the name itself
            data = pickle.dumps({b"data": function, b"labels": [0]}, protocol)
        with pytest.raises(ValueError, match="is not allowed"):
            plain_pickle.loads(data)
        files, _ = cifar10_files("protocol 2")
        root = write(tmp_path / f"set{protocol}", {**files, "data_batch_1": data})
        with pytest.raises(BadInput, match="is not allowed"):
            list(list_source("cifar10", root).items)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"cnumpy\nndarray.tofile\n.", "not allowed"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", "not allowed"),
        (b"cnumpy\nndarray\n(I9\ntR.", "call of numpy.ndarray"),
        (b"cnumpy\nndarray\n.", "where data was expected"),
        (b"cnumpy\ndtype\n(S'O'\ntR.", "expected plain numbers"),
        (b"Pname\n.", "persistent"),
        (b"]r\xff\xff\xff\xff.", "a memo of 4294967295 entries"),
        (b"]p99999999999\n.", "a memo of"),
        (b"(dp0\n.trailing", None),  # what follows the end is not looked at
        (pickle.dumps(np.array([object()], object)), None),
        (pickle.dumps({1, 2}), "not allowed|where data was expected"),
        (pickle.dumps(np.zeros(3, "M8[s]")), "expected plain numbers"),
    ],
)
@pytest.mark.faults("hostile pickle")
def test_odd_pickles_are_refused(data, says):
    if says is None and data.startswith(b"("):
        assert plain_pickle.loads(data) == {}
        return
    with pytest.raises(ValueError, match=says or "not a pickle of arrays"):
        plain_pickle.loads(data)


@pytest.mark.faults("bomb")
def test_an_array_larger_than_its_bytes_is_refused_before_memory_is_asked_for():
    data = python2_pickle(np.zeros((2, 3072), np.uint8), [0, 1])
    assert plain_pickle.loads(data)[b"data"].shape == (2, 3072)
    position = data.index(b"M\x02\x00M\x00\x0c")
    with pytest.raises(ValueError, match="with 6144 bytes"):
        plain_pickle.loads(data[:position] + b"M\xff\xffM\xff\xff" + data[position + 6 :])


def arrays_of(value: object) -> list[np.ndarray]:
    """The arrays in a value; fails where it holds anything but arrays and plain data."""
    if isinstance(value, np.ndarray):
        return [value]
    if type(value) in (dict, list, tuple):
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        return [array for each in inner for array in arrays_of(each)]
    assert value is None or type(value) in (str, bytes, int, float, bool), type(value)
    return []


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.faults("hostile pickle")
def test_a_damaged_pickle_is_refused_or_gives_plain_data_with_whole_arrays(protocol):
    whole = pickle.dumps({b"data": np.arange(8, dtype=np.uint8).reshape(1, 8), b"labels": [0]}, protocol)
    for end in range(len(whole)):
        with pytest.raises(ValueError, match=r"not a pickle of arrays and plain containers: ."):
            plain_pickle.loads(whole[:end])
    outcomes = Counter()
    for at in range(len(whole)):
        for flips in (0x01, 0x10, 0x80, 0xFF):
            damaged = whole[:at] + bytes([whole[at] ^ flips]) + whole[at + 1 :]
            try:
                value = plain_pickle.loads(damaged)
            except ValueError as error:
                assert str(error).startswith("not a pickle of arrays and plain containers: ")
                outcomes["refused"] += 1
            else:
                assert all(array.nbytes == array.size * array.itemsize == 8 for array in arrays_of(value))
                outcomes["read"] += 1
    assert outcomes["refused"] > 100 and outcomes["read"] > 10


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.mark.parametrize("layout", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("form", ["plain", "gz", "dots", "raw", "nested raw"])
def test_idx_files_under_the_names_that_are_in_use(tmp_path, layout, form):
    images = {"train": RNG.integers(0, 256, (5, 28, 28), np.uint8), "t10k": RNG.integers(0, 256, (2, 28, 28), np.uint8)}
    labels = {"train": np.array([3, 0, 9, 9, 1], np.uint8), "t10k": np.array([5, 6], np.uint8)}
    folder = {"raw": "raw/", "nested raw": "MNIST/raw/"}.get(form, "")
    dash, end = ("." if form == "dots" else "-"), (".gz" if form == "gz" else "")
    files = {}
    for stem in images:
        for kind, array in ((f"images{dash}idx3", images[stem]), (f"labels{dash}idx1", labels[stem])):
            data = idx(array)
            files[f"{folder}{stem}-{kind}-ubyte{end}"] = gzip.compress(data) if end else data
    root = write(tmp_path, files)
    train = list(list_source(layout, root).items)
    assert [i.class_name for i in train] == ["3", "0", "9", "9", "1"]
    for index, encoded in enumerate(contents(train).values()):
        np.testing.assert_array_equal(pixels(encoded), images["train"][index])
    listing = list_source(layout, root, {"split": "all"})
    assert listing.classes == [str(n) for n in range(10)] and len(list(listing.items)) == 7
    assert listing.names["9"] == ("Ankle boot" if layout == "fashion_mnist" else "9")


@pytest.mark.faults("damaged archive")
def test_idx_files_that_are_damaged(tmp_path):
    good = idx(np.zeros((2, 28, 28), np.uint8))
    labels = idx(np.array([1, 2], np.uint8))
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
    for number, bad in enumerate([b"", labels[:-1], labels + b"x", b"\0\0\x0d\x01" + labels[4:], good]):
        root = write(tmp_path / str(number), {names[0]: good, names[1]: bad})
        with pytest.raises(BadInput, match="labels"):
            list(list_source("mnist", root).items)
    for number, bad in enumerate([good[:-1], gzip.compress(good)[:-9], b"\x1f\x8bnonsense"]):
        root = write(tmp_path / f"i{number}", {names[0]: bad, names[1]: labels})
        for item in list_source("mnist", root).items:
            with pytest.raises(ValueError):
                item.read()


def shard(path: Path, records: list[Record], keyed: bool = True) -> None:
    writer = ShardWriter(path)
    for record in records:
        if keyed:
            writer.write(serialize(record))
        else:  # with the public keys alone, as the guie-* sets are
            example = schema._example_pb2().Example()
            example.features.feature["image/encoded"].bytes_list.value.append(record.encoded)
            example.features.feature["image/class/label"].int64_list.value.append(record.label)
            writer.write(example.SerializeToString(deterministic=True))
    writer.close()


def test_public_tfrecords_keep_the_order_of_their_labels_and_their_bytes(tmp_path):
    shard(tmp_path / "products-10k-train-00-3.tfrec", [Record(jpeg(n), 1000 + n % 2) for n in range(3)], keyed=False)
    shard(tmp_path / "products-10k-train-01-2.tfrec", [Record(jpeg(n), 999 + n) for n in (3, 9)], keyed=False)
    listing = list_source("tfrecords", tmp_path)
    assert listing.classes == ["1000", "1001", "1002", "1008"]
    items = list(listing.items)
    assert [item.class_name for item in items] == ["1000", "1001", "1000", "1002", "1008"]
    assert list(contents(items).values()) == [jpeg(n) for n in (0, 1, 2, 3, 9)]
    assert items[3].key == "products-10k-train-01-2.tfrec#000000"


def test_records_of_guie_keep_keys_classes_and_names(tmp_path):
    shard(tmp_path / "s-train-00-2.tfrec", [Record(jpeg(1), 1, "k/1", "s"), Record(jpeg(2), 0, "k/2", "s")])
    rows = [
        {"label": n, "source": "s", "class": c, "name": c * 2, "train": 1, "validation": 0, "test": 0}
        for n, c in enumerate("xyz")
    ]
    write(tmp_path, {"labels.json": json.dumps({"sources": [{"name": "s", "first": 0, "count": 3}], "classes": rows})})
    listing = list_source("tfrecords", tmp_path)
    assert listing.classes == ["x", "y", "z"] and listing.names == {"x": "xx", "y": "yy", "z": "zz"}
    assert [(i.key, i.class_name) for i in listing.items] == [("k/1", "y"), ("k/2", "x")]
    shard(tmp_path / "s-train-01-1.tfrec", [Record(jpeg(3), 9, "k/3", "s")])
    with pytest.raises(BadInput, match=r"has the label 9, labels\.json has 3 classes"):
        list_source("tfrecords", tmp_path)


@pytest.mark.faults("damaged shard")
def test_damaged_shards_are_bad_input_or_items_that_raise(tmp_path):
    path = tmp_path / "a.tfrec"
    shard(path, [Record(jpeg(1), 0), Record(jpeg(2), 0)], keyed=False)
    whole = path.read_bytes()
    at = whole.index(jpeg(1)) + 20
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])  # inside the first image
    first, second = list_source("tfrecords", tmp_path).items
    with pytest.raises(ValueError, match="offset 0 is damaged"):
        first.read()
    assert second.read() == jpeg(2)
    path.write_bytes(whole[:-3])
    with pytest.raises(BadInput, match="half-written"):
        list_source("tfrecords", tmp_path)
    path.write_bytes(b"")
    with pytest.raises(BadInput, match="hold no record"):
        list_source("tfrecords", tmp_path)
