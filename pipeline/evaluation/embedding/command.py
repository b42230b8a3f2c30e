"""COMMAND  embedder + images → vectors.

guie embed EMBEDDER DATA --out DIR [--dtype D] [--store] [--runner beam --beam-options "…"]
→ DIR/embeddings.npy [N, D] float32, DIR/items.csv: key,source,class (row n is vector n), DIR/rejects.csv
→ with --store DIR is a store of chunks instead, see `pipeline.vectors`

Chunks are written below DIR/chunks/ until the three files are whole, so a killed command goes on from there.
"""

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import files, marks
from pipeline.config.schema import LARGEST_DIM
from pipeline.console import Progress
from pipeline.data import parts as data_parts
from pipeline.data import sources
from pipeline.data.parts import Part
from pipeline.errors import BadInput
from pipeline.evaluation import embedders
from pipeline.evaluation.embedders import Submission
from pipeline.evaluation.embedding import beam, chunks
from pipeline.guards.locks import locked
from pipeline.vectors.store import NAME, REJECTS
from pipeline.vectors.writer import Writer

CHUNKS, VECTORS, ITEMS = "chunks", "embeddings.npy", "items.csv"
IMAGES = "the images"
FORMAT = 1  # of what is written; raise it with any change of the vectors


@dataclass(frozen=True)
class Options:
    embedder: str
    data: str
    out: str
    batch_size: int = 64
    trust: bool = False  # load an embedder that reaches files, the network or Python
    any_width: bool = False  # take an embedder of more than the competition's 64 numbers
    dtype: str = "float32"
    store: bool = False  # leave the chunks, in place of one file
    runner: str = "here"
    beam_options: str = ""  # words for Beam


def main(options: Options) -> None:
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out}: expected a folder, it is a file")
    if options.dtype == "int8" and not options.store:
        raise BadInput("--dtype int8: each chunk has a scale of its own, one file cannot hold them: add --store")
    if options.beam_options and options.runner != "beam":
        raise BadInput("--beam-options: expected --runner beam beside them")
    submission = embedders.load(options.embedder, options.trust, widest=None if options.any_width else LARGEST_DIM)
    for warning in submission.warnings:
        print(f"embed: warning: {options.embedder} {warning}")
    data = sources.absolute(options.data) if options.runner == "beam" else options.data  # its workers stand elsewhere
    parts = data_parts.of_data(data, chunks.IMAGES)
    with locked(out):
        if options.store:
            _expect_none(out / VECTORS, "without --store: choose another --out")
            store = _embedded(options, submission, parts, out, redo=False).finish()
            held = f"{store.dtype}, {len(store.counts):,} chunks"
            print(f"embed: {store.count:,} vectors of {store.dim} ({held}), {store.rejects:,} left out → {out}")
        else:
            _expect_none(out / NAME, "with --store: add it, or choose another --out")
            _one_file(options, submission, parts, out)


def _one_file(options: Options, submission: Submission, parts: Sequence[Part], out: Path) -> None:
    """A store below `out`, then one file of it; nothing is done where the embedder and the images are the same."""
    keys = {"embedder": submission.fingerprint, "dtype": options.dtype, "format": FORMAT}
    stage = marks.Stage("embed", out, keys, {IMAGES: _Images(parts)})
    if stage.is_done():
        print(f"embed: {out / VECTORS} is done: the same embedder, the same images")
        return
    stage.path.unlink(missing_ok=True)
    writer = _embedded(options, submission, parts, out / CHUNKS, redo=True)
    store = writer.finish()
    with files.atomic_path(out / VECTORS) as temporary, temporary.open("wb") as vectors:
        blocks = (block for _, block in store.blocks())
        files.save_array(vectors, store.dtype, (store.count, store.dim), blocks)
    with files.atomic_path(out / ITEMS) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(files.csv_line(("key", "source", "class")))
        file.writelines(files.csv_line(row[:3]) for row in store.items())
    with files.atomic_path(out / REJECTS) as temporary:
        shutil.copyfile(store.folder / REJECTS, temporary)
    made_of = [writer.made_of(number) for number in range(len(parts))]
    done = replace(stage, inputs={IMAGES: _Images(parts, made_of)})
    done.finish(done.begun((VECTORS, ITEMS, REJECTS)))
    files.remove(store.folder)
    print(f"embed: {store.count:,} vectors of {store.dim}, {store.rejects:,} left out → {out / VECTORS}")


def _embedded(options: Options, submission: Submission, parts: Sequence[Part], folder: Path, redo: bool) -> Writer:
    """A store whose chunks are all done, and which `finish` is to be called of."""
    writer = chunks.begin(folder, submission, options.dtype, chunks.IMAGES, redo)
    writer.remove_partial()
    todo = list(chunks.pending(writer, enumerate(parts), "embed"))
    if len(todo) < len(parts):
        print(f"embed: {len(parts) - len(todo):,} of {len(parts):,} chunks are done", flush=True)
    if options.runner == "beam":
        work = beam.Work(
            folder.absolute(),
            os.path.abspath(options.embedder) if Path(options.embedder).exists() else options.embedder,
            options.trust,
            options.any_width,
            submission.fingerprint,
            options.dtype,
            chunks.IMAGES,
            options.batch_size,
        )
        beam.embed_chunks(work, todo, shlex.split(options.beam_options))
        if lost := [number for number, _ in todo if not writer.has(number)]:
            raise BadInput(f"Beam ended without chunk {lost[0]}: do its workers see {work.folder}?")
    else:
        total = sum(part.count() for part in parts)
        progress = Progress("embed", total, "images", done=total - sum(part.count() for _, part in todo))
        chunks.embed_chunks(writer, submission, todo, options.batch_size, progress)
    writer.keep(len(parts))
    return writer


@dataclass(frozen=True)
class _Images:
    """The images of all parts, as a mark knows them."""

    parts: Sequence[Part]
    made_of: Sequence[Mapping[str, str]] = ()  # of each part's chunk, where it was just made
    may_go: bool = False

    def quick(self) -> str:
        return files.fingerprint([each[chunks.QUICK] for each in self.made_of] or [part.quick() for part in self.parts])

    def content(self) -> str:
        if not self.made_of:
            print("embed: files of the images have other times: comparing their images", flush=True)
        known = [each[chunks.CONTENT] for each in self.made_of]
        return files.fingerprint(known or [chunks.content_of(part) for part in self.parts])


def _expect_none(path: Path, mend: str) -> None:
    if path.exists():
        raise BadInput(f"{path} is there, of `guie embed` {mend}")
