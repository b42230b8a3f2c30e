"""Images → cache: computed once by their bytes, in parts; what cannot be read is a reject and is tried again."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.array_cache import ArrayCache
from pipeline.data.image_cache import CachedImages, cache_images
from tfrecords.listing.items import refuse
from tfrecords.sources import Item


def encoded(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4 + shade, 3), (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def item(key: str, content: bytes) -> Item:
    return Item(key, "class", lambda: content)


class Shades:
    """Computes the shade and width of each picture, and counts."""

    def __init__(self, folder: Path, **options):
        self.folder, self.options, self.batches = folder, options, []

    def __call__(self, pictures: list[np.ndarray]) -> dict[str, np.ndarray]:
        self.batches.append([int(picture[0, 0, 0]) for picture in pictures])
        widths = np.array([picture.shape[1] for picture in pictures])
        return {"shades": np.array(self.batches[-1])[:, None], "widths": widths}

    def run(self, items: list[Item], batch_size: int = 3, **options) -> tuple[CachedImages, list[list[int]]]:
        """(found, the batches computed), by a cache that is opened anew."""
        self.batches.clear()
        self.cache = ArrayCache(self.folder, "shades")
        found = cache_images(self.cache, items, self, "test", batch_size, **options)
        return found, list(self.batches)

    def rows(self, found: CachedImages) -> list[int]:
        rows = ArrayCache(self.folder, "shades").get(found.keys)
        assert rows["widths"].tolist() == [4 + shade for (shade,) in rows["shades"].tolist()]
        return rows["shades"][:, 0].tolist()


@pytest.fixture
def shades(tmp_path):
    return Shades(tmp_path)


def test_rows_are_those_of_the_items_and_a_rerun_computes_nothing(shades):
    items = [item(str(n), encoded(n)) for n in range(8)]
    found, batches = shades.run(items)
    assert found.items == items and found.rejects == [] and shades.rows(found) == list(range(8))
    assert batches == [[0, 1, 2], [3, 4, 5], [6, 7]]
    again, batches = shades.run(items[::-1])
    assert batches == [] and shades.rows(again) == list(range(8))[::-1]
    assert shades.run([]) == (CachedImages([], [], []), [])


@pytest.mark.faults("stale results")
def test_only_new_and_changed_bytes_are_computed_whatever_the_item_is_called(shades):
    shades.run([item("a", encoded(1)), item("b", encoded(2))])
    renamed = [item("other", encoded(1)), item("b", encoded(7)), item("new", encoded(3))]
    found, batches = shades.run(renamed)
    assert batches == [[7, 3]] and shades.rows(found) == [1, 7, 3]


def test_equal_images_are_computed_once_and_each_has_its_row(shades):
    items = [item(str(n), encoded(n % 2)) for n in range(20)]
    found, batches = shades.run(items, images_per_part=2, threads=8)
    assert batches == [[0, 1]] and found.items == items and shades.rows(found) == [0, 1] * 10


def test_unreadable_images_are_rejects_with_a_reason_and_are_tried_again(shades):
    broken = [
        item("damaged", encoded(1)[:40]),
        item("text", b"no image"),
        Item("refused", "class", lambda: refuse("\udcff two\nlines")),
        Item("absent", "class", lambda: Path("/none/\udcff").read_bytes()),
    ]
    good = [item("a", encoded(1)), item("b", encoded(2))]
    for _ in range(2):
        found, _ = shades.run([good[0], *broken, good[1]])
        assert found.items == good and shades.rows(found) == [1, 2]
        assert [key for key, _ in found.rejects] == ["damaged", "text", "refused", "absent"]
        reasons = [why for _, why in found.rejects]
        assert all(reasons) and reasons[2] == "\\xff two" and "".join(reasons).encode().count(b"\n") == 0
    mended = [good[0], item("damaged", encoded(5)), good[1]]
    found, batches = shades.run(mended)
    assert batches == [[5]] and found.rejects == [] and shades.rows(found) == [1, 5, 2]
    assert shades.run([broken[0]])[0].items == []  # nothing but rejects


@pytest.mark.faults("kill")
def test_a_kill_loses_at_most_a_part(tmp_path):
    class Killed(Shades):
        def __call__(self, pictures):
            if 9 in [int(picture[0, 0, 0]) for picture in pictures]:
                raise KeyboardInterrupt
            return super().__call__(pictures)

    items = [item(str(n), encoded(n)) for n in range(12)]
    with pytest.raises(KeyboardInterrupt):
        Killed(tmp_path).run(items, images_per_part=4)
    found, batches = Shades(tmp_path).run(items, images_per_part=4)
    assert batches == [[8, 9, 10], [11]] and found.items == items


def test_parts_and_batches_are_no_larger_than_they_may_be(shades):
    items = [item(str(n), encoded(n)) for n in range(11)]
    _, batches = shades.run(items, batch_size=3, images_per_part=5)
    assert [len(batch) for batch in batches] == [3, 2, 3, 2, 1]
    parts = [len(np.load(path)) for path in shades.cache.folder.rglob("keys.npy")]
    assert sorted(parts) == [1, 5, 5]


def test_images_are_read_ahead_a_bounded_number_only(shades):
    reads, behind = [], []

    def counted(number: int) -> bytes:
        reads.append(number)
        return encoded(number)

    items = [Item(str(n), "class", lambda n=n: counted(n)) for n in range(60)]

    def compute(pictures):
        behind.append(len(reads) - sum(map(len, shades.batches)))
        return shades(pictures)

    cache_images(ArrayCache(shades.folder, "shades"), items, compute, "test", 3, threads=2)
    assert len(reads) == 60 and max(behind) <= 3 + 4 * 2 + 1
