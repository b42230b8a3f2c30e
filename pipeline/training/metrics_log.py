"""metrics.jsonl and TensorBoard of a run, and how much of the accelerator it uses."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from pipeline import files
from pipeline.config import Run
from pipeline.masked import shown
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
    """Rows of metrics by step. Rows after the checkpoint that a run resumes from are dropped: they come again."""

    def __init__(self, folder: Path, step: int, writes: bool):
        self.step = step  # of the next row, counted over all phases
        self.writes, self.path = writes, folder / "metrics.jsonl"
        if writes:
            old = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
            kept = [line for line in old if _step_of(line) <= step]
            files.write_text(self.path, "".join(line + "\n" for line in kept))
            self.board = tf.summary.create_file_writer(str(folder / "tensorboard"))

    def write(self, row: dict, images_per_second: float) -> None:
        if not self.writes:
            return
        full = {"step": self.step, **row, "images_per_second": round(images_per_second, 1)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(shown(full)) + "\n")
        with self.board.as_default(step=self.step):
            for name, value in full.items():
                if isinstance(value, float):
                    tf.summary.scalar(name, value)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf  # half a line, from a kill
