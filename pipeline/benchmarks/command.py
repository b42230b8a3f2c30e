"""COMMAND  a benchmark + an embedder → its own measures, beside published ones.

guie bench NAME EMBEDDER --root DIR [--domain D …] [--out DIR] [--weights W] [--image-size PX] [--export FILE]
images and lists of the benchmark → <out>/bench.json, bench.html; <out>/vectors/ and search/ for the next time
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from pipeline import files
from pipeline.benchmarks import descriptors, features, models, page, reported, results
from pipeline.benchmarks.results import Result
from pipeline.benchmarks.table import Benchmark, Part
from pipeline.benchmarks.work import Work
from pipeline.errors import BadInput
from pipeline.evaluation.embedders import UNIT_TOLERANCE
from pipeline.evaluation.embedding.chunks import embed_into
from pipeline.guards.locks import locked
from pipeline.vectors.store import Store
from tfrecords.benchmarks import uned
from tfrecords.sources import Item, find_layout, list_source

FEATURES = "features that were there already"


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
    export: str = ""


@dataclass(frozen=True)
class Opened:
    """An embedder with the vectors that it has of each part."""

    store: Callable[[Part], Store]
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
        work = Work(benchmark, parts, out, opened.store, options.distractors)
        modes = import_module(f"pipeline.benchmarks.protocols.{benchmark.protocol}").score(work)
        stores = {part: work.store(part) for part in parts}
        first = next(iter(stores.values()))
        result = Result(
            benchmark.name, benchmark.title, benchmark.rule, options.embedder, first.fingerprint, first.dim,
            opened.pixels, benchmark.headline, modes, [*_notes(options, stores), *work.notes],
        )  # fmt: skip
        if options.export:
            _export(Path(options.export), stores)
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
    if options.domains and name != "uned":
        raise BadInput(f"--domain is of uned, {name} has none")
    if options.distractors and name != "ilias":
        raise BadInput(f"--distractors is of ilias, {name} has none")
    if options.export and name != "uned":
        raise BadInput(
            f"--export writes UnED's descriptors, {name} has no form of its own: DIR/vectors has the vectors"
        )
    if not Path(options.root).is_dir():
        raise BadInput(f"--root {options.root}: expected the folder of {options.benchmark.title}, nothing is there")


def name_of(embedder: str) -> str:
    """A name for the folder of an embedder's results.

    >>> name_of("runs/demo/submission.zip"), name_of("weights/mobilenet.keras"), name_of("siglip2_base_patch16_256")
    ('demo', 'mobilenet', 'siglip2_base_patch16_256')
    """
    path = Path(embedder.rstrip("/"))
    parts = [
        part for part in path.parts if part not in ("submission.zip", "saved_model", "export", "config.yaml", "vectors")
    ]
    last = Path(parts[-1]) if parts else path
    stem = last.stem if last.suffix in (".keras", ".zip", ".json", ".pkl", ".yaml", ".yml") else last.name
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "embedder"


def _opened(options: Options, parts: tuple[Part, ...], out: Path) -> Opened:
    benchmark = options.benchmark

    def listed(part: Part) -> Iterator[Item]:
        layout = benchmark.layout or benchmark.name
        return iter(list_source(layout, Path(options.root), dict(part.options)).items)

    if features.are_there(options.embedder):
        if options.weights or options.image_size_px:
            raise BadInput("--weights and --image-size are of an encoder, features have their vectors already")
        opens = features.opened(options.embedder, benchmark.name, parts, out / "vectors", listed)
        return Opened(opens, FEATURES)
    for part in parts:
        next(listed(part), None)  # what is missing is said before a model is loaded
    of_benchmark = benchmark.pixels, benchmark.image_size_px
    asked = models.Asked(options.embedder, options.weights, options.image_size_px, options.trust, *of_benchmark)
    model = models.opened(asked)
    print(
        f"bench: {benchmark.title} by {options.embedder} ({model.submission.embedding_dim} dimensions), "
        f"pixels: {model.pixels}",
        flush=True,
    )

    def embedded(part: Part) -> Store:
        return embed_into(
            out / "vectors" / part.name,
            model.submission,
            ((part.domain or part.name, item) for item in listed(part)),
            batch_size=options.batch_size,
            what=f"bench: {part.name}",
            total=sum(1 for _ in listed(part)),
        )

    return Opened(embedded, model.pixels, model.submission.warnings)


def _notes(options: Options, stores: dict[Part, Store]) -> list[str]:
    """What the numbers do not say of themselves: images that are missing, vectors of another length."""
    notes = []
    for part, store in stores.items():
        wanted = _published(options.benchmark, part)
        if wanted and wanted != store.count:
            notes.append(
                f"{part.name}: {store.count:,} of {wanted:,} published images: no figure to compare with others'"
            )
        lengths = np.linalg.norm(next((block for _, block in store.blocks(1024)), np.ones((1, 1))), axis=1)
        if np.abs(lengths - 1).max() > UNIT_TOLERANCE:
            notes.append(
                f"{part.name}: vectors of length {lengths.min():.3g} … {lengths.max():.3g}: the protocol takes inner "
                "products as they are, unit length is on whoever made them"
            )
    return notes


def _published(benchmark: Benchmark, part: Part) -> int | None:
    """Images of a part as its authors count them; None where sets of any size have this form."""
    if benchmark.name == "uned":
        return uned.DOMAINS[part.domain].get(str(part.options["split"]))
    size = find_layout(benchmark.layout or benchmark.name).size(part.options)
    return size.images if size else None


def _export(path: Path, stores: dict[Part, Store]) -> None:
    found: dict[str, dict[str, Callable[[], Iterator[np.ndarray]]]] = {}
    for part, store in stores.items():
        found.setdefault(part.domain, {})[str(part.options["split"])] = lambda store=store: (
            block for _, block in store.blocks()
        )
    descriptors.write(path, found)
    print(f"bench: {path}: UnED's descriptors of {', '.join(found)}")
