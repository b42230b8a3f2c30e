"""COMMAND  a benchmark + an embedder → its own measures, beside published ones.

guie bench NAME EMBEDDER --root DIR [--domain D …] [--out DIR] [--weights W] [--image-size PX] [--export FILE]
images and lists of the benchmark → <out>/bench.json, bench.html; <out>/vectors/ and search/ for the next time
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from pipeline import files
from pipeline.benchmarks import features, page, reported, results
from pipeline.benchmarks.results import Result
from pipeline.benchmarks.table import Benchmark, Part
from pipeline.benchmarks.work import Work
from pipeline.errors import BadInput
from pipeline.guards.locks import locked
from pipeline.quiet import import_quietly
from pipeline.vectors.store import Store, Vectors
from tfrecords.benchmarks import uned
from tfrecords.sources import Item, find_layout, list_source

FEATURES = "features that were there already"
UNIT_TOLERANCE = 1e-3  # as `guie check`


@dataclass(frozen=True)
class Options:
    benchmark: Benchmark
    embedder: str
    root: str
    domains: tuple[str, ...] = ()
    out: str = ""
    weights: str = ""
    image_size_px: int | None = None
    batch_size: int = 64
    trust: bool = False
    distractors: str = ""
    mini: bool = False
    export: str = ""


@dataclass(frozen=True)
class Opened:
    """An embedder with the vectors that it has of each part."""

    store: Callable[[Part], Vectors]
    pixels: str  # in a few words
    warnings: tuple[str, ...] = ()


def main(options: Options) -> None:
    """Raises BadInput: a benchmark that is not at `root`, an embedder that does not load, features of other images."""
    benchmark = options.benchmark
    parts = benchmark.of_domains(options.domains)
    _expect_fitting(options)
    out = Path(options.out or f"runs/bench/{benchmark.name}/{name_of(options.embedder)}")
    with locked(out):
        opened = _opened(options, parts, out)
        for warning in opened.warnings:
            print(f"bench: warning: {options.embedder} {warning}")
        folder = Path(options.embedder) if opened.pixels == FEATURES else None
        root = Path(options.root)
        work = Work(benchmark, parts, out, opened.store, root, folder, options.distractors, options.mini)
        protocol = import_module(f"pipeline.benchmarks.protocols.{benchmark.protocol}")
        modes = protocol.score(work)
        first = work.store(parts[0])
        others = _not_published(work)
        notes = [*filter(None, [benchmark.caveat, others]), *_lengths(work), *work.notes]
        result = Result(
            benchmark.name, benchmark.title, benchmark.rule, options.embedder, first.fingerprint, first.dim,
            opened.pixels, benchmark.headline, modes, notes, complete=not others and parts == benchmark.parts,
        )  # fmt: skip
        if options.export:
            protocol.export(Path(options.export), work)
        figures = reported.of(benchmark.name)
        held = {**result.to_json(), "reported": [each._asdict() for each in figures]}
        files.write_json(out / "bench.json", held)
        files.write_text(out / "bench.html", page.html(result, figures))
    print(results.text(result))
    if figures:
        print(reported.text(result, figures))
    print(f"bench: {benchmark.title}: {results.headline(result)} → {out}/bench.html")


def _expect_fitting(options: Options) -> None:
    name = options.benchmark.name
    if (options.distractors or options.mini) and name != "ilias":
        raise BadInput(f"--distractors and --mini are of ilias, {name} has no distractors")
    if options.export and name not in ("uned", "ilias"):
        raise BadInput(
            f"--export writes UnED's descriptors and ILIAS's features, {name} has no form of its own: DIR/vectors has "
            "the vectors"
        )
    if not Path(options.root).exists():
        raise BadInput(f"--root {options.root}: expected the folder of {options.benchmark.title}, nothing is there")


def name_of(embedder: str) -> str:
    """A name for the folder of an embedder's results; of a file of descriptors it is not that of a model.

    >>> name_of("runs/demo/submission.zip"), name_of("weights/mobilenet.keras"), name_of("siglip2_base_patch16_256")
    ('demo', 'mobilenet', 'siglip2_base_patch16_256')
    >>> name_of("demo.json")
    'demo.json'
    """
    path = Path(embedder.rstrip("/"))
    parts = [
        part for part in path.parts if part not in ("submission.zip", "saved_model", "export", "config.yaml", "vectors")
    ]
    last = Path(parts[-1]) if parts else path
    stem = last.stem if last.suffix in (".keras", ".zip", ".yaml", ".yml") else last.name
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "embedder"


def _opened(options: Options, parts: tuple[Part, ...], out: Path) -> Opened:
    benchmark = options.benchmark

    def listed(part: Part) -> Iterator[Item]:
        layout = benchmark.layout or benchmark.name
        return iter(list_source(layout, Path(options.root), part.options).items)

    if features.are_there(options.embedder):
        if options.weights or options.image_size_px:
            raise BadInput("--weights and --image-size are of an encoder, features have their vectors already")
        opens = features.opened(options.embedder, benchmark.name, parts, out / "vectors", listed)
        return Opened(opens, FEATURES)
    for part in parts:
        next(listed(part), None)  # what is missing is said before a model is loaded
    models = import_quietly("pipeline.benchmarks.models")  # TensorFlow: features do without
    of_benchmark = benchmark.pixels, benchmark.image_size_px
    model = models.opened(
        models.Asked(options.embedder, options.weights, options.image_size_px, options.trust, *of_benchmark)
    )
    dim = model.submission.embedding_dim
    print(f"bench: {benchmark.title} by {options.embedder} ({dim} dimensions), pixels: {model.pixels}", flush=True)

    def embedded(part: Part) -> Store:
        # Listed twice, in no memory; not the members of a tar, whose headers take minutes.
        items = partial(iter, list(listed(part))) if "tars" in part.options else partial(listed, part)
        total = sum(1 for _ in items())
        named = ((part.domain or part.name, item) for item in items())
        return models.embedded(
            model, out / "vectors" / part.name, named, total, batch_size=options.batch_size, dtype=benchmark.dtype
        )

    return Opened(embedded, model.pixels, model.submission.warnings)


def _not_published(work: Work) -> str:
    """Which parts are not as large as their authors publish them; "" where all are."""
    found = []
    for part in work.parts:
        wanted, count = _published(work.benchmark, part), work.store(part).count
        if wanted and wanted != count:
            found.append(f"{part.name} {count:,} of {wanted:,}")
    return f"not the published images: {', '.join(found)}: no figure to compare with others'" if found else ""


def _lengths(work: Work) -> Iterator[str]:
    """What is said of vectors that are not of unit length, by the first of each part."""
    for part in work.parts:
        lengths = np.linalg.norm(next((block for _, block in work.store(part).blocks(1024)), np.ones((1, 1))), axis=1)
        if np.abs(lengths - 1).max() > UNIT_TOLERANCE:
            yield (
                f"{part.name}: vectors of length {lengths.min():.3g} … {lengths.max():.3g}: the protocol takes inner "
                "products as they are, unit length is on whoever made them"
            )


def _published(benchmark: Benchmark, part: Part) -> int | None:
    """Images of a part as its authors count them; None where sets of any size have this form."""
    if benchmark.name == "uned":
        return uned.DOMAINS[part.domain].get(str(part.options["split"]))
    size = find_layout(benchmark.layout or benchmark.name).size(part.options)
    return size.images if size else None
