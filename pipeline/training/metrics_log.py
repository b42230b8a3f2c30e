"""metrics.jsonl and TensorBoard of a run."""

import json
import math
from pathlib import Path

import tensorflow as tf

from pipeline import files


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
            file.write(json.dumps(full) + "\n")
        with self.board.as_default(step=self.step):
            for name, value in full.items():
                if isinstance(value, float):
                    tf.summary.scalar(name, value)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf  # half a line, from a kill
