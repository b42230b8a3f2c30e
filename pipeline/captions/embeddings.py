"""Embeddings of the images and captions of a table: fetched, prepared and encoded in blocks, kept as they come."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from pipeline import files
from pipeline.captions.fetch import Fetch, Fetched, fetch, is_url
from pipeline.captions.metering import Meter
from pipeline.console import Progress
from pipeline.data.preprocessing import resize_to_square
from pipeline.models.dual_encoder import DualEncoder
from tfrecords import pixels

BLOCK = 64  # images prepared and encoded at a time; the next as many are fetched meanwhile
TEXT_BLOCK = 512
BATCH = 32


def encode_images(
    references: list[str],
    root: Path,
    options: Fetch,
    max_megapixels: float,
    towers: DualEncoder,
    folder: Path,
    meter: Meter,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Each image once, however many rows share it.

    Args:
        references: paths, relative ones from `root`, and URLs.
        max_megapixels: larger images are left out before they are decoded.
        folder: of these towers alone; what is in it is not encoded again. Images that could not be had are
            tried again in the next run.

    Returns:
        (reference → float32 [D], unit length; reference → the reason why there is none).
    """
    unique = list(dict.fromkeys(references))
    keys = {reference: _key(reference, root) for reference in unique}
    kept = _kept(folder, "images")
    found = {reference: kept[key] for reference, key in keys.items() if key in kept}
    reasons: dict[str, str] = {}
    missing = [reference for reference in unique if reference not in found]
    progress = Progress("captions: images", len(unique), "images", len(found))
    with ThreadPoolExecutor(os.cpu_count() or 1) as workers:
        prepare = partial(_prepared, towers=towers, max_megapixels=max_megapixels)
        for block in _loaded(missing, options, root, meter):
            with meter.step("preprocessing", len(block)):
                prepared = list(workers.map(prepare, block))
            good = {}
            for each, image in zip(block, prepared, strict=True):
                if isinstance(image, str):
                    reasons[each.reference] = image
                else:
                    good[each.reference] = image
            if good:
                with meter.step("encoding images", len(good)):
                    encoded = _encoded(towers, np.stack(list(good.values())))
                _keep(folder, "images", [keys[reference] for reference in good], encoded)
                found |= dict(zip(good, encoded, strict=True))
            progress.add(len(block), f"{len(reasons):,} not to be had")
    return found, reasons


def encode_texts(
    captions: list[str], towers: DualEncoder, folder: Path, meter: Meter
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Each caption once.

    Args:
        folder: as `encode_images` has it; all captions are tokenised, the new ones encoded.

    Returns:
        (caption → float32 [D], unit length; caption → tokens that did not fit, where there are any).
    """
    unique = list(dict.fromkeys(captions))
    tokenizer = towers.text.tokenizer
    keys = {caption: hashlib.sha256(caption.encode()).hexdigest() for caption in unique}
    kept = _kept(folder, "texts")
    found = {caption: kept[key] for caption, key in keys.items() if key in kept}
    cut: dict[str, int] = {}
    progress = Progress("captions: texts", len(unique), "texts")
    for start in range(0, len(unique), TEXT_BLOCK):
        block = unique[start : start + TEXT_BLOCK]
        with meter.step("tokenising", len(block)):
            ids = tokenizer.ids(block)
        over = {text: len(row) - tokenizer.room for text, row in zip(block, ids, strict=True)}
        cut |= {text: count for text, count in over.items() if count > 0}
        new = {text: row for text, row in zip(block, ids, strict=True) if text not in found}
        if new:
            with meter.step("encoding texts", len(new)):
                encoded = towers.encode_ids(tokenizer.pack(list(new.values())), BATCH)
            _keep(folder, "texts", [keys[text] for text in new], encoded)
            found |= dict(zip(new, encoded, strict=True))
        progress.add(len(block))
    return found, cut


def _loaded(references: list[str], options: Fetch, root: Path, meter: Meter) -> Iterator[list[Fetched]]:
    """Blocks of fetched images; one is being fetched while the caller works on the one before."""

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


def _prepared(fetched: Fetched, towers: DualEncoder, max_megapixels: float) -> np.ndarray | str:
    """uint8 [S, S, 3], or the reason why there is none."""
    if fetched.content is None:
        return fetched.reason
    try:
        image = pixels.opened(fetched.content)  # reads the header only
        megapixels = image.width * image.height / 1e6
        if megapixels > max_megapixels:
            return f"{megapixels:.1f} megapixels, more than max_megapixels {max_megapixels:g}"
        return resize_to_square(pixels.read(fetched.content), towers.preprocess, towers.fit)
    except (pixels.Rejected, ValueError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return "not an image" if reason.startswith("not an image") else f"not a readable image: {reason}"


def _encoded(towers: DualEncoder, images: np.ndarray) -> np.ndarray:
    starts = range(0, len(images), BATCH)
    return np.concatenate([towers.encode_images(images[start : start + BATCH]) for start in starts])


def _key(reference: str, root: Path) -> str:
    """What an image is kept under: a file's changes with its size and date, a URL's never."""
    if is_url(reference):
        return reference
    try:
        status = (root / reference).stat()
        return f"{(root / reference).resolve()}|{status.st_size}|{status.st_mtime_ns}"
    except (OSError, ValueError):
        return f"{reference}|absent"


def _kept(folder: Path, kind: str) -> dict[str, np.ndarray]:
    """Key → float32 [D] of everything kept of a kind, images or texts."""
    found: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob(f"{kind}-*.npz")):
        with np.load(path) as parts:
            found |= dict(zip(parts["keys"].tolist(), parts["embeddings"], strict=True))
    return found


def _keep(folder: Path, kind: str, keys: list[str], embeddings: np.ndarray) -> None:
    path = folder / f"{kind}-{files.fingerprint(keys)}.npz"
    with files.atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, keys=np.array(keys, str), embeddings=embeddings)
