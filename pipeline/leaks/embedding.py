"""The part of `guie leaks` that embeds: TensorFlow is imported where it is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.benchmarks import models
from pipeline.evaluation.embedders import Submission
from pipeline.leaks import vectors
from pipeline.leaks.matching import Matches, match_vectors
from pipeline.leaks.sides import Side

if TYPE_CHECKING:
    from pipeline.leaks.command import Options


@dataclass(frozen=True)
class Embedding:
    """An embedder that was opened, and what was asked of it."""

    options: "Options"
    submission: Submission

    def match(self, folder: Path, train: Side, benches: Sequence[tuple[Side, Matches]]) -> list[str]:
        """Adds the pairs of near embeddings; returns a sentence a benchmark on what was looked for.

        `folder`: of the vectors. Raises BadInput: a side of which no image can be read.
        """
        batch_size = self.options.batch_size
        ours = vectors.embed_side(train, folder / train.folder, self.submission, batch_size)
        notes = []
        for bench, matches in benches:
            theirs = vectors.embed_side(bench, folder / bench.folder, self.submission, batch_size)
            distance, why = self.options.distance, "as asked"
            if distance is None:
                place = folder / f"{bench.folder}-copies"
                distance, copies, look_alikes = vectors.measured_limit(
                    bench, theirs, place, self.submission, batch_size
                )
                why = (
                    f"so near are {copies:.0%} of copies that are cropped to {vectors.CROPPED:g} of each side, "
                    f"mirrored or recoded, and of {look_alikes:.1%} of its images one of another class"
                )
            notes.append(f"{bench.spec}: embeddings of {self.options.embedder} at most {distance:.3f} apart: {why}.")
            match_vectors(matches, ours.blocks(), theirs.blocks, distance)
        return notes


def opened(options: "Options") -> Embedding:
    """Raises BadInput: an embedder that does not open."""
    asked = models.Asked(options.embedder, options.weights, options.image_size_px, options.trust)
    return Embedding(options, models.opened(asked).submission)
