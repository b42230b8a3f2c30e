"""Reading: no record is dropped or repeated, and the stream is the same however it is reached."""

from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import tensorflow as tf

from pipeline.config import Augment
from pipeline.data import records as records_module
from pipeline.data.batches import damage_is_bad_input, eval_batches, eval_groups, open_records, train_batches
from pipeline.data.preprocessing import Preprocess, decode, normalize, prepare, resize
from pipeline.data.sampler import ClassGroups, Positions, batch_positions
from pipeline.errors import BadInput
from pipeline.training.feature_cache import feature_batches
from tests.data.far_disk import read
from tests.tfrecords.shard_files import example, grey_image, jpeg, numbers_of, write_public_shard, write_shards
from tfrecords.shards import ShardWriter

COUNT, BATCH = 37, 8  # epochs end inside batches
LABELS = [10 + 3 * (number % 5) for number in range(COUNT)]
SMALL = Preprocess(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [grey_image(number) for number in range(COUNT)], LABELS, per_shard=15)
    return folder


@pytest.fixture(scope="module")
def records(folder):
    return open_records([folder / "*.tfrec"])


def stream(records, steps, augment=None, **options):
    """The first batches, as numpy."""
    options = {"batch_size": BATCH, "seed": 3, **options}
    order = options.pop("order", None) or Positions(len(records), options["seed"], options.pop("sampling", None))
    dataset = train_batches(records, order, SMALL, augment or Augment(), **options)
    return [{name: part.numpy() for name, part in batch.items()} for batch in islice(dataset, steps)]


def drawn(batches):
    return [number for batch in batches for number in numbers_of(batch["images"])]


def test_every_record_comes_once_an_epoch_across_batches(records):
    epochs = 3
    found = drawn(stream(records, -(-epochs * COUNT // BATCH)))
    for epoch in range(epochs):
        assert sorted(found[epoch * COUNT : (epoch + 1) * COUNT]) == list(range(COUNT))


def test_labels_belong_to_their_images(records):
    for batch in stream(records, 6):
        assert batch["labels"].dtype == np.int32
        assert batch["labels"].tolist() == [LABELS[number] for number in numbers_of(batch["images"])]


def test_order_differs_between_epochs_and_seeds_and_follows_from_them(records):
    first, again, other = stream(records, 10), stream(records, 10), stream(records, 10, seed=4)
    assert drawn(first) == drawn(again)
    assert drawn(first)[:COUNT] != drawn(other)[:COUNT]
    assert drawn(first)[:COUNT] != drawn(first)[COUNT : 2 * COUNT]


@pytest.mark.parametrize("step", [1, 4, 5, 9])
def test_resumed_stream_equals_the_one_never_stopped(records, step):
    whole, resumed = stream(records, 11), stream(records, 11 - step, start_step=step)
    for expected, got in zip(whole[step:], resumed, strict=True):
        for name in expected:
            np.testing.assert_array_equal(got[name], expected[name], strict=True)


def test_two_hosts_together_read_what_one_reads(records):
    one, left, right = (stream(records, 9, host=host) for host in ((0, 1), (0, 2), (1, 2)))
    for whole, *halves in zip(one, left, right, strict=True):
        for name in whole:
            assert len(halves[0][name]) == BATCH // 2
            np.testing.assert_array_equal(np.concatenate([half[name] for half in halves]), whole[name])


def test_batch_larger_than_an_epoch(records):
    batch = stream(records, 1, batch_size=2 * COUNT)[0]
    assert Counter(numbers_of(batch["images"])) == dict.fromkeys(range(COUNT), 2)


def test_label_map_gives_the_trained_classes(records):
    label_map = np.full(23, -1)
    label_map[[10, 13, 16, 19, 22]] = [4, 3, 2, 1, 0]
    for batch in stream(records, 5, label_map=label_map):
        expected = [4 - (LABELS[number] - 10) // 3 for number in numbers_of(batch["images"])]
        assert batch["labels"].tolist() == expected


def test_label_outside_the_map_is_refused_unless_never_drawn(records):
    label_map = np.array([-1] * 10 + [0, -1, -1, 1])
    with pytest.raises(ValueError, match="16"):
        stream(records, 1, label_map=label_map)
    kept = np.isin(records.labels, [10, 13]).astype(int)
    for batch in stream(records, 4, label_map=label_map, sampling=kept):
        assert set(batch["labels"].tolist()) <= {0, 1}


def test_sampling_draws_each_record_as_often_as_asked(records):
    sampling = np.arange(COUNT) % 3
    found = drawn(stream(records, -(-2 * sampling.sum() // BATCH), sampling=sampling))
    epoch = int(sampling.sum())
    for start in (0, epoch):
        counted = Counter(found[start : start + epoch])
        assert [counted[number] for number in range(COUNT)] == sampling.tolist()


@pytest.mark.parametrize("host", [(0, 1), (1, 2)])
def test_groups_teacher_and_features_are_of_the_same_records(records, host):
    """The order's records are what is read, whole or a host's; a row tells which record it is of."""
    order = ClassGroups(records.labels, np.zeros(COUNT, int), np.ones(1), 5, images_per_class=4)
    teacher = np.stack([np.arange(COUNT), np.arange(COUNT) ** 2], axis=1).astype(np.float16)
    read = stream(records, 6, order=order, teacher=teacher, host=host)
    features = feature_batches(teacher * 2.0, records.labels, order, BATCH, 2, host)
    for step, (batch, of_features) in enumerate(zip(read[2:], features.take(4), strict=True), start=2):
        items = order.batch(step, BATCH, host)
        assert numbers_of(batch["images"]) == items.tolist()
        # Augmentation goes by the place in the stream: a record that is drawn again looks different.
        assert batch["positions"].tolist() == batch_positions(step, BATCH, host).tolist()
        assert len(set(batch["labels"].tolist())) == 2 // host[1] and len(items) == BATCH // host[1]
        np.testing.assert_array_equal(of_features["features"], 2.0 * teacher[items].astype(np.float32), strict=True)
        for found in (batch, of_features):
            np.testing.assert_array_equal(found["labels"], records.labels[items].astype(np.int32))
        np.testing.assert_array_equal(batch["teacher"], teacher[items].astype(np.float32), strict=True)
    assert "teacher" not in stream(records, 1)[0]


def test_a_batch_that_hosts_cannot_share_is_refused(records):
    with pytest.raises(ValueError, match="equal share"):
        stream(records, 1, host=(0, 3))


def test_training_without_augmentation_scoring_and_export_see_the_same_pixels(records):
    in_order = list(eval_batches(records, SMALL, BATCH))
    by_number = np.concatenate([batch["images"].numpy() for batch in in_order])
    np.testing.assert_array_equal(np.concatenate([b["positions"] for b in in_order]), np.arange(COUNT))
    np.testing.assert_array_equal(np.concatenate([b["labels"] for b in in_order]), LABELS)
    order = Positions(COUNT, 3)
    for step, batch in enumerate(stream(records, 5)):
        items = order.batch(step, BATCH)
        np.testing.assert_array_equal(batch["images"], by_number[items], strict=True)
        for image, encoded in zip(batch["images"], read(records, items), strict=True):
            served = prepare(decode(encoded)[tf.newaxis], SMALL)[0]
            np.testing.assert_array_equal(normalize(image, SMALL), served, strict=True)


def test_shapes_are_static_where_a_step_is_compiled(records):
    train = train_batches(
        records, Positions(COUNT, 0), SMALL, Augment(flip=True, crop_scale_min=0.5), BATCH, 0, host=(1, 2)
    )
    assert train.element_spec["images"].shape == (BATCH // 2, 8, 8, 3)
    padded = eval_batches(records, SMALL, BATCH, pad_to_batch=True)
    assert padded.element_spec["images"].shape == (BATCH, 8, 8, 3)


def test_padding_is_marked_and_adds_no_record(records):
    batches = list(eval_batches(records, SMALL, BATCH, pad_to_batch=True))
    valid = np.concatenate([batch["valid"] for batch in batches])
    assert valid.tolist() == [True] * COUNT + [False] * (-COUNT % BATCH)
    images = np.concatenate([batch["images"] for batch in batches])
    assert numbers_of(images[valid]) == list(range(COUNT)) and not images[~valid].any()


def test_images_that_keep_their_aspect_come_once_with_those_of_their_shape(tmp_path):
    sizes = [(24, 24), (24, 40), (40, 24), (24, 41), (9, 30)]
    encoded = [jpeg(np.full((*sizes[number % 5], 3), 5 * number, np.uint8)) for number in range(23)]
    write_shards(tmp_path, encoded, [0] * 23, per_shard=9)
    records = open_records([tmp_path / "*.tfrec"])
    whole = replace(SMALL, fit="aspect", image_size_px=16, multiple_px=8)
    found: dict[int, np.ndarray] = {}
    for positions, images in eval_groups(records, whole, 3):
        assert len(positions) == len(images) <= 3
        found |= dict(zip(positions.tolist(), images, strict=True))
    assert sorted(found) == list(range(23))
    for number, image in found.items():
        np.testing.assert_array_equal(image, resize(decode(encoded[number]), whole))


def test_public_shards_without_index_and_keys_are_read(tmp_path):
    write_public_shard(
        tmp_path / "guie-imagenet1k-mini-train-00-6.tfrec", [grey_image(n) for n in range(6)], LABELS[:6]
    )
    records = open_records([tmp_path / "*.tfrec"])
    assert records.labels.tolist() == LABELS[:6]
    assert records.keys == [""] * 6 and records.sources == [""] * 6
    assert sorted(drawn(stream(records, 3, batch_size=2))) == list(range(6))


def test_keys_and_sources_are_the_records_own(records):
    assert records.keys == [f"image-{number}" for number in range(COUNT)]
    assert set(records.sources) == {"drawn"}


def test_domains_are_told_by_the_shards_names(tmp_path):
    """These records have no `image/source`, as the public sets have none."""
    sources = {
        "guie-imagenet1k-mini-train-00-2.tfrec": "guie-imagenet1k-mini",
        "a_train-test-123-2.tfrec": "a_train",
        "b.c-validation-07-2.tfrec": "b.c",
        "train-00-2.tfrec": "",
        "photos-train-2.tfrec": "",
        "photos.tfrec": "",
    }
    for name in sources:
        write_public_shard(tmp_path / name, [grey_image(0), grey_image(1)], [0, 1])
    records = open_records([tmp_path / name for name in sources])
    assert records.domains.tolist() == [source for source in sources.values() for _ in range(2)]


def test_a_shard_matched_twice_is_read_once(folder, records):
    assert len(open_records([folder / "*.tfrec", folder / "drawn-train-01-15.tfrec"])) == COUNT


def test_more_shards_than_files_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr(records_module, "OPEN_FILES", 2)
    write_shards(tmp_path, [grey_image(number) for number in range(12)], LABELS[:12], per_shard=2)
    records = open_records([tmp_path / "*.tfrec"])
    assert sorted(drawn(stream(records, 3, batch_size=4))) == list(range(12))
    assert records._file.cache_info().currsize == 2


def test_png_records_are_read(tmp_path):
    pixels = np.full((9, 7, 3), 60, np.uint8)
    write_public_shard(tmp_path / "a.tfrec", [tf.io.encode_png(pixels).numpy(), jpeg(pixels)], [0, 1])
    for augment in (Augment(), Augment(crop_scale_min=0.5)):
        batch = stream(open_records([tmp_path / "a.tfrec"]), 1, augment, batch_size=2)[0]
        np.testing.assert_allclose(batch["images"], 60.0, atol=1.0)


def test_no_shard_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="none match"):
        open_records([tmp_path / "*.tfrec"])


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.faults("damaged shard")
def test_half_written_shard_is_refused_by_name(folder, tmp_path, indexed):
    whole = folder / "drawn-train-01-15.tfrec"
    (tmp_path / whole.name).write_bytes(whole.read_bytes()[:-100])
    if indexed:
        index = whole.with_suffix(".index")
        (tmp_path / index.name).write_bytes(index.read_bytes())
    with pytest.raises(BadInput, match=rf"{whole.name}.*offset \d+"):
        open_records([tmp_path / "*.tfrec"])


@pytest.mark.faults("damaged shard")
def test_records_of_something_else_are_refused(tmp_path):
    writer = ShardWriter(tmp_path / "text.tfrec")
    writer.write(b"\x0a\x00not an example")
    writer.close()
    with pytest.raises(BadInput, match=r"text.tfrec.*image/class/label.*offset 0"):
        open_records([tmp_path / "text.tfrec"])


@pytest.mark.faults("damaged shard")
def test_flipped_byte_stops_the_stream_and_names_the_record(tmp_path):
    write_shards(tmp_path, [grey_image(number) for number in range(4)], LABELS[:4], per_shard=4)
    path = next(tmp_path.glob("*.tfrec"))
    damaged = bytearray(path.read_bytes())
    records = open_records([path])
    offset, length = records.spans[2].tolist()
    damaged[offset + length // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(tf.errors.OpError, match=rf"BadInput.*{path.name}: record at offset {offset}: wrong CRC"):
        stream(records, 1, batch_size=4)
    with pytest.raises(BadInput, match=f"offset {offset}"):
        read(records, np.array([2]))


def test_an_image_that_does_not_decode_is_bad_input(tmp_path):
    write_public_shard(tmp_path / "x.tfrec", [b"\xff\xd8\xff no more", b"no image"], [0, 1])
    records = open_records([tmp_path / "x.tfrec"])
    for chosen in ([1, 0], [0, 1]):
        with pytest.raises(BadInput, match="cannot be decoded"), damage_is_bad_input():
            stream(records, 1, batch_size=1, sampling=np.array(chosen))


def test_labels_are_found_wherever_they_stand_in_the_record(tmp_path):
    """Protobuf maps have no order, and labels may be negative or packed in other ways."""
    writer = ShardWriter(tmp_path / "x.tfrec")
    labels = [0, 127, 128, 17690, 2**40, -1]
    for label in labels:
        writer.write(example(b"jpeg", label, "key"))
        writer.write(example(b"jpeg", label))
    writer.close()
    assert open_records([tmp_path / "x.tfrec"]).labels.tolist() == [x for label in labels for x in (label, label)]


def test_real_photographs_pass_through(shared):
    paths = sorted((shared / "data" / "products10k" / "train").glob("*.jpg"))[:4]
    preprocess = Preprocess(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    for path in paths:
        pixels = resize(decode(path.read_bytes()), preprocess).numpy()
        assert pixels.shape == (64, 64, 3) and pixels.std() > 5
