"""COMMAND fit: somebody's images → a config, and everything that `guie run` makes of it.

guie fit FOLDER|images.csv [--encoder NAME|FILE.keras] [--out DIR] [--minutes M] [--redo]
class folders or a CSV → <out>/fit.yaml, then as `guie run <out>/fit.yaml`

The same command goes on from <out>/fit.yaml as it stands, edited or not; another one chooses anew, and is refused where
records or checkpoints are of the first. A fit.yaml that it has not written is left as it is.
"""

import os
import shlex
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import config, files
from pipeline.config import Encoder, Run, Source
from pipeline.config.sidecar import KERAS_FILE, completed
from pipeline.errors import BadInput
from pipeline.fitting import apart, choosing, looking, tables, verdict, writing
from pipeline.fitting.looking import MERGES, TABLE, Found
from pipeline.guards.locks import locked
from pipeline.models import catalogue
from pipeline.models.weights import files as weight_files
from pipeline.quiet import import_quietly

# The smallest encoder of the catalogue that is strong on things of all kinds; its weights are Apache-2.0.
DEFAULT_ENCODER = "siglip2_base_patch32_256"
KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")
CONFIG = "fit.yaml"
WRITTEN_BY = "# guie fit "  # begins a CONFIG
WRITTEN = (CONFIG, TABLE, MERGES)
SAMPLE_CLASSES, SAMPLE_IMAGES = 24, 10  # that scalings are tried on


@dataclass(frozen=True)
class Options:
    place: str  # folder or CSV
    encoder: str = ""  # a name of the catalogue or a Keras file; empty: DEFAULT_ENCODER
    out: str = ""  # empty: runs/<folder's name>
    minutes: float | None = None
    redo: bool = False


def main(options: Options) -> None:
    """Raises BadInput: no usable images or classes, an encoder that cannot be had, and as `pipeline.run.main`."""
    place = Path(options.place)
    if options.minutes is not None and not options.minutes > 0:
        raise BadInput(f"--minutes: expected more than 0, got {options.minutes:g}")
    out = Path(options.out or Path("runs") / looking.source_name(place))
    _expect_place(options, place, out)
    path, asked = out / CONFIG, _asked(options)
    with locked(out):
        held = {name: (out / name).read_text(encoding="utf-8") for name in WRITTEN if (out / name).is_file()}
        before = held.get(CONFIG, "")
        try:
            if before.startswith(f"{asked}\n") and not options.redo:
                print(f"fit: goes on from {path}, which the same command wrote")
                advice = choosing.advised(before)
            else:
                advice = _write(options, place, out, asked)
            run = replace(config.load(Run, path), run_dir=str(out))  # the file may say it from another folder
            import_quietly("pipeline.run").main(run, redo=options.redo)
        except BadInput as error:
            # What is there is of the config before and of its tables, unless --redo has come to the run.
            if before and not (options.redo and path.read_text(encoding="utf-8") != before):
                for name, text in held.items():
                    files.write_text(out / name, text)
            raise BadInput(str(error).replace("`guie run … --redo`", "`guie fit … --redo`")) from None
    if not run.score.index:  # edited so: nothing is scored
        return
    result = files.read_json(out / "metrics.json")
    print(f"fit: {verdict.line(result, advice)} → {out / 'report.html'}")


def _expect_place(options: Options, place: Path, out: Path) -> None:
    """Raises BadInput: names that no config can hold, a folder to write that is somebody's images or not guie's."""
    _expect_plain("the images", os.path.abspath(place))
    _expect_plain("--out", str(out))
    _expect_plain("--encoder", options.encoder)
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out}: expected a folder, it is a file")
    if place.is_dir() and out.absolute().resolve().is_relative_to(place.absolute().resolve()):
        raise BadInput(f"{out} lies in {place}, where it would be taken for images: name another folder, --out DIR")
    path = out / CONFIG
    if path.is_file() and not path.read_bytes().startswith(WRITTEN_BY.encode()):
        raise BadInput(f"{path} was not written by guie fit: choose another --out, or move it away")


def _expect_plain(what: str, path: str) -> None:
    wrong = [sign for sign in path if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp")]
    wrong += ["${"] * ("${" in path)
    if wrong:
        raise BadInput(f"{what}: expected a path without {wrong[0]!a}, got {path!a}: rename it or link to it")


def _asked(options: Options) -> str:
    """The first line of the config: the command that it is of."""
    words = [os.path.abspath(options.place)]
    if options.encoder:
        words += ["--encoder", _encoder(options.encoder).name.removeprefix(KERAS_FILE)]
    if options.minutes is not None:
        words += ["--minutes", f"{options.minutes:g}"]
    return WRITTEN_BY + shlex.join(words)


def _write(options: Options, place: Path, out: Path, asked: str) -> str:
    """Looks, measures, chooses, and writes the config with the tables that it names; returns `Chosen.advice`."""
    found = tables.look(place) if place.is_file() else looking.look(place)
    _say(f"{found.images:,} images of {len(found.classes):,} classes in {place}", found.said)
    sample = choosing.training_sample(found, SAMPLE_CLASSES, SAMPLE_IMAGES)
    encoder = completed(_encoder(options.encoder))
    if not options.encoder:
        print(f"fit: takes {encoder.name}, the default encoder; --encoder names another, or a Keras file", flush=True)
    sources = _tabled(found, out)
    answer = apart.measured(encoder, sources, sample)
    measured = answer.measured
    rate, size = measured.images_per_second, measured.image_size_px
    fast = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
    _say(f"{measured.width:,} features at {size} px, {fast} images/s here", answer.said)
    chosen = choosing.choose(replace(found, sources=sources), answer.encoder, measured, options.minutes)
    for said in chosen.said:
        print(f"fit: {said}", flush=True)
    records = chosen.run.records
    if found.merges:
        records = replace(records, merge_classes=str((out / MERGES).absolute()))
    run = replace(chosen.run, name=out.name, run_dir=str(out), records=records)
    head = [
        asked,
        f"# The same command goes on from here, and so does guie run {out / CONFIG}; edit what you like before.",
        writing.commented(", ".join([f"{found.images:,} images of {len(found.classes):,} classes", *found.said])),
    ]
    comments = {**chosen.comments, "encoder": "; ".join([f"{fast} images/s when it was chosen", *answer.said])}
    files.write_text(out / CONFIG, "\n".join(head) + "\n\n" + writing.written(run, comments))
    return chosen.advice


def _say(what: str, more: list[str]) -> None:
    print(f"fit: {'; '.join([what, *more])}", flush=True)


def _encoder(given: str) -> Encoder:
    """The config's encoder of what `--encoder` names; BadInput where nothing is there."""
    given = given or DEFAULT_ENCODER
    path = Path(given.removeprefix(KERAS_FILE))
    if given.startswith(KERAS_FILE) or path.suffix in KERAS_SUFFIXES or path.is_file():
        weight_files.expect_keras(path, "--encoder")
        return Encoder(name=f"{KERAS_FILE}{path.absolute()}")
    entry = catalogue.find(given)
    if not entry.preset:
        named = ", ".join(
            name for name, each in catalogue.CATALOGUE.items() if each.preset and each.family == entry.family
        )
        raise BadInput(f"--encoder: {given} has no preset to fetch; of its family have one: {named}")
    return Encoder(name=given, weights="preset")


def _tabled(found: Found, out: Path) -> list[Source]:
    """Writes the tables that the records need, and gives the sources that name them."""
    if found.merges:
        files.write_csv(out / MERGES, ("source", "class", "into_source", "into_class"), found.merges)
    if not found.table:
        return found.sources
    files.write_csv(out / TABLE, ("path", "label"), found.table)
    return [replace(each, root=str((out / TABLE).absolute())) for each in found.sources]
