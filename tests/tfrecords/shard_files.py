"""Small shards for tests: the grey level of a record's image is its number."""

import io
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from tfrecords.shards import ShardWriter, index_path

LEVELS_APART = 6  # a grey level survives JPEG to within a unit or two


def jpeg(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **{"quality": 95, **options})
    return buffer.getvalue()


def grey_image(number: int) -> bytes:
    """Record `number` as a picture; sizes differ."""
    size = (16 + number % 5, 24 - number % 3, 3)
    return jpeg(np.full(size, number * LEVELS_APART, np.uint8))


def numbers_of(images) -> list[int]:
    """Which records the images of a batch are."""
    return np.rint(np.mean(images, axis=(1, 2, 3)) / LEVELS_APART).astype(int).tolist()


def example(encoded: bytes, label: int, key: str | None = None, source: str = "drawn") -> bytes:
    """A serialised Example; without `key` one as in the public guie-* sets."""
    feature = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    if key is not None:
        feature["image/key"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[key.encode()]))
        feature["image/source"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[source.encode()]))
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def write_shards(folder: Path, images: list[bytes], labels: list[int], per_shard: int) -> None:
    """Shards as `guie tfrecords` leaves them, with index and keys."""
    for first in range(0, len(images), per_shard):
        chosen = range(first, min(first + per_shard, len(images)))
        path = folder / f"drawn-train-{first // per_shard:02d}-{len(chosen)}.tfrec"
        writer = ShardWriter(path)
        for number in chosen:
            writer.write(example(images[number], labels[number], f"image-{number}"))
        writer.close()
        index_path(path).write_text(writer.index_text(), encoding="ascii")


def write_public_shard(path: Path, images: list[bytes], labels: list[int]) -> None:
    """A shard as TensorFlow writes it: no index, no keys."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for encoded, label in zip(images, labels, strict=True):
            writer.write(example(encoded, label))
