"""The same build on more than one machine, as an Apache Beam pipeline (extra `beam`).

    guie tfrecords CONFIG records.runner=beam records.beam_options='[--runner=FlinkRunner,--flink_master=HOST:PORT]'

Beam deals out the chunks of the same plan to its workers, which make the same shards by the same code. All machines
must see the sources and the run folder under the same paths (a shared file system), and have guie installed.
Without options it runs in this process (DirectRunner).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipeline.errors import BadInput
from tfrecords import chunks as chunk_files
from tfrecords.chunks import Pixels
from tfrecords.selection import Chunk


def make_chunks(folder: Path, chunks: Sequence[Chunk], pixels: Pixels, options: Sequence[str]) -> None:
    """Makes every chunk; the marks beside the shards tell what came out.

    Raises:
        BadInput: Beam is not installed, or an option is not one of its.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise BadInput("records.runner=beam needs Apache Beam: install guie with its extra `beam`") from None
    try:
        flags = PipelineOptions(list(options))
        pipeline = beam.Pipeline(options=flags)
    except (SystemExit, ValueError) as error:
        raise BadInput(f"records.beam_options {list(options)}: {error}") from None
    folder = folder.absolute()  # a worker has another working directory
    with pipeline:
        (
            pipeline
            | "Plan" >> beam.Create(list(chunks))
            | "Deal" >> beam.Reshuffle()
            | "Shards" >> beam.Map(partial(_make, folder, pixels))
        )


def _make(folder: Path, pixels: Pixels, chunk: Chunk) -> str:
    return str(chunk_files.make(folder, pixels, chunk)["file"])
