"""Embeddings of a table's images and captions: loaded and encoded in blocks, cached after each."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from pipeline import errors
from pipeline.captions.config import Captions, Fetch
from pipeline.captions.fetch import Fetched, fetch, is_url
from pipeline.captions.metering import Meter
from pipeline.console import Progress
from pipeline.data.array_cache import ArrayCache, content_key
from pipeline.data.preprocessing import resize_to_square
from pipeline.models.dual_encoder import DualEncoder, batches
from tfrecords import pixels

BLOCK = 64  # images prepared and encoded at a time; the next block is loaded meanwhile
TEXT_BLOCK = 512
BATCH = 32


def encode_images(
    references: list[str], root: Path, config: Captions, encoder: DualEncoder, cache: ArrayCache, meter: Meter
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Encodes the images that the cache lacks, equal ones once.

    A file's cache key is its content's, so files are read in every run. A URL's is that of its text, so a cached URL is
    not fetched again. An image that could not be had is tried again in the next run. `references` are paths, relative
    ones from `root`, and URLs; `cache` has rows `vectors`, float32 [D], of this encoder's image tower. Returns
    (reference → float32 [D], unit length; reference → the reason why there is none).
    """
    unique = list(dict.fromkeys(references))
    keys = {url: key for url in unique if is_url(url) and (key := content_key(url.encode())) in cache}
    progress = Progress("captions: images", len(unique), "images", len(keys))
    reasons: dict[str, str] = {}
    unreadable: dict[str, str] = {}  # cache key → reason
    prepare = partial(_prepared, encoder=encoder, max_megapixels=config.max_megapixels)
    with ThreadPoolExecutor(os.cpu_count() or 1) as workers:
        for block in _loaded([each for each in unique if each not in keys], config.fetch, root, meter):
            new: dict[str, bytes] = {}
            for each in block:
                if each.content is None:
                    reasons[each.reference] = each.reason
                    continue
                key = content_key(each.reference.encode() if is_url(each.reference) else each.content)
                keys[each.reference] = key
                if key not in cache:
                    new[key] = each.content
            if new:
                with meter.step("preprocessing", len(new)):
                    prepared = dict(zip(new, workers.map(prepare, new.values()), strict=True))
                unreadable |= {key: image for key, image in prepared.items() if isinstance(image, str)}
                images = {key: image for key, image in prepared.items() if not isinstance(image, str)}
                if images:
                    with meter.step("encoding images", len(images)):
                        stacked = np.stack(list(images.values()))
                        vectors = [encoder.encode_images(batch) for batch in batches(stacked, BATCH)]
                    cache.put(list(images), vectors=np.concatenate(vectors))
            progress.add(len(block), f"{len(reasons) + len(unreadable):,} not to be had")
    reasons |= {reference: unreadable[key] for reference, key in keys.items() if key in unreadable}
    return _rows(cache, {reference: key for reference, key in keys.items() if key in cache}), reasons


def encode_texts(
    captions: list[str], encoder: DualEncoder, cache: ArrayCache, meter: Meter
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Tokenises all captions and encodes those that the cache lacks, each once.

    `cache` has rows `vectors`, float32 [D], of this encoder's text tower. Returns (caption → float32 [D], unit length;
    caption → tokens that did not fit, where there are any).
    """
    keys = {caption: content_key(caption.encode()) for caption in captions}
    unique = list(keys)
    tokenizer = encoder.text.tokenizer
    cut: dict[str, int] = {}
    progress = Progress("captions: texts", len(unique), "texts")
    for start in range(0, len(unique), TEXT_BLOCK):
        block = unique[start : start + TEXT_BLOCK]
        with meter.step("tokenising", len(block)):
            ids = dict(zip(block, tokenizer.ids(block), strict=True))
        cut |= {text: len(row) - tokenizer.room for text, row in ids.items() if len(row) > tokenizer.room}
        new = {keys[text]: row for text, row in ids.items() if keys[text] not in cache}
        if new:
            with meter.step("encoding texts", len(new)):
                vectors = encoder.encode_ids(tokenizer.pack(list(new.values())), BATCH)
            cache.put(list(new), vectors=vectors)
        progress.add(len(block))
    return _rows(cache, keys), cut


def _loaded(references: list[str], options: Fetch, root: Path, meter: Meter) -> Iterator[list[Fetched]]:
    """Blocks of loaded images; the next block is being loaded while the caller works on one."""

    def load(block: list[str]) -> list[Fetched]:
        with meter.step("loading", len(block)):
            return fetch(block, options, root)

    blocks = [references[start : start + BLOCK] for start in range(0, len(references), BLOCK)]
    with ThreadPoolExecutor(1) as ahead:
        pending = ahead.submit(load, blocks[0]) if blocks else None
        for following in [*blocks[1:], None]:
            if pending is None:
                return
            done = pending.result()
            pending = ahead.submit(load, following) if following else None
            yield done


def _prepared(content: bytes, encoder: DualEncoder, max_megapixels: float) -> np.ndarray | str:
    """uint8 [S, S, 3], or the reason why there is none."""
    try:
        image = pixels.opened(content)  # reads the header only
        megapixels = image.width * image.height / 1e6
        if megapixels > max_megapixels:
            return f"{megapixels:.1f} megapixels, more than max_megapixels {max_megapixels:g}"
        return resize_to_square(pixels.read(content), encoder.preprocess)
    except (ValueError, OSError) as error:
        why = errors.reason(error)
        return "not an image" if why.startswith("not an image") else f"not a readable image: {why}"


def _rows(cache: ArrayCache, keys: dict[str, str]) -> dict[str, np.ndarray]:
    """Image or caption → its vector."""
    return dict(zip(keys, cache.get(list(keys.values())).get("vectors", ()), strict=True))
