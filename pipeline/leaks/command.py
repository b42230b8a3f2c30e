"""COMMAND  training data + benchmarks → the pictures that are in both.

guie leaks TRAIN --against BENCH [--against …] [--embedder EMBEDDER] [--out DIR]
→ DIR/leaks.csv: a row a pair, see COLUMNS; rejects.csv: images that cannot be read; leaks.html: the pairs side by side.
DIR/hashes/ and vectors/ are kept: a rerun goes on from there.

`records.leave_out: DIR/leaks.csv` builds records without the training images that it names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import console
from pipeline.errors import BadInput
from pipeline.files import write_csv, write_text
from pipeline.guards.locks import locked
from pipeline.leaks import page
from pipeline.leaks.hashing import Hashes, hash_side
from pipeline.leaks.matching import Matches, match_hashes
from pipeline.leaks.page import Found
from pipeline.leaks.sides import Side, open_side
from pipeline.quiet import import_quietly
from tfrecords.perceptual import BYTES, MAX_DISTANCE

OF_A_SIDE = ("source", "key", "class", "split")
WITHOUT = "No --embedder: crops and pictures that were much altered are not looked for."
COLUMNS = ("kind", "distance", *OF_A_SIDE, *(f"bench_{name}" for name in OF_A_SIDE))


@dataclass(frozen=True)
class Options:
    train: str
    against: tuple[str, ...]
    embedder: str = ""  # "": by hashes alone
    weights: str = ""  # of an encoder by name
    image_size_px: int | None = None  # of an encoder by name
    distance: float | None = None  # within which embeddings are of one picture; None: measured
    batch_size: int = 64
    trust: bool = False
    out: str = "leaks"
    bits: int = MAX_DISTANCE  # of 256, that two perceptual hashes of one picture may differ in
    workers: int = 0  # processes that hash; 0: one a core


def main(options: Options) -> int:
    """Returns how many images of the benchmarks are in the training data.

    Raises BadInput: DATA or an embedder that cannot be opened, an output that is no folder, a number out of its range.
    """
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out}: expected a folder, it is a file")
    if not 0 <= options.bits < 4 * BYTES:
        raise BadInput(
            f"--bits: expected 0 … {4 * BYTES - 1}: pictures with nothing in common differ in half, got {options.bits}"
        )
    if options.distance is not None and not 0 <= options.distance < 2:
        raise BadInput(f"--distance: expected a Euclidean distance of unit vectors, 0 … 2, got {options.distance:g}")
    if not options.embedder and (options.distance is not None or options.weights or options.image_size_px):
        raise BadInput("--distance, --weights and --image-size are of an embedder: add --embedder")
    embedding = import_quietly("pipeline.leaks.embedding").opened(options) if options.embedder else None
    train = open_side(options.train)
    benches = [open_side(spec) for spec in dict.fromkeys(options.against)]
    sizes = ", ".join(f"{len(side.items):,} of {side.spec}" for side in benches)
    with locked(out):
        print(f"leaks: {len(train.items):,} training images of {train.spec} against {sizes} → {out}", flush=True)
        hashes = _hashed(train, out, options.workers)
        rejects = _rejects(train, hashes)
        every = []
        for bench in benches:
            theirs = _hashed(bench, out, options.workers)
            rejects += _rejects(bench, theirs)
            matches = Matches(len(train.items), len(bench.items))
            match_hashes(matches, hashes, theirs, options.bits)
            every.append((bench, matches))
        notes = embedding.match(out / "vectors", train, every) if embedding else [WITHOUT]
        print("\n".join(f"leaks: {note}" for note in notes), flush=True)
        found = [Found(train, bench, matches.pairs()) for bench, matches in every]
        write_csv(out / "leaks.csv", COLUMNS, [row for each in found for row in _rows(each)])
        write_csv(out / "rejects.csv", ("data", "source", "key", "reason"), rejects)
        write_text(out / "leaks.html", page.page(found, [_of_hashes(options), *notes], len(rejects)))
    return _said(found, len(rejects), out)


def _said(found: Sequence[Found], rejects: int, out: Path) -> int:
    """Prints the table and the last line; returns how many images of the benchmarks are in the training data."""
    print(console.table(["benchmark", "kind", "pairs", "training images", "benchmark images"], page.summary(found), 2))
    if rejects:
        print(f"leaks: {rejects:,} images cannot be read: {out / 'rejects.csv'}")
    leaked = sum(each.images("")[1] for each in found)
    ours = len({pair.train for each in found for pair in each.pairs})
    of = sum(len(each.bench.items) for each in found)
    print(
        f"leaks: {leaked:,} of {of:,} benchmark images are in the training data, as {ours:,} of its "
        f"{len(found[0].train.items):,} → {out / 'leaks.html'}"
    )
    return leaked


def _hashed(side: Side, out: Path, workers: int) -> Hashes:
    return hash_side(side, out / "hashes" / side.folder, workers, side.spec)


def _rejects(side: Side, hashes: Hashes) -> list[tuple[str, ...]]:
    places = ((side.place(row), why) for row, why in sorted(hashes.rejects.items()))
    return [(side.spec, place.source, place.key, why) for place, why in places]


def _rows(found: Found) -> list[tuple[str, ...]]:
    return [
        (pair.kind, page.said_distance(pair), *found.train.place(pair.train), *found.bench.place(pair.bench))
        for pair in found.pairs
    ]


def _of_hashes(options: Options) -> str:
    return (
        f"Looked for: the same bytes, the same pixels in another file, and perceptual hashes at most {options.bits} of "
        f"{8 * BYTES} bits apart, of the picture and of its mirror image."
    )
