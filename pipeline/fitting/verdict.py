"""One line on a finished fit: the score, whether it beats the encoder's raw features, what to try. No TensorFlow."""

from typing import Any

from pipeline.config import Run
from pipeline.evaluation import score_table

RAW = "raw_features"


def line(result: dict[str, Any], run: Run) -> str:
    """Of what metrics.json holds."""
    classes = result["classes"]
    seen = result.get("classes_trained_on")
    where = f"{classes:,} unseen classes" if seen == 0 else f"{classes:,} classes that were trained on"
    said = f"{score_table.headline(result)} on {where}"
    if RAW not in result.get("differences", {}):
        return said
    ahead = result["differences"][RAW]
    low, high = ahead["interval"]
    by = f"{abs(ahead['mean']):.3f} ±{(high - low) / 2:.3f}"
    numbers = f"{result['embedding_dim']} numbers"
    if low > 0:
        return f"{said}; {numbers} beat the encoder's raw features by {by}"
    if high < 0:
        return f"{said}; {numbers} are below the encoder's raw features by {by}: {_advice(run, result)}"
    return (
        f"{said}; {numbers} do as well as the encoder's raw features ({ahead['mean']:+.3f} ±{(high - low) / 2:.3f})"
        + (f"; for more: {_advice(run, result)}")
    )


def _advice(run: Run, result: dict[str, Any]) -> str:
    """What would help most, by what the run had little of."""
    if result["references"][RAW] > 0.97:
        return "they find nearly everything already"
    tuned = any(phase.trainable != "head" for phase in run.train.phases)
    if result.get("classes_trained_on"):
        return "add classes: a head learns what tells classes apart from many of them"
    if not tuned:
        return "add classes and images, give --minutes more, or a stronger --encoder"
    return "add classes and images, or give a stronger --encoder"
