"""metrics.jsonl and TensorBoard of a run, and how much of the accelerator it uses."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from pipeline import files
from pipeline.config import Run
from pipeline.guards.masked import shown
from pipeline.models.encoders import ImageEncoder
from pipeline.planning import costs, estimates
from pipeline.planning.accelerators import Chip
from pipeline.training.devices import Found
from pipeline.training.phases import Phase


@dataclass(frozen=True)
class Work:
    """What a phase's step computes. FLOPs are the model's, forward and backward, as `guie plan` counts them.

    What checkpointing computes again is no part of them: MFU is of the model's own.

    Source: Chowdhery et al., PaLM, 2022, appendix B.
    """

    flops: float  # an image
    replicas: int
    chip: Chip | None  # of a replica; None: not known, or a CPU

    @classmethod
    def of(cls, run: Run, found: Found, phase: Phase, encoder: ImageEncoder, classes: int) -> "Work":
        size, overlap = phase.options.image_size_px, phase.options.patch_overlap_px
        each = estimates.encoder_costs(run.encoder, size, overlap, built=encoder)
        flops = costs.step(each, run, phase.options, classes, phase.on_features).model_flops
        return cls(flops, found.strategy.num_replicas_in_sync, found.chip)

    def rates(self, images: int, seconds: float) -> dict[str, float]:
        """What `images` of all replicas in `seconds` mean: TFLOP/s of a replica, and their share of the chip's peak."""
        achieved = images * self.flops / (seconds * self.replicas)
        found = {"teraflops_per_replica": achieved / 1e12}
        return found | ({"mfu": achieved / self.chip.peak_flops} if self.chip else {})


class MetricsLog:
    """Rows of metrics by step. A checkpoint holds those up to it: a run that goes on from it begins with them."""

    def __init__(self, folder: Path, step: int, writes: bool, rows: Sequence[str] = ()):
        self.step = step  # of the next row, counted over all phases
        self.writes, self.path, self.rows = writes, path_of(folder), [*rows]
        if writes:
            restore(folder, rows)
            self.board = tf.summary.create_file_writer(str(folder / "tensorboard"))

    def write(self, row: dict, images_per_second: float) -> None:
        if not self.writes:
            return
        speed = {"images_per_second": round(images_per_second, 1)} if images_per_second else {}  # 0: compiled alone
        full = {"step": self.step, **row, **speed}
        self.rows.append(json.dumps(shown(full)))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(self.rows[-1] + "\n")
        with self.board.as_default(step=self.step):
            for name, value in full.items():
                if isinstance(value, float):
                    tf.summary.scalar(name, value)


def path_of(folder: Path) -> Path:
    return folder / "metrics.jsonl"


def restore(folder: Path, rows: Sequence[str]) -> None:
    """metrics.jsonl of a run folder with these rows alone; it stays as it is where it holds them."""
    files.write_text(path_of(folder), "".join(row + "\n" for row in rows))
