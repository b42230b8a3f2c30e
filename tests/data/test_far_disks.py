"""Records of a far disk: reads wait side by side, are tried again, and end in one line that names the file."""

import time
from itertools import islice

import numpy as np
import pytest

from pipeline import reading
from pipeline.config import Augment
from pipeline.data import records as records_module
from pipeline.data.batches import damage_is_bad_input, open_records, train_batches
from pipeline.data.preprocessing import Preprocess, decode, resize
from pipeline.data.sampler import BLOCK, Interleaved, Positions
from pipeline.errors import BadInput
from pipeline.reading import RemoteFile, View, reader, side_by_side
from tests.data.far_disk import FarFileSystem, Faults, mount, read
from tests.tfrecords.shard_files import grey_image, write_public_shard, write_shards
from tfrecords.schema import label_of, read_shard
from tfrecords.shards import shard_index

COUNT, SHARD = 42, "drawn-train-01-15.tfrec"
LABELS = [10 + 3 * (number % 5) for number in range(COUNT)]
SMALL = Preprocess(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [grey_image(number) for number in range(COUNT)], LABELS, per_shard=15)
    return folder


@pytest.fixture
def faults(monkeypatch):
    """Of `far://` and of every `os.pread`; retries do not wait."""
    found = Faults()
    monkeypatch.setattr(FarFileSystem, "faults", found)
    monkeypatch.setattr(reading, "PAUSE_SECONDS", 0.001)
    mount(monkeypatch, found)
    return found


@pytest.fixture(params=["{}/*.tfrec", "far://{}/*.tfrec"], ids=["mounted", "url"])
def records(request, folder):
    return open_records([request.param.format(folder)])


def images(records, steps=6, batch_size=8, order=None):
    order = order or Positions(len(records), 3)
    batches = train_batches(records, order, SMALL, Augment(), batch_size, seed=3)
    return np.concatenate([batch["images"].numpy() for batch in islice(batches, steps)])


def test_a_url_holds_what_the_folder_holds(folder):
    near, far = open_records([folder / "*.tfrec"]), open_records([f"far://{folder}/*.tfrec"])
    assert [path.name for path in far.shards] == [path.name for path in near.shards]
    assert (far.digest, far.identity, far.keys) == (near.digest, near.identity, near.keys)
    np.testing.assert_array_equal(far.labels, near.labels, strict=True)
    np.testing.assert_array_equal(images(far), images(near), strict=True)
    assert list(read_shard(far.shards[1])) == list(read_shard(near.shards[1]))


def test_a_batch_waits_once_and_not_for_each_record(records, faults):
    faults.seconds = 0.02
    items = np.arange(40)
    began = time.monotonic()
    found = read(records, items)
    taken = time.monotonic() - began
    faults.seconds = 0.0
    assert found == [read(records, np.array([item]))[0] for item in items]
    assert faults.most_at_once > 20 and taken < 40 * 0.02 / 2


def test_small_batches_wait_for_the_disk_together(records, faults):
    faults.seconds = 0.02
    images(records, steps=20, batch_size=2)
    assert faults.most_at_once > 30


def test_reads_in_flight_are_bounded(folder, faults):
    faults.seconds = 0.001
    records = open_records([f"far://{folder}/*.tfrec"])
    read(records, np.arange(COUNT).repeat(10))
    assert faults.most_at_once <= reading.READS


def test_files_stay_open_under_reads_that_others_push_out(tmp_path, faults, monkeypatch):
    """Two files may be open, twelve shards are read at once, each read slowly."""
    monkeypatch.setattr(records_module, "OPEN_FILES", 2)
    write_shards(tmp_path, [grey_image(number) for number in range(24)], LABELS[:24], per_shard=2)
    records = open_records([tmp_path / "*.tfrec"])
    faults.seconds = 0.003
    order = np.random.default_rng(0).permutation(np.arange(24).repeat(5))
    assert read(records, order) == [grey_image(number) for number in order]


@pytest.mark.parametrize("fault", ["failing", "short"])
@pytest.mark.faults("faulty server")
def test_a_read_that_fails_once_is_done_again(records, faults, fault):
    whole = read(records, np.arange(COUNT))
    getattr(faults, fault)[SHARD] = 2
    assert read(records, np.arange(COUNT)) == whole


@pytest.mark.faults("faulty server")
def test_a_disk_that_stays_away_ends_in_one_line_that_names_the_shard(records, faults):
    faults.failing[SHARD] = 10**6
    with pytest.raises(BadInput, match=rf"{SHARD} cannot be read, tried 3 times: .*Input/output error") as refused:
        read(records, np.arange(COUNT))
    assert "\n" not in str(refused.value)
    with pytest.raises(BadInput, match=rf"{SHARD} cannot be read, tried 3 times"), damage_is_bad_input():
        images(records)


@pytest.mark.faults("faulty server")
def test_the_first_records_error_is_the_one_that_is_told(records, faults):
    faults.failing.update({path.name: 10**6 for path in records.shards})
    faults.seconds = 0.001
    for _ in range(5):
        with pytest.raises(BadInput, match=SHARD):
            read(records, np.array([20, 0, 41, 1]))


@pytest.mark.faults("damaged shard")
def test_a_shard_that_ends_early_is_damaged_and_says_where(tmp_path, folder, faults):
    whole = (folder / SHARD).read_bytes()
    (tmp_path / SHARD).write_bytes(whole)
    records = open_records([f"far://{tmp_path}/*.tfrec"])
    (tmp_path / SHARD).write_bytes(whole[:-5])
    offset = records.spans[-1, 0]
    with pytest.raises(BadInput, match=rf"far://.*{SHARD}: record at offset {offset}: wrong CRC"):
        read(records, np.arange(15))
    (tmp_path / SHARD).unlink()
    with pytest.raises(BadInput, match=rf"expected far://.*{SHARD}, no such file is there"):
        read(records, np.arange(15))


@pytest.mark.parametrize("labels_first", [True, False])
def test_labels_are_found_far_away_without_reading_images(tmp_path, faults, labels_first):
    noise = np.random.default_rng(0).bytes(100_000)
    write_shards(tmp_path, [noise] * 9, [2**40, -1, 0, 127, 128, 5, 6, 7, 8], per_shard=5)
    near = open_records([tmp_path / "*.tfrec"])
    faults.reads = faults.bytes = 0
    far = open_records([f"far://{tmp_path}/*.tfrec"])
    np.testing.assert_array_equal(far.labels, near.labels, strict=True)
    assert faults.bytes < 9 * 2000


def test_a_view_is_the_bytes_of_the_file(folder):
    path = folder / SHARD
    content = path.read_bytes()
    view = View(reader(RemoteFile(f"far://{path}")), 100, 900)
    assert bytes(view) == content[100:900] and bytes(view[10:700][300:]) == content[410:800] and len(view[5:3]) == 0
    with pytest.raises(IndexError):
        view[800]
    beyond = View(reader(path), len(content) - 3, len(content) + 50)
    with pytest.raises(IndexError):
        bytes(beyond)
    assert label_of(beyond) is None


def test_public_shards_without_an_index_are_walked(tmp_path, faults):
    write_public_shard(tmp_path / "a-train-00-6.tfrec", [grey_image(n) for n in range(6)], LABELS[:6])
    far = open_records([f"far://{tmp_path}/*.tfrec"])
    assert far.labels.tolist() == LABELS[:6] and far.domains.tolist() == ["a"] * 6
    np.testing.assert_array_equal(far.spans, shard_index(tmp_path / "a-train-00-6.tfrec"))


def test_names_with_brackets_stand_for_themselves(tmp_path):
    write_public_shard(tmp_path / "a [1].tfrec", [grey_image(1)], [7])
    assert open_records([f"far://{tmp_path}/a [1].tfrec"]).labels.tolist() == [7]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("far:///nowhere/*.tfrec", "none match far:///nowhere/"),
        ("farther://bucket/*.tfrec", "farther://bucket/.* cannot be opened: .*farther"),
        ("adl://store/*.tfrec", r"adl:// needs the package that reads it, .*pip install 'guie\[remote\]'"),
    ],
)
def test_a_url_that_leads_nowhere_is_bad_input(url, said):
    with pytest.raises(BadInput, match=said):
        open_records([url])


def test_side_by_side_keeps_the_order_and_raises_the_first_error():
    def slow(number):
        time.sleep(0.001 * (number % 3))
        if number in (17, 5):
            raise ValueError(number)
        return number

    assert side_by_side(slow, range(5), piece=2) == [0, 1, 2, 3, 4] and side_by_side(slow, []) == []
    with pytest.raises(ValueError, match=r"^5$"):
        side_by_side(slow, range(30))


@pytest.fixture(scope="module")
def long_shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    count = 6 * BLOCK
    images = [grey_image(number % 40) for number in range(count)]
    write_shards(folder, images, list(range(count)), per_shard=count // 4)
    return folder


@pytest.mark.parametrize("form", ["{}/*.tfrec", "far://{}/*.tfrec"])
@pytest.mark.parametrize("share", [1, 4])  # of the records that a cap leaves: one of so many
def test_interleaved_shards_are_read_whole_once_an_epoch(long_shards, faults, form, share):
    records = open_records([form.format(long_shards)])
    kept = np.arange(len(records)) % share == 0
    order, size = Interleaved(records.shard, 5, shards_at_a_time=2, kept=kept), 32 // share
    faults.reads = faults.bytes = 0
    seen = images(records, steps=len(order) // size, batch_size=size, order=order)
    # The next epoch's first window is begun, as well.
    assert len(np.unique(order.blocks)) == 8 and faults.bytes <= 1.6 * records.spans[:, 1].sum()
    encoded = read(records, order.at(np.arange(len(seen))))
    for image, each in zip(seen, encoded, strict=True):
        np.testing.assert_array_equal(image, resize(decode(each), SMALL).numpy())


@pytest.mark.faults("damaged shard")
def test_interleaved_damage_names_shard_and_offset(tmp_path, long_shards, faults):
    path = sorted(long_shards.glob("*.tfrec"))[2]
    records = open_records([long_shards / "*.tfrec"])
    (tmp_path / path.name).write_bytes(damaged := bytearray(path.read_bytes()))
    part = open_records([tmp_path / path.name])
    offset, length = part.spans[70].tolist()
    damaged[offset + length // 2] ^= 1
    (tmp_path / path.name).write_bytes(damaged)
    order = Interleaved(part.shard, 0, 4)
    with pytest.raises(BadInput, match=rf"{path.name}: record at offset {offset}: wrong CRC"), damage_is_bad_input():
        images(part, steps=12, order=order)
    assert len(records) == 4 * len(part)
