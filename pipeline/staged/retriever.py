"""A stage's answer to an image: the nearest vectors in the stage's collection, and the class they vote for."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.staged.cascade import vote
from pipeline.staged.config import STAGES
from pipeline.staged.stages import Batch, StagedEncoder
from pipeline.staged.vector_database import Neighbour, VectorDatabase


@dataclass(frozen=True)
class Answer:
    """What one stage says of one image."""

    stage: str
    class_name: str
    agreement: float  # share of the neighbours that have the class; 1 for zero-shot, which asks the nearest class
    neighbours: list[Neighbour]
    encode_ms: float  # of this image: resizing, and the encoder from where the stage before it stopped
    query_ms: float  # of this image: the database

    @property
    def distance(self) -> float:
        return self.neighbours[0].distance if self.neighbours else float("inf")


@dataclass(frozen=True)
class Tested:
    """A labelled image and the answers of the stages that saw it, from shallow to deep; the last one counts."""

    key: str
    class_name: str
    answers: list[Answer]

    @property
    def correct(self) -> bool:
        return self.answers[-1].class_name == self.class_name


class Retriever:
    """Answers by the vote of `neighbours` in each stage's collection, `<collection>_<stage>`."""

    def __init__(self, encoder: StagedEncoder, database: VectorDatabase, collection: str, neighbours: int):
        self.encoder, self.database, self.neighbours = encoder, database, neighbours
        self.collections = {stage: f"{collection}_{stage}" for stage in STAGES}

    def open_collections(self, create: bool, stages: Sequence[str] = STAGES) -> None:
        for name in stages:
            stage = self.encoder.stages[name]
            self.database.open_collection(self.collections[name], stage.width, stage.made_by, create)

    def answer(self, stage: str, batch: Batch) -> list[Answer]:
        """One stage's answers, one an image."""
        started = time.perf_counter()
        vectors = self.encoder.features(stage, batch)
        encoded = time.perf_counter()
        # One more than wanted: the image itself may be in the database.
        found = self.database.search(self.collections[stage], vectors, self.neighbours + 1)
        queried = time.perf_counter()
        ms_per_image = 1000 / len(batch.images)
        encode_ms, query_ms = (encoded - started) * ms_per_image, (queried - encoded) * ms_per_image
        answers = []
        for key, hits in zip(batch.keys, found, strict=True):
            others = [hit for hit in hits if hit.key != key][: self.neighbours]
            voters = others[:1] if self.encoder.stages[stage].zero_shot else others
            name, agreement = vote([hit.class_name for hit in voters])
            answers.append(Answer(stage, name, agreement, others, encode_ms, query_ms))
        return answers

    def answer_all(self, choice: str, batch: Batch, thresholds: Mapping[str, float]) -> list[list[Answer]]:
        """Of each image the answers of the chosen stages, or of those that the cascade needed."""
        if choice == "cascade":
            return self.cascade(batch, thresholds)
        stages = queried_stages(choice, thresholds)
        return [list(row) for row in zip(*(self.answer(stage, batch) for stage in stages), strict=True)]

    def cascade(self, batch: Batch, thresholds: Mapping[str, float]) -> list[list[Answer]]:
        """Stage after stage, each only for the images that those before it have not settled.

        `thresholds`: stage → agreement that settles an image; above 1 the stage is skipped. Returns of each image the
        answers of the stages that saw it; the last one is the cascade's.
        """
        answers: list[list[Answer]] = [[] for _ in batch.images]
        rows = list(range(len(batch.images)))  # of `answers`; the batch shrinks
        for stage in queried_stages("cascade", thresholds):
            given = self.answer(stage, batch)
            for row, answer in zip(rows, given, strict=True):
                answers[row].append(answer)
            threshold = thresholds.get(stage, 1.0)
            unsettled = [index for index, answer in enumerate(given) if answer.agreement < threshold]
            if stage == STAGES[-1] or not unsettled:
                break
            rows, batch = [rows[index] for index in unsettled], batch.keep(unsettled)
        return answers

    def warm_up(self, stages: Sequence[str], batch_size: int) -> None:
        """Traces the encoder and loads the collections, so that the first image's times are like the others'."""
        batch = Batch([np.zeros((32, 32, 3), np.uint8)] * batch_size, [""] * batch_size)
        for stage in stages:
            self.answer(stage, batch)


def queried_stages(choice: str, thresholds: Mapping[str, float]) -> tuple[str, ...]:
    """The stages to query, from shallow to deep; `choice` is a stage, `all` or `cascade`, which skips those above 1."""
    if choice == "cascade":
        return tuple(stage for stage in STAGES if stage == STAGES[-1] or thresholds.get(stage, 1.0) <= 1)
    return STAGES if choice == "all" else (choice,)
