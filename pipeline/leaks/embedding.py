"""The part of `guie leaks` that embeds: TensorFlow is imported where it is asked for."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.benchmarks import models
from pipeline.leaks import vectors
from pipeline.leaks.matching import Matches, match_vectors
from pipeline.leaks.sides import Side

if TYPE_CHECKING:
    from pipeline.leaks.command import Options


def match(options: "Options", out: Path, train: Side, benches: Sequence[tuple[Side, Matches]]) -> list[str]:
    """Adds the pairs of near embeddings; returns sentences on what was looked for.

    Raises BadInput: an embedder that does not open, a side of which no image can be read.
    """
    asked = models.Asked(options.embedder, options.weights, options.image_size_px, options.trust)
    submission = models.opened(asked).submission
    folder = out / "vectors"
    ours = vectors.embed_side(train, folder / train.folder, submission, options.batch_size)
    notes = []
    for bench, matches in benches:
        theirs = vectors.embed_side(bench, folder / bench.folder, submission, options.batch_size)
        said = f"{bench.spec}: embeddings of {options.embedder} at most "
        distance = options.distance
        if distance is None:
            place = folder / f"{bench.folder}-copies"
            limit = vectors.measured_limit(bench, theirs, place, submission, options.batch_size)
            distance = limit.distance
            notes.append(
                f"{said}{distance:.3f} apart: so near are {limit.copies:.0%} of copies that are cropped to "
                f"{vectors.CROPPED:g} of each side, mirrored or recoded, and of {limit.look_alikes:.1%} of its images "
                "one of another class."
            )
        else:
            notes.append(f"{said}{distance:.3f} apart, as asked.")
        match_vectors(matches, ours.blocks(), theirs.blocks, distance)
    return notes
