"""Shards → batches of pixels, for training and in order.

The order is arithmetic (`sampler`) and records are read by number (`records`), so the stream is the same from
(seed, step) however it is reached: after a kill, on several hosts, with any number of threads.
"""

import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import tensorflow as tf

from pipeline.config import Augment
from pipeline.data import augment as augmentation
from pipeline.data.preprocessing import Preprocess, decode, resize
from pipeline.data.read_ahead import BlocksAhead, RecordsAhead
from pipeline.data.records import RecordSet, open_records
from pipeline.data.sampler import Interleaved, Order, batch_positions
from pipeline.errors import BadInput

__all__ = ["RecordSet", "damage_is_bad_input", "eval_batches", "open_records", "train_batches"]

Image = TypeVar("Image")


def train_batches(
    records: RecordSet,
    order: Order,
    preprocess: Preprocess,
    augment: Augment,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    host: tuple[int, int] = (0, 1),
    label_map: np.ndarray | None = None,
    teacher: np.ndarray | None = None,
) -> tf.data.Dataset:
    """The training stream from step `start_step` on, without end.

    Args:
        order: which records each batch holds, see `sampler.order`.
        preprocess: of the encoder; without augmentation the pixels are exactly those of `resize`.
        batch_size: of all hosts together.
        seed: of the augmentation: every draw follows from (seed, position).
        host: (index, hosts): this host's slice of each batch, `batch_size / hosts` images.
        label_map: int [labels]: label in the records → class that is trained; None: as they are.
        teacher: float [N, W], a row for each record; may be memory-mapped. None: the element has no such part.

    Returns:
        {"images": float32 (uint8 where only crops and flips are asked for) [b, S, S, 3] in 0…255, not normalised
        (`normalize` runs on the device), "labels": int32 [b], "positions": int64 [b], places in the stream: no
        two are equal, so a record that is drawn again is augmented anew; with `teacher` also "teacher": float32
        [b, W], the rows of the batch's records}; b = batch_size / hosts.

    Raises:
        ValueError: a batch that does not divide by the hosts, or a drawn record whose label `label_map` lacks.
        tf.errors.OpError: while iterating, for damage; see `damage_is_bad_input`.
    """
    labels = _mapped_labels(records.labels, label_map, order.entries)
    batch_positions(start_step, batch_size, host)  # fails here, not in a thread

    def items_of(step: int) -> np.ndarray:
        return order.batch(step, batch_size, host)

    each = batch_size // host[1]
    # Of several hosts each has a part of a batch: whole blocks would be read by all of them.
    if isinstance(order, Interleaved) and host[1] == 1:
        ahead: BlocksAhead | RecordsAhead = BlocksAhead(records, order, batch_size)
    else:
        ahead = RecordsAhead(records, items_of, each)

    def read(step):
        items = items_of(int(step))
        positions = batch_positions(int(step), batch_size, host)
        found = _bytes_array(ahead.images(int(step))), labels[items], positions
        return found if teacher is None else (*found, teacher[items].astype(np.float32))

    image_of = augmentation.image_function(preprocess, augment, seed)

    def element(encoded, label, position, *row):
        found = {"images": image_of(encoded, position), "labels": label, "positions": position}
        return found if teacher is None else {**found, "teacher": tf.ensure_shape(row[0], teacher.shape[1:])}

    types = [tf.string, tf.int32, tf.int64] + [tf.float32] * (teacher is not None)
    dataset = _elements(tf.data.Dataset.counter(start_step), read, types, element)
    return dataset.batch(each, drop_remainder=True).prefetch(2)


def eval_batches(
    records: RecordSet, preprocess: Preprocess, batch_size: int, pad_to_batch: bool = False
) -> tf.data.Dataset:
    """Every record once, in order, its pixels exactly those of `resize`.

    Args:
        pad_to_batch: fill the last batch with black images, so that every batch has the same static shape.

    Returns:
        {"images": float32 [B, S, S, 3] in 0…255, "labels": int64 [B] as in the records, "positions": int64 [B] the
        record's number, "valid": bool [B], False where padded}. Damage raises as in `train_batches`.
    """
    dataset = _eval_images(records, preprocess, [preprocess.image_size_px] * 2, batch_size)
    if pad_to_batch:
        lacking = -len(records) % batch_size
        padding = {name: tf.zeros([lacking, *spec.shape], spec.dtype) for name, spec in dataset.element_spec.items()}
        dataset = dataset.concatenate(tf.data.Dataset.from_tensor_slices(padding))
    return dataset.batch(batch_size, drop_remainder=pad_to_batch).prefetch(2)


def eval_groups(records: RecordSet, preprocess: Preprocess, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every record once as (positions int64 [B], images float32 [B, h, w, 3]), images of one shape together.

    For `fit: aspect`. Damage raises as in `train_batches`; never more than 2 · `batch_size` images are held.
    """
    found = _eval_images(records, preprocess, [None, None], batch_size).prefetch(2)
    read = ((int(each["positions"]), each["images"].numpy()) for each in found)
    for positions, images in batches_of_one_shape(read, np.shape, lambda image: batch_size, 2 * batch_size - 1):
        yield np.array(positions, np.int64), np.stack(images)


def batches_of_one_shape(
    images: Iterable[tuple[int, Image]], shape: Callable[[Image], Hashable], size: Callable[[Image], int], most: int
) -> Iterator[tuple[list[int], list[Image]]]:
    """Batches (rows, images), images of one shape in their order; of a rare shape what there is, early or at the end.

    >>> images = enumerate(["ab", "c", "de", "f", "ghi"])
    >>> list(batches_of_one_shape(images, len, lambda image: 2, 3))
    [([0, 2], ['ab', 'de']), ([1, 3], ['c', 'f']), ([4], ['ghi'])]

    Args:
        images: (row, image).
        shape: of an image. size: of a batch of its shape, at least 1.
        most: images that are held at a time; beyond them the largest group goes, full or not.
    """
    waiting: dict[Hashable, list[tuple[int, Image]]] = {}

    def taken(which: Hashable) -> tuple[list[int], list[Image]]:
        group = waiting.pop(which)
        return [row for row, _ in group], [image for _, image in group]

    for row, image in images:
        which = shape(image)
        waiting.setdefault(which, []).append((row, image))
        if len(waiting[which]) >= size(image):
            yield taken(which)
        if sum(map(len, waiting.values())) > most:
            yield taken(max(waiting, key=lambda each: len(waiting[each])))
    for which in list(waiting):
        yield taken(which)


def _eval_images(records: RecordSet, preprocess: Preprocess, size: list[int | None], together: int) -> tf.data.Dataset:
    """The elements of `eval_batches`, one at a time; `together` are read at once."""
    count = len(records)

    def items_of(number: int) -> np.ndarray:
        return np.arange(number * together, min((number + 1) * together, count), dtype=np.int64)

    ahead = RecordsAhead(records, items_of, together)

    def read(number):
        items = items_of(int(number))
        return _bytes_array(ahead.images(int(number))), records.labels[items], items

    def element(encoded, label, item):
        image = tf.ensure_shape(resize(decode(encoded), preprocess), [*size, 3])
        return {"images": image, "labels": label, "positions": item, "valid": True}

    numbers = tf.data.Dataset.range(-(-count // together))
    return _elements(numbers, read, [tf.string, tf.int64, tf.int64], element)


def _elements(numbers: tf.data.Dataset, read: Callable, types: list, element: Callable) -> tf.data.Dataset:
    """`element` of every (encoded, label, number, …) that `read` gives for `numbers`, one at a time, in order."""

    def shaped(encoded, label, number, *more):
        return element(*(tf.ensure_shape(value, []) for value in (encoded, label, number)), *more)

    rows = numbers.map(lambda number: tf.numpy_function(read, [number], types))
    return rows.prefetch(2).unbatch().map(shaped, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


@contextmanager
def damage_is_bad_input() -> Iterator[None]:
    """Around iteration (or as a decorator): raises BadInput for the tf.errors.OpError of damaged records.

    Its message is the line of the thread that read (shard and offset), or that an image cannot be decoded.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if read := re.search(r"BadInput: (.+)", str(error)):
            raise BadInput(read[1]) from None
        if reason := re.search(r"jpeg::Uncompress.+|Unknown image file format.+|Invalid JPEG.+", str(error)):
            raise BadInput(f"an image of the records cannot be decoded ({reason[0]}): `guie verify` names it") from None
        raise


def _mapped_labels(labels: np.ndarray, label_map: np.ndarray | None, drawn: np.ndarray) -> np.ndarray:
    """int32 [N]: the trained class of each record; -1 for records that are not drawn and have none."""
    if label_map is None:
        return labels.astype(np.int32)
    known = (labels >= 0) & (labels < len(label_map))
    mapped = np.where(known, np.asarray(label_map)[np.where(known, labels, 0)], -1).astype(np.int32)
    if (mapped[drawn] < 0).any():
        missing = np.unique(labels[drawn][mapped[drawn] < 0])
        raise ValueError(f"records have labels that the label map lacks: {missing[:5].tolist()} …")
    return mapped


def _bytes_array(strings: list[bytes]) -> np.ndarray:
    return np.array(strings, dtype=object)  # a fixed-width dtype would cut trailing zero bytes
