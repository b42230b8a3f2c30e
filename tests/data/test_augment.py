"""Augmentation: drawn from (seed, position) alone, bounded, and doing what its settings say."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.config import Augment
from pipeline.data.augment import Draws, decode_random_crop, image_function, keras_cv_layers, resize_crop
from pipeline.data.batches import open_records, train_batches
from pipeline.data.preprocessing import Preprocess, decode, resize
from pipeline.data.sampler import Positions
from tests.data.test_preprocessing import scene
from tests.tfrecords.shard_files import jpeg, write_shards

PREPROCESS = Preprocess(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
EACH = {
    "flip": Augment(flip=True),
    "crop": Augment(crop_scale_min=0.3),
    "color_jitter": Augment(color_jitter=0.8),
    "rand_augment": Augment(rand_augment=0.5),
    "cutout": Augment(cutout=0.4),
}
MANY = Augment(flip=True, crop_scale_min=0.3, rand_augment=0.5, cutout=0.3)


def augmented(augment, positions, seed=1, encoded=None):
    encoded = encoded or jpeg(scene(60, 80))
    image_of = tf.function(
        image_function(PREPROCESS, augment, seed),
        input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)],
    )
    return np.stack([image_of(encoded, position).numpy() for position in positions]), image_of


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    images = [jpeg(scene(50 + number, 90 - number, number)) for number in range(21)]
    write_shards(folder, images, list(range(21)), per_shard=8)
    return open_records([folder / "*.tfrec"])


def test_a_batch_is_the_same_to_the_bit_however_it_is_reached(records):
    stream = train_batches(records, Positions(21, 7), PREPROCESS, MANY, 6, 7)
    reached = [batch["images"].numpy() for batch in stream.take(5)]
    resumed = train_batches(records, Positions(21, 7), PREPROCESS, MANY, 6, 7, start_step=3, host=(1, 2))
    for expected, batch in zip(reached[3:], resumed.take(2), strict=True):  # 21 images: an epoch ends in batch 3
        np.testing.assert_array_equal(batch["images"], expected[3:], strict=True)


@pytest.mark.parametrize("augment", EACH.values(), ids=EACH)
def test_draws_follow_from_seed_and_position_alone(augment):
    positions = [0, 1, 2, 3, 4, 5, 2**40]
    images, image_of = augmented(augment, positions)
    again = [image_of(jpeg(scene(60, 80)), position) for position in positions[::-1]]
    other_seed, _ = augmented(augment, positions, seed=2)
    np.testing.assert_array_equal(images, again[::-1])
    assert (images != other_seed).any()
    assert len({image.tobytes() for image in images}) >= (2 if augment.flip and augment == EACH["flip"] else 6)
    assert np.isfinite(images).all() and images.min() >= 0 and images.max() <= 255
    graph = image_of.get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    stateful = {node.op for node in nodes if "Random" in node.op and not node.op.startswith("StatelessRandom")}
    assert not stateful and not any("VarHandle" in node.op or "ReadVariable" in node.op for node in nodes)


def test_augmentation_that_is_off_costs_nothing_and_changes_nothing():
    encoded = jpeg(scene(60, 80))
    images, image_of = augmented(Augment(), [0, 1], encoded=encoded)
    np.testing.assert_array_equal(images[0], resize(decode(encoded), PREPROCESS), strict=True)
    np.testing.assert_array_equal(images[1], images[0])
    operations = {node.op for node in image_of.get_concrete_function().graph.as_graph_def().node}
    assert not any("Random" in operation for operation in operations)
    assert keras_cv_layers(Augment(flip=True, crop_scale_min=0.5), Draws(0)) == []


def test_flip_mirrors_half_of_the_images():
    images, _ = augmented(EACH["flip"], range(200))
    plain, _ = augmented(Augment(), [0])
    mirrored = (images == plain[0][:, ::-1]).all(axis=(1, 2, 3))
    assert ((images == plain[0]).all(axis=(1, 2, 3)) ^ mirrored).all()
    assert 70 < mirrored.sum() < 130


def test_crops_keep_to_area_and_aspect_and_reach_every_place():
    height, width = 240, 320  # red is x, green is y: a crop's corner colours give the window back
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 / width, y * 255 / height, np.full_like(x, 128)], axis=-1).astype(np.uint8)
    encoded = jpeg(pixels, quality=100, subsampling=0)
    images, _ = augmented(Augment(crop_scale_min=0.25, crop_aspect_max=1.5), range(300), encoded=encoded)
    left, right = images[:, :, 0, 0].mean(1) / 255, images[:, :, -1, 0].mean(1) / 255
    top, bottom = images[:, 0, :, 1].mean(1) / 255, images[:, -1, :, 1].mean(1) / 255
    wide, high = (right - left) * 32 / 31, (bottom - top) * 32 / 31  # from pixel centres to edges
    area, aspect = wide * high, wide / high
    assert area.min() > 0.22 and area.max() <= 1.03 and area.min() < 0.3 and area.max() > 0.9
    assert aspect.min() > 1 / 1.57 and aspect.max() < 1.57 and aspect.min() < 0.75 and aspect.max() > 1.33
    for start, extent in ((left, wide), (top, high)):
        small = extent < 0.8
        share = start[small] / (1 - extent[small])  # where in its room the window stands, 0 to 1
        assert share.min() < 0.15 and share.max() > 0.85 and abs(share.mean() - 0.5) < 0.08


@pytest.mark.parametrize("size", [(64, 80), (144, 152), (304, 280), (704, 600)])
def test_crop_decoded_at_reduced_size_shows_what_the_full_decode_shows(size):
    """The second way: decode everything, slice, resize with the filter that scoring uses."""
    encoded, augment = jpeg(scene(*size), quality=98, subsampling=0), Augment(crop_scale_min=0.4)
    for position in range(6):
        draws = Draws(5)
        draws.begin(tf.constant(position, tf.int64))
        cropped = decode_random_crop(encoded, augment, PREPROCESS, draws)
        draws.begin(tf.constant(position, tf.int64))
        share, stretch, down, across = draws.uniform([4]).numpy()
        area, aspect = 0.4 + 0.6 * share, augment.crop_aspect_max ** (2 * stretch - 1)
        high, wide = min((area / aspect) ** 0.5, 1), min((area * aspect) ** 0.5, 1)
        shrink = min(size[0] * high, size[1] * wide) / 32
        ratio = max(r for r in (1, 2, 4, 8) if r == 1 or shrink >= r)
        full = [-(-pixels // ratio) for pixels in size]
        extent = [round(full[0] * high), round(full[1] * wide)]
        top = min(round(full[0] * down * (1 - high)), full[0] - extent[0]) * ratio
        left = min(round(full[1] * across * (1 - wide)), full[1] - extent[1]) * ratio
        assert cropped.shape == (*extent, 3)
        window = decode(encoded)[top : top + cropped.shape[0] * ratio, left : left + cropped.shape[1] * ratio]
        expected = resize(window, PREPROCESS).numpy()
        got = resize_crop(cropped, 32, tf.constant(False)).numpy()
        np.testing.assert_array_equal(resize_crop(cropped, 32, tf.constant(True)), got[:, ::-1])
        assert np.abs(got - expected).mean() < 8.0, (position, ratio)  # another window: 20 and more


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize(("height", "width"), [(120, 320), (300, 200)])
@pytest.mark.parametrize("suffix", ["jpeg", "png"])
def test_crops_of_images_that_are_not_squashed_are_nearly_square_in_pixels(fit, height, width, suffix):
    pixels = np.zeros((height, width, 3), np.uint8)
    encoded = jpeg(pixels) if suffix == "jpeg" else tf.io.encode_png(pixels)
    draws, preprocess = Draws(3), replace(PREPROCESS, fit=fit, image_size_px=512)  # 512: decoded at full size
    augment = Augment(crop_scale_min=0.2, crop_aspect_max=1.5)

    def window(position):
        draws.begin(position)
        return tf.shape(decode_random_crop(encoded, augment, preprocess, draws))[:2]

    positions = tf.data.Dataset.range(400)
    high, wide = np.stack([size.numpy() for size in positions.map(window)]).T.astype(float)
    aspect = np.log(wide / high) / np.log(1.5)
    assert np.abs(aspect).max() < 1.05 and abs(aspect.mean()) < 0.1
    counts, _ = np.histogram(aspect, 4, (-1, 1))
    assert counts.min() > 60  # log-uniform
    area = high * wide / (height * width)
    assert 0.18 < area.min() < 0.3 and 0.3 < area.max() <= 1.0


def test_cutout_covers_its_square():
    black = jpeg(np.zeros((40, 40, 3), np.uint8))
    images, _ = augmented(Augment(cutout=0.5), range(40), encoded=black)
    covered = (images[..., 0] > 100).sum(axis=(1, 2))
    assert covered.max() == 16 * 16 and covered.min() >= 8 * 8  # at a corner a quarter of it is left
    assert set(np.unique(images)) == {0.0, 127.5}


def test_jitter_grows_with_its_setting():
    plain, _ = augmented(Augment(), [0])

    def change(strength):
        return np.abs(augmented(Augment(color_jitter=strength), range(20))[0] - plain).mean()

    assert 0 < change(0.1) < change(1.0)


def test_pixels_stay_float32_where_the_model_computes_in_bfloat16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        augment = Augment(color_jitter=0.5, cutout=0.3)
        mixed, _ = augmented(augment, [0, 1])
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy(before)
    np.testing.assert_array_equal(mixed, augmented(augment, [0, 1])[0], strict=True)
