"""COMMAND  guie captions CONFIG: how well images and their captions fit, by CLIP or SigLIP.

a CSV of images (paths or URLs) and captions → run_dir/captions.csv (each row's similarity, or the reason why there
is none), summary.json, histogram.svg; retrieval both ways over the images that could be read. A rerun encodes
what is new and tries images again that could not be had.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import files
from pipeline.captions.caption_table import Pair, read_pairs
from pipeline.captions.config import Captions
from pipeline.captions.embeddings import encode_images, encode_texts
from pipeline.captions.metering import Meter
from pipeline.config import ImageTextModel, resolve_data_path, to_yaml
from pipeline.data.array_cache import ArrayCache
from pipeline.data.preprocessing import LEVELS
from pipeline.models.dual_encoder import DualEncoder
from pipeline.pages import charts
from pipeline.retrieval.metrics import recall_at_k
from pipeline.retrieval.search import nearest

RANKS = (1, 5, 10)
HEADER = ["line", "image", "caption", "similarity", "logit", "tokens cut", "reason"]


def main(config: Captions) -> None:
    run_dir = Path(config.run_dir)
    path = _resolved(config.table, config.data_root)
    pairs = read_pairs(path, config.format)
    root = _resolved(config.images, config.data_root) if config.images else path.parent
    print(f"captions: {len(pairs):,} rows of {path}, images below {root} → {run_dir}", flush=True)
    files.write_text(run_dir / "config.yaml", to_yaml(config))
    encoder = DualEncoder(config.model)
    if not encoder.trained:
        print(f"{config.model.title}: random weights, the similarities mean nothing", flush=True)
    usable = [pair for pair in pairs if not pair.reason]
    model, folder = encoder.identity, run_dir / "embeddings"
    of_images = ArrayCache(folder, ["images", model, LEVELS])
    of_texts = ArrayCache(folder, ["texts", model])
    with Meter() as meter:
        images, reasons = encode_images([pair.image for pair in usable], root, config, encoder, of_images, meter)
        texts, cut = encode_texts([pair.caption for pair in usable], encoder, of_texts, meter)
    scored = [pair for pair in usable if pair.image in images]
    similarity = np.array([images[pair.image] @ texts[pair.caption] for pair in scored], np.float32)
    others = mismatched(scored, images, texts)
    rows = list(result_rows(pairs, reasons, dict(zip(scored, similarity.tolist(), strict=True)), cut, encoder))
    summary = summarise(config.model, rows, similarity, others, meter)
    if config.retrieval and len(images) > 1:
        summary["retrieval"] = retrieval(scored, images, texts)
    files.write_csv(run_dir / "captions.csv", HEADER, rows)
    groups = {"own image": similarity.tolist(), "another image": others.tolist()}
    title = f"{config.model.title}: similarity of captions"
    colours = [charts.RIGHT, charts.WRONG]
    files.write_text(run_dir / "histogram.svg", charts.histogram(title, groups, colours, "cosine"))
    files.write_json(run_dir / "summary.json", summary)
    print_summary(summary, meter)
    failed = len(rows) - len(scored)
    print(f"captions: {len(rows):,} rows, {len(scored):,} scored, {failed:,} not: {run_dir / 'captions.csv'}")


def retrieval(
    pairs: list[Pair], images: dict[str, np.ndarray], texts: dict[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """R@1, 5, 10 both ways: a caption finds its image; an image finds any of its captions.

    Every row's caption stands for itself, also where two rows say the same.
    """
    row_of = {reference: row for row, reference in enumerate(dict.fromkeys(pair.image for pair in pairs))}
    image_rows = np.stack([images[reference] for reference in row_of])  # [I, D]
    text_rows = np.stack([texts[pair.caption] for pair in pairs])  # [T, D]
    owner = np.array([row_of[pair.image] for pair in pairs])  # [T]
    to_image, _ = nearest(text_rows, image_rows, max(RANKS))
    to_text, _ = nearest(image_rows, text_rows, max(RANKS))
    found_image = to_image == owner[:, None]
    found_text = (owner[to_text.clip(0)] == np.arange(len(row_of))[:, None]) & (to_text >= 0)
    return {
        "text to image": {f"R@{k}": round(recall_at_k(found_image, k), 6) for k in RANKS},
        "image to text": {f"R@{k}": round(recall_at_k(found_text, k), 6) for k in RANKS},
        "size": {"images": len(row_of), "texts": len(pairs)},
    }


def result_rows(
    pairs: list[Pair], reasons: dict[str, str], similarity: dict[Pair, float], cut: dict[str, int], encoder: DualEncoder
) -> Iterator[list[Any]]:
    """The columns of HEADER, for each row of the table."""
    for pair in pairs:
        if pair in similarity:
            logit = float(encoder.logits(np.float64(similarity[pair])))
            yield [
                pair.line, pair.image, pair.caption, f"{similarity[pair]:.6f}", f"{logit:.6f}",
                cut.get(pair.caption, 0), "",
            ]  # fmt: skip
        else:
            yield [pair.line, pair.image, pair.caption, "", "", "", pair.reason or reasons[pair.image]]


def mismatched(pairs: list[Pair], images: dict[str, np.ndarray], texts: dict[str, np.ndarray]) -> np.ndarray:
    """float32 [len(pairs)]: similarity of each caption to the next other image of the table, as a baseline."""
    order = list(dict.fromkeys(pair.image for pair in pairs))
    if len(order) < 2:
        return np.zeros(0, np.float32)
    following = dict(zip(order, [*order[1:], order[0]], strict=True))
    return np.array([images[following[pair.image]] @ texts[pair.caption] for pair in pairs], np.float32)


def summarise(
    model: ImageTextModel, rows: list[list[Any]], similarity: np.ndarray, others: np.ndarray, meter: Meter
) -> dict[str, Any]:
    reasons = Counter(re.sub(r"(?<!HTTP )\b\d[\d,.]*", "N", row[-1].split(": /")[0]) for row in rows if row[-1])
    return {
        "model": model.title,
        "weights": model.encoder.weights,
        "rows": len(rows),
        "scored": len(similarity),
        "reasons": dict(reasons.most_common()),  # numbers and paths taken out, so that alike ones are counted
        "captions cut": sum(1 for row in rows if row[5]),
        "similarity": _spread(similarity),
        "similarity to another image": _spread(others),
        "steps": meter.rows(),
    }


def print_summary(summary: dict[str, Any], meter: Meter) -> None:
    print(meter.table())
    for reason, count in list(summary["reasons"].items())[:10]:
        print(f"not scored: {count:,} × {reason}")
    if spread := summary["similarity"]:
        mean, another = spread["mean"], summary["similarity to another image"].get("mean", float("nan"))
        print(f"similarity: mean {mean:.4f} (to another image {another:.4f}), median {spread['median']:.4f}")
    if found := summary.get("retrieval"):
        size = found["size"]
        for way in ("text to image", "image to text"):
            shown = "  ".join(f"{rank} {share:.2%}" for rank, share in found[way].items())
            print(f"{way}: {shown}   ({size['images']:,} images, {size['texts']:,} texts)")


def _resolved(path: str, data_root: str) -> Path:
    """The path itself where it exists, otherwise below `data_root`."""
    return Path(path) if Path(path).exists() else resolve_data_path(path, data_root)


def _spread(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    names = ("minimum", "5 %", "median", "95 %", "maximum")
    shares = np.quantile(values.astype(np.float64), (0, 0.05, 0.5, 0.95, 1))
    spread = {"mean": float(values.mean(dtype=np.float64)), "std": float(values.std(dtype=np.float64))}
    spread |= zip(names, map(float, shares), strict=True)
    return {key: round(value, 6) for key, value in spread.items()}
