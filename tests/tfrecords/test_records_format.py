"""Records, shards and indexes against their other readers: TensorFlow, the package tfrecord, torch."""

import json
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BadInput
from tfrecords import labels
from tfrecords.schema import ENCODED, KEY, LABEL, SOURCE, Record, _example_pb2, parse_record, read_shard, serialize
from tfrecords.shards import ShardWriter, frame, index_path, mapped_payloads, read_payloads, shard_index, walk

RECORDS = [
    Record(b"\xff\xd8 first", 0, "a/1.jpg", "birds"),
    Record(bytes(range(256)) * 300, 17690, "ü/2.jpg", "birds"),
    Record(b"", 2**40, "", ""),
]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "birds-train-00-3.tfrec"
    writer = ShardWriter(path)
    for record in RECORDS:
        writer.write(serialize(record))
    writer.close()
    index_path(path).write_text(writer.index_text())
    return path


def in_another_process(code: str, *arguments: str) -> dict:
    """Runs `code`, which prints JSON last: readers that cannot live together in one process."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def as_text(records: list[Record]) -> list[list]:
    return [[record.encoded.hex(), record.label, record.key, record.source] for record in records]


def test_what_is_written_is_read_back(shard: Path):
    assert list(read_shard(shard)) == RECORDS


def test_the_bytes_of_a_record_never_change():
    """A later version continues a build that an earlier one began. A map's entries are in the order of their keys."""
    assert serialize(Record(b"jpeg", 7, "k", "s")) == (
        b"\nb\n\x1a\n\x11image/class/label\x12\x05\x1a\x03\n\x01\x07\n\x19\n\rimage/encoded\x12\x08\n\x06\n\x04jpeg"
        b"\n\x12\n\timage/key\x12\x05\n\x03\n\x01k\n\x15\n\x0cimage/source\x12\x05\n\x03\n\x01s"
    )


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200), st.integers(-(2**63), 2**63 - 1), st.text(max_size=20), st.text(max_size=20))
def test_parse_undoes_serialize_for_any_values(encoded: bytes, label: int, key: str, source: str):
    key, source = (text.encode("utf-8", "replace").decode() for text in (key, source))
    assert parse_record(serialize(Record(encoded, label, key, source))) == (encoded, label, key, source)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=60))
@pytest.mark.faults("damaged shard")
def test_parse_refuses_any_other_bytes_with_one_error(payload: bytes):
    with pytest.raises(ValueError, match=r"a record (without image|that is no tf\.train\.Example)"):
        parse_record(payload)


def by_protobuf(payload: bytes) -> Record | None:
    """The second implementation; None for bytes that protobuf refuses, or where image or label is missing."""
    example = _example_pb2().Example()
    try:
        example.ParseFromString(payload)
    except DecodeError:
        return None
    feature = example.features.feature
    images, labels_ = feature[ENCODED].bytes_list.value, feature[LABEL].int64_list.value
    key, source = (b"".join(feature[name].bytes_list.value[:1]).decode() for name in (KEY, SOURCE))
    return Record(images[0], labels_[0], key, source) if images and labels_ else None


@pytest.mark.faults("damaged shard")
def test_a_damaged_record_is_refused_or_read_as_protobuf_reads_it():
    whole = serialize(Record(bytes(range(40)), 17690, "ü/2.jpg", "birds"))
    for end in range(len(whole)):
        with pytest.raises(ValueError, match="a record"):
            parse_record(whole[:end])
    outcomes = Counter()
    for at in range(len(whole)):
        for flips in (0x01, 0x02, 0x80, 0xFF):
            damaged = whole[:at] + bytes([whole[at] ^ flips]) + whole[at + 1 :]
            try:
                record = parse_record(damaged)
            except ValueError as error:
                assert str(error).startswith("a record ")
                outcomes["refused"] += 1
                continue
            assert record.encoded and type(record.label) is int
            assert parse_record(damaged, image=False) == record._replace(encoded=b"")
            if (expected := by_protobuf(damaged)) is not None:
                assert record == expected
                outcomes["read"] += 1
    assert outcomes["refused"] > 100 and outcomes["read"] > 100


@pytest.mark.parametrize(
    "unknown", [b"\x19" + bytes(range(8)), b"\x1d" + bytes(range(4)), b"\x18\x96\x01", b"\x1a\x02ab"]
)
def test_fields_that_a_later_writer_adds_are_skipped(unknown: bytes):
    """Field 3, of every kind that protobuf has today: 64 bits, 32 bits, varint, bytes."""
    whole = serialize(Record(b"jpeg", 7, "k", "s"))
    assert by_protobuf(unknown + whole + unknown) == parse_record(unknown + whole + unknown) == (b"jpeg", 7, "k", "s")


def test_records_of_the_public_sets_have_no_key_and_no_source():
    example = _example_pb2().Example()
    example.features.feature["image/encoded"].bytes_list.value.append(b"jpeg")
    example.features.feature["image/class/label"].int64_list.value.append(10691)
    assert parse_record(example.SerializeToString()) == Record(b"jpeg", 10691, "", "")


def test_a_record_without_a_label_is_named_with_shard_and_offset(tmp_path: Path):
    path = tmp_path / "x-train-00-1.tfrec"
    path.write_bytes(frame(serialize(RECORDS[0])) + frame(b"\x0a\x00"))
    offset = 16 + len(serialize(RECORDS[0]))
    with pytest.raises(BadInput, match=f"{path}.* offset {offset}"):
        list(read_shard(path))


def test_index_beside_the_shard_equals_the_walk(shard: Path):
    beside = shard_index(shard)
    assert beside.dtype == np.int64 and beside.shape == (3, 2)
    index_path(shard).unlink()
    assert (shard_index(shard) == beside).all() and (walk(shard) == beside).all()


def test_mapped_payloads_are_those_that_are_read(shard: Path):
    mapped = mapped_payloads(shard, shard_index(shard))
    assert [bytes(payload) for payload in mapped] == [payload for _, payload in read_payloads(shard)]


@pytest.mark.faults("damaged shard")
def test_an_index_of_another_shard_is_refused(shard: Path):
    index_path(shard).write_text("0 10\n10 10\n")
    with pytest.raises(BadInput, match="index ends at offset 20"):
        shard_index(shard)


@pytest.mark.parametrize("cut", [1, 4, 5, 300])
@pytest.mark.faults("damaged shard")
def test_a_half_written_shard_is_named_with_its_offset(shard: Path, cut: int):
    last = int(walk(shard)[1 if cut == 300 else 2, 0])
    shard.write_bytes(shard.read_bytes()[:-cut])
    with pytest.raises(BadInput, match=f"{shard}: record at offset {last} is cut off"):
        list(read_shard(shard))
    with pytest.raises(BadInput, match=f"offset {last}"):
        walk(shard)


@pytest.mark.faults("damaged shard")
def test_every_flipped_bit_of_a_shard_is_found(shard: Path, tried):
    whole = shard.read_bytes()
    first = int(walk(shard)[1, 0])  # the first record, bit for bit
    for at in range(first):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        shard.write_bytes(damaged)
        with pytest.raises(BadInput, match="offset 0"):
            list(read_payloads(shard))
    tried(first)


@pytest.mark.faults("bomb")
def test_a_frame_that_promises_petabytes_is_refused_without_reading(tmp_path: Path):
    path = tmp_path / "bomb.tfrec"
    from tfrecords.shards import masked_crc

    length = struct.pack("<Q", 1 << 50)
    path.write_bytes(length + struct.pack("<I", masked_crc(length)) + b"x")
    with pytest.raises(BadInput, match="offset 0"):
        walk(path)


def test_tensorflow_reads_the_shards(shard: Path):
    code = """
import json, sys, tensorflow as tf
text, number = tf.io.FixedLenFeature([], tf.string), tf.io.FixedLenFeature([], tf.int64)
features = {"image/encoded": text, "image/class/label": number, "image/key": text, "image/source": text}
rows = []
for payload in tf.data.TFRecordDataset(sys.argv[1]):
    one = tf.io.parse_single_example(payload, features)
    rows.append([one["image/encoded"].numpy().hex(), int(one["image/class/label"]),
                 one["image/key"].numpy().decode(), one["image/source"].numpy().decode()])
print(json.dumps(rows))
"""
    assert in_another_process(code, str(shard)) == as_text(RECORDS)


def test_the_package_tfrecord_and_a_torch_loader_read_the_shards_and_the_index(shard: Path):
    pytest.importorskip("torch")
    code = """
import json, sys, torch, tfrecord
from tfrecord.tools.tfrecord2idx import create_index
from tfrecord.torch.dataset import TFRecordDataset
path, index, other = sys.argv[1:]
kinds = {"image/encoded": "byte", "image/class/label": "int", "image/key": "byte", "image/source": "byte"}
def row(one):
    encoded, label, key, source = (one[name] for name in kinds)
    return [bytes(encoded).hex(), int(label[0]), bytes(key).decode(), bytes(source).decode()]
alone = [row(one) for one in tfrecord.tfrecord_loader(path, None, kinds)]
create_index(path, other)
halves = [[row(one) for one in tfrecord.tfrecord_loader(path, index, kinds, shard=(part, 2))] for part in (0, 1)]
loader = torch.utils.data.DataLoader(TFRecordDataset(path, index, kinds), batch_size=None, num_workers=2)
print(json.dumps({"alone": alone, "halves": halves, "torch": sorted(row(one) for one in loader),
                  "index": open(other).read()}))
"""
    read = in_another_process(code, str(shard), str(index_path(shard)), str(shard.parent / "other.index"))
    assert read["alone"] == as_text(RECORDS)
    assert read["halves"][0] + read["halves"][1] == as_text(RECORDS)
    assert read["torch"] == sorted(as_text(RECORDS))
    assert read["index"].split() == index_path(shard).read_text().split()


def test_reading_needs_neither_tensorflow_nor_protobuf_nor_torch(shard: Path):
    code = """
import json, sys
from pathlib import Path
from tfrecords.schema import read_shard
count = len(list(read_shard(Path(sys.argv[1]))))
print(json.dumps([count, [name for name in ("tensorflow", "torch", "google.protobuf") if name in sys.modules]]))
"""
    assert in_another_process(code, str(shard)) == [3, []]


def test_writing_imports_no_torch(shard: Path):
    code = """
import json, sys
from tfrecords.schema import Record, serialize
serialize(Record(b"", 1))
print(json.dumps([name for name in ("tensorflow", "torch") if name in sys.modules]))
"""
    assert in_another_process(code) == []


def test_labels_json_reads_back(tmp_path: Path):
    space = labels.build(
        {"a": ["x", "y"], "b": ["z", "w"]},
        left_out=[("a", "x")],
        merged={("b", "z"): ("a", "y")},
        names={("a", "y"): "Ypsilon"},
    )
    assert space.labels() == {("a", "y"): 0, ("b", "w"): 1, ("b", "z"): 0}
    (tmp_path / "labels.json").write_text(json.dumps(space.to_json()))
    again = labels.read(tmp_path / "labels.json")
    assert again.to_json() == space.to_json() and again.labels() == space.labels()


@pytest.mark.faults("damaged shard")
def test_labels_json_of_another_kind_is_bad_input(tmp_path: Path):
    for text in ("[]", "{", '{"sources": [], "classes": [{}]}'):
        (tmp_path / "labels.json").write_text(text)
        with pytest.raises(BadInput, match=r"labels\.json"):
            labels.read(tmp_path / "labels.json")
