"""The same build on more than one machine, as an Apache Beam pipeline (extra `beam`).

    guie tfrecords CONFIG records.runner=beam records.beam_options='[--runner=FlinkRunner,--flink_master=HOST:PORT]'

Beam distributes the chunks to its workers, which write the same shards with the same code. All machines must see the
sources and the run folder under the same paths (a shared file system) and have guie installed. Without options Beam
runs in this process (DirectRunner).
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import BadInput, missing
from tfrecords import chunks as chunk_files
from tfrecords.chunks import JpegSettings
from tfrecords.selection import Chunk


def make_shards(folder: Path, chunks: Sequence[Chunk], jpeg: JpegSettings, options: Sequence[str]) -> None:
    """Makes the shard of every chunk; the marks beside the shards hold the results.

    Raises BadInput as `distribute`.
    """
    folder = folder.absolute()  # a worker has another working directory
    distribute(partial(_make_shard, folder, jpeg), chunks, options, "records.runner=beam", "records.beam_options")


def distribute(work: Callable[[Any], Any], tasks: Sequence[Any], options: Sequence[str], asked: str, key: str) -> None:
    """Has Beam's workers call `work` of every task; what it gives is dropped.

    Args:
        options: Beam's own. asked: what asked for Beam. key: where `options` stand; both for messages.

    Raises BadInput: Beam is not installed, or refuses an option.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise missing(f"{asked} needs", "apache-beam", "beam") from None
    try:
        flags = PipelineOptions(list(options))
        pipeline = beam.Pipeline(options=flags)
    except (SystemExit, ValueError) as error:
        raise BadInput(f"{key} {list(options)}: {error}") from None
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)  # what fails is raised here, too
    with pipeline:
        pipeline | "Tasks" >> beam.Create(list(tasks)) | "Distribute" >> beam.Reshuffle() | "Work" >> beam.Map(work)


def _make_shard(folder: Path, jpeg: JpegSettings, chunk: Chunk) -> str:
    return str(chunk_files.make_shard(folder, jpeg, chunk)["file"])
