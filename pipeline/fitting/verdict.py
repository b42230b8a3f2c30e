"""One line on a finished fit: the score, whether it beats the encoder's raw features, what to try. No TensorFlow."""

from typing import Any

from pipeline.evaluation import score_table
from pipeline.pages import verdict
from pipeline.retrieval import intervals

RAW = "raw_features"
NEARLY_ALL = 0.97


def line(result: dict[str, Any], advice: str = "") -> str:
    """Of what metrics.json holds; `advice`: what to try first, known before the run."""
    classes = result["classes"]
    seen = result.get("classes_trained_on")
    where = f"{classes:,} unseen classes" if seen == 0 else f"{classes:,} classes that were trained on"
    said = f"{score_table.headline(result)} on {where}"
    if RAW not in result.get("differences", {}):
        return said
    ahead = result["differences"][RAW]
    numbers, settled = f"{result['embedding_dim']} numbers", verdict.word(ahead["interval"])
    by = intervals.text(abs(ahead["mean"]), ahead["interval"], ".3f")
    if settled == verdict.BETTER:
        return f"{said}; {numbers} beat the encoder's raw features by {by}"
    if settled == verdict.WORSE:
        found = f"{numbers} are below the encoder's raw features by {by}"
    else:
        signed = intervals.text(ahead["mean"], ahead["interval"], "+.3f")
        found = f"{numbers} are not told apart from the encoder's raw features ({signed})"
    return f"{said}; {found}: {advice or _advice(result)}"


def _advice(result: dict[str, Any]) -> str:
    """What helps most, by what the run had little of."""
    if result["references"][RAW] > NEARLY_ALL:
        return "these find nearly everything already"
    if result["classes_trained_on"]:
        return "add classes, a head learns from many what tells them apart"
    return "add classes and images, or give a stronger --encoder"
