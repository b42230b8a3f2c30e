"""guie leaks: the share of altered copies that the perceptual hash finds, and the time of a search among drawn hashes.

python -m tests.benchmarks.bench_leaks [--images N] [--hashes N] [--embedder FILE]
Real images of ../shared/data, evenly chosen of its five sets: each is altered in every way, and is found where its
hash is at most so many bits from the altered one's. Unrelated pictures: pairs of images of two sets, and the studio
photographs of different products.
With --embedder: the birds of 25 species as training data, those of 25 others as a benchmark, and 20 copies of training
images in each of seven ways among them; `guie leaks` searches.
Drawn hashes: N on both sides, a hundredth of the second altered copies of the first, in at most MAX_DISTANCE bits.
"""

import argparse
import csv
import io
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from export.contract_probe import peak_gigabytes
from pipeline.data import sources
from tfrecords import perceptual, pixels
from tfrecords.sources import Item

MOST = perceptual.MAX_DISTANCE
DISTANCES = (24, 32, 40, 48, 56, 64)
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SETS = {
    "imagenet": "imagenet:{}/imagenet",
    "products10k": "products10k:{}/products10k",
    "landmarks": "landmarks:{}/landmarks",
    "cub200": "cub200:{}/CUB_200_2011",
    "cifar10": "{}/cifar10/train",
}


def _saved(image: Image.Image, kind: str, **options) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return Image.open(stream).convert("RGB")


def _cropped(image: Image.Image, side: float) -> Image.Image:
    """The middle, `side` of each side."""
    width, height = (round(side * each) for each in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


ALTERED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 40": lambda image: _saved(image, "JPEG", quality=40),
    "WebP of quality 50": lambda image: _saved(image, "WEBP", quality=50),
    "half the size": lambda image: image.resize([max(1, side // 2) for side in image.size]),
    "squashed to a square of 224 px": lambda image: image.resize((224, 224)),
    "1.4 times as bright": lambda image: ImageEnhance.Brightness(image).enhance(1.4),
    "0.6 of the contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.6),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "cropped to 0.98 of each side": lambda image: _cropped(image, 0.98),
    "cropped to 0.95 of each side": lambda image: _cropped(image, 0.95),
    "cropped to 0.9 of each side": lambda image: _cropped(image, 0.9),
    "cropped to 0.8 of each side": lambda image: _cropped(image, 0.8),
    "turned by 3 degrees": lambda image: image.rotate(3, Image.Resampling.BILINEAR),
}


def hashed(item: Item) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [32], [A, 32]: the perceptual hash of the image, and of each altered copy (mirrored: of its mirror)."""
    image = Image.fromarray(pixels.read(item.read()))
    found = []
    for name, alter in ALTERED.items():
        grey = perceptual.thumbnail(np.asarray(alter(image)))
        found.append(perceptual.perceptual_hash(grey[:, ::-1] if name == "mirrored" else grey))
    return perceptual.perceptual_hash(perceptual.thumbnail(np.asarray(image))), np.stack(found)


def recall(images: int) -> None:
    names, originals, altered = [], [], []
    for name, spec in SETS.items():
        (found,) = sources.open_data(spec.format(SHARED))
        chosen = np.unique(np.linspace(0, len(found.items) - 1, images // len(SETS)).astype(int))
        with ThreadPoolExecutor(2) as pool:
            for one, others in pool.map(hashed, [found.items[at] for at in chosen]):
                names.append(name)
                originals.append(one)
                altered.append(others)
    ours, theirs, of = np.stack(originals), np.stack(altered), np.array(names)
    flat = perceptual.is_flat(ours)
    print(f"{len(ours):,} images, {flat.sum()} of them flat; found within the bits, and within {MOST} by set:")
    print(f"{'':32}" + "".join(f"{name:>12}" for name in (*DISTANCES, *SETS)))
    for number, name in enumerate(ALTERED):
        bits = np.bitwise_count(ours ^ theirs[:, number]).sum(axis=1)
        bits[flat | perceptual.is_flat(theirs[:, number])] = 8 * perceptual.BYTES
        shares = [(bits <= most).mean() for most in DISTANCES] + [(bits[of == each] <= MOST).mean() for each in SETS]
        print(f"{name:32}" + "".join(f"{share:12.1%}" for share in shares))


def unrelated() -> None:
    hashes, names = [], []
    for name, spec in SETS.items():
        (found,) = sources.open_data(spec.format(SHARED))
        with ThreadPoolExecutor(2) as pool:
            hashes += list(pool.map(hash_of, found.items))
        names += [name] * len(found.items)
    studio = [
        hash_of(item)
        for item in sources.open_data(f"products10k:{SHARED}/products10k?iconic=true")[0].items
        if item.key.startswith("iconic/")
    ]
    _print_pairs("of two sets", np.stack(hashes), np.unique(names, return_inverse=True)[1])
    _print_pairs("of two studio photographs", np.stack(studio), np.arange(len(studio)))


def hash_of(item: Item) -> np.ndarray:
    return perceptual.perceptual_hash(perceptual.thumbnail(pixels.read(item.read())))


def _print_pairs(what: str, hashes: np.ndarray, groups: np.ndarray) -> None:
    """Pairs of two groups within each distance."""
    sizes = np.bincount(groups)
    total = (len(hashes) ** 2 - (sizes**2).sum()) // 2
    found = np.concatenate(
        [
            bits[(one < other) & (groups[one] != groups[other])]
            for one, other, bits in perceptual.near(hashes, hashes, max(DISTANCES))
        ]
    )
    counts = "".join(f"{(found <= most).sum():12,}" for most in DISTANCES)
    print(f"{'pairs ' + what:32}{counts}  of {total:,}")


FAR: dict[str, Callable[[Image.Image], Image.Image]] = {
    "recoded": lambda image: image,
    "mirrored": ALTERED["mirrored"],
    "the middle, 0.8 of each side": lambda image: _cropped(image, 0.8),
    "the middle, 0.6 of each side": lambda image: _cropped(image, 0.6),
    "a corner, 0.7 of each side": lambda image: image.crop((0, 0, int(0.7 * image.width), int(0.7 * image.height))),
    "turned by 10 degrees": lambda image: image.rotate(10, Image.Resampling.BILINEAR),
    "a white frame of 20 px": lambda image: ImageOps.expand(image, 20, "white"),
}
COPIES = 20  # in each way


def by_embedder(embedder: str) -> None:
    from pipeline.leaks import command  # TensorFlow where it is needed

    species = sorted((SHARED / "CUB_200_2011/images").iterdir())
    with tempfile.TemporaryDirectory() as made:
        train, bench = Path(made) / "train", Path(made) / "test"
        for number, folder in enumerate(species[:50]):
            shutil.copytree(folder, (train if number < 25 else bench) / folder.name)
        images = sorted(train.rglob("*.jpg"))
        chosen = np.random.default_rng(0).permutation(len(images))[: COPIES * len(FAR)]
        way_of = {}
        for place, number in enumerate(chosen.tolist()):
            way, path = list(FAR)[place % len(FAR)], images[number]
            copy = bench / path.parent.name / f"{place}.jpg"
            copy.parent.mkdir(exist_ok=True)
            FAR[way](Image.open(path).convert("RGB")).save(copy, quality=80)
            way_of[copy.relative_to(bench).as_posix()] = way, path.relative_to(train).as_posix()
        options = {"embedder": embedder, "out": f"{made}/leaks"}
        command.main(command.Options(train=str(train), against=(str(bench),), **options))
        with (Path(made) / "leaks" / "leaks.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    right: Counter[tuple[str, str]] = Counter()
    for row in rows:
        way, key = way_of.get(row["bench_key"], ("", ""))
        right[way if key == row["key"] else "", row["kind"]] += 1
    for way in FAR:
        kinds = {kind: count for (of, kind), count in right.items() if of == way}
        print(f"{way:32}{sum(kinds.values()):4} of {COPIES}  {kinds}")
    print(f"pairs of different pictures: {sum(count for (of, _), count in right.items() if not of)}")


def search(count: int) -> None:
    generator = np.random.default_rng(0)
    train = generator.integers(0, 256, (count, perceptual.BYTES), np.uint8)
    bench = generator.integers(0, 256, (count, perceptual.BYTES), np.uint8)
    copies = generator.choice(count, count // 100, replace=False)
    bench[: len(copies)] = train[copies]
    for row in range(len(copies)):
        for bit in generator.choice(8 * perceptual.BYTES, MOST, replace=False):
            bench[row, bit // 8] ^= np.uint8(1 << bit % 8)
    began, worked, found = time.perf_counter(), time.process_time(), 0
    hits = np.zeros(count, bool)
    for one, other, _ in perceptual.near(train, bench):
        found += len(one)
        hits[other] = True
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    peak = peak_gigabytes() * 2**30 / 1e9
    share = hits[: len(copies)].mean()
    print(
        f"{count:,} × {count:,} drawn hashes: {seconds:,.0f} s, {worked:,.0f} s of one core, peak {peak:.2f} GB; "
        f"{share:.1%} of {len(copies):,} copies found"
    )
    print(f"{found - int(hits[: len(copies)].sum()):,} pairs beside them")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=2_000, help="0: none")
    parser.add_argument("--hashes", type=int, default=200_000, help="0: none")
    parser.add_argument("--embedder", default="", help="as of guie leaks")
    options = parser.parse_args()
    if options.images:
        recall(options.images)
        unrelated()
    if options.embedder:
        by_embedder(options.embedder)
    if options.hashes:
        search(options.hashes)


if __name__ == "__main__":
    main()
