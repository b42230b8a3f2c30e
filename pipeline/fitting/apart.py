"""The encoder is measured in a process of its own: records are built before TensorFlow takes its memory."""

import os
from dataclasses import dataclass

from pipeline.config import Encoder, Source
from pipeline.config.sidecar import KERAS_FILE
from pipeline.errors import BadInput
from pipeline.fitting.choosing import Measured
from pipeline.quiet import import_quietly
from tfrecords.processes import in_processes

LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # of a worker, which TensorFlow would keep to


@dataclass(frozen=True)
class Task:
    encoder: Encoder
    sources: list[Source]
    sample: list[tuple[str, str, str]]  # (source, key, class) of images to try scalings on


@dataclass(frozen=True)
class Answer:
    encoder: Encoder  # with its mean and std
    measured: Measured
    said: list[str]


def measured(encoder: Encoder, sources: list[Source], sample: list[tuple[str, str, str]]) -> Answer:
    """Raises BadInput: a file that is no encoder, weights that cannot be had; names what to do without a network."""
    try:
        ((_, answer),) = in_processes(_measure, [Task(encoder, sources, sample)], workers=1)
    except BadInput as error:
        if encoder.name.startswith(KERAS_FILE):
            raise
        mend = "give a Keras file, --encoder FILE.keras, where its weights cannot be fetched"
        raise BadInput(f"{encoder.name}: {mend}: {error}") from None
    return answer


def _measure(task: Task) -> Answer:
    for name in LIMITS:
        os.environ.pop(name, None)
    return import_quietly("pipeline.fitting.measuring").measure(task)
