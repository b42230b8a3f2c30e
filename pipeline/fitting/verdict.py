"""One line on a finished fit: the score, whether it beats the encoder's raw features, what to try. No TensorFlow."""

from typing import Any

from pipeline.evaluation import score_table

RAW = "raw_features"
NEARLY_ALL = 0.97


def line(result: dict[str, Any]) -> str:
    """Of what metrics.json holds."""
    classes = result["classes"]
    seen = result.get("classes_trained_on")
    where = f"{classes:,} unseen classes" if seen == 0 else f"{classes:,} classes that were trained on"
    said = f"{score_table.headline(result)} on {where}"
    if RAW not in result.get("differences", {}):
        return said
    ahead = result["differences"][RAW]
    low, high = ahead["interval"]
    numbers, half = f"{result['embedding_dim']} numbers", f"±{(high - low) / 2:.3f}"
    if low > 0:
        return f"{said}; {numbers} beat the encoder's raw features by {ahead['mean']:.3f} {half}"
    if high < 0:
        found = f"{numbers} are below the encoder's raw features by {-ahead['mean']:.3f} {half}"
    else:
        found = f"{numbers} are not told apart from the encoder's raw features ({ahead['mean']:+.3f} {half})"
    return f"{said}; {found}: {_advice(result)}"


def _advice(result: dict[str, Any]) -> str:
    """What helps most, by what the run had little of."""
    if result["references"][RAW] > NEARLY_ALL:
        return "these find nearly everything already"
    if result["classes_trained_on"]:
        return "add classes, a head learns from many what tells them apart"
    return "add classes and images, or give a stronger --encoder"
