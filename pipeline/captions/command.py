"""STAGE  guie captions CONFIG: how well images and their captions fit, by CLIP or SigLIP.

a CSV of images (paths or URLs) and captions → run_dir/captions.csv (a row a row, with similarity or the reason why
there is none), summary.json, histogram.svg; retrieval both ways over the images that could be read. What is
encoded is kept: a rerun encodes what is new and asks again for images that could not be had.
"""

import csv
import io
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
from pipeline.config import ImageTextModel, from_command_line, resolve_data_path, to_yaml
from pipeline.models.dual_encoder import DualEncoder
from pipeline.pages import charts
from pipeline.retrieval.metrics import recall_at_k
from pipeline.retrieval.search import nearest

RANKS = (1, 5, 10)
HEADER = ["line", "image", "caption", "similarity", "logit", "tokens cut", "reason"]


def parse(argv: list[str]) -> Captions:
    return from_command_line(Captions, argv, "captions")


def main(config: Captions) -> None:
    run_dir = Path(config.run_dir)
    path = _place(config.table, config.data_root)
    pairs = read_pairs(path, config.format)
    root = _place(config.images, config.data_root) if config.images else path.parent
    print(f"captions: {len(pairs):,} rows of {path}, images below {root} → {run_dir}", flush=True)
    files.write_text(run_dir / "config.yaml", to_yaml(config))
    towers = DualEncoder(config.model)
    if not towers.trained:
        print(f"{config.model.title}: random weights, the similarities mean nothing", flush=True)
    usable = [pair for pair in pairs if not pair.reason]
    kept = run_dir / "embeddings" / towers.identity
    with Meter() as meter:
        images, reasons = encode_images(
            [pair.image for pair in usable], root, config.fetch, config.max_megapixels, towers, kept, meter
        )
        texts, cut = encode_texts([pair.caption for pair in usable], towers, kept, meter)
    scored = [pair for pair in usable if pair.image in images]
    similarity = np.array([images[pair.image] @ texts[pair.caption] for pair in scored], np.float32)
    others = mismatched(scored, images, texts)
    rows = list(result_rows(pairs, reasons, dict(zip(scored, similarity.tolist(), strict=True)), cut, towers))
    summary = summarise(config.model, rows, similarity, others, meter)
    if config.retrieval and len(images) > 1:
        summary["retrieval"] = retrieval(scored, images, texts)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADER, *rows])
    files.write_text(run_dir / "captions.csv", text.getvalue())
    groups = {"own image": similarity.tolist(), "another image": others.tolist()}
    title = f"{config.model.title}: similarity of captions"
    colours = [charts.CORRECT, charts.INCORRECT]
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
    place = {reference: row for row, reference in enumerate(dict.fromkeys(pair.image for pair in pairs))}
    image_rows = np.stack([images[reference] for reference in place])  # [I, D]
    text_rows = np.stack([texts[pair.caption] for pair in pairs])  # [T, D]
    owner = np.array([place[pair.image] for pair in pairs])  # [T]
    to_image, _ = nearest(text_rows, image_rows, max(RANKS))
    to_text, _ = nearest(image_rows, text_rows, max(RANKS))
    found_image = to_image == owner[:, None]
    found_text = (owner[to_text.clip(0)] == np.arange(len(place))[:, None]) & (to_text >= 0)
    return {
        "text to image": {f"R@{k}": round(recall_at_k(found_image, k), 6) for k in RANKS},
        "image to text": {f"R@{k}": round(recall_at_k(found_text, k), 6) for k in RANKS},
        "size": {"images": len(place), "texts": len(pairs)},
    }


def result_rows(
    pairs: list[Pair],
    reasons: dict[str, str],
    similarity: dict[Pair, float],
    cut: dict[str, int],
    towers: DualEncoder,
) -> Iterator[list[Any]]:
    """One row a row of the table, as HEADER has it."""
    for pair in pairs:
        if pair in similarity:
            logit = float(towers.logits(np.float64(similarity[pair])))
            yield [
                pair.line, pair.image, pair.caption, f"{similarity[pair]:.6f}", f"{logit:.6f}",
                cut.get(pair.caption, 0), "",
            ]  # fmt: skip
        else:
            yield [pair.line, pair.image, pair.caption, "", "", "", pair.reason or reasons[pair.image]]


def mismatched(pairs: list[Pair], images: dict[str, np.ndarray], texts: dict[str, np.ndarray]) -> np.ndarray:
    """Similarities of each caption to the next other image of the table, to set the own ones beside."""
    order = list(dict.fromkeys(pair.image for pair in pairs))
    if len(order) < 2:
        return np.zeros(0, np.float32)
    following = dict(zip(order, [*order[1:], order[0]], strict=True))
    return np.array([images[following[pair.image]] @ texts[pair.caption] for pair in pairs], np.float32)


def summarise(
    model: ImageTextModel, rows: list[list[Any]], similarity: np.ndarray, others: np.ndarray, meter: Meter
) -> dict[str, Any]:
    reasons = Counter(
        re.sub(r"(?<!HTTP )\b\d[\d,.]*", "N", row[-1].split(": /")[0]) for row in rows if row[-1]
    )
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
    if own := summary["similarity"]:
        another = summary["similarity to another image"].get("mean", float("nan"))
        print(
            f"similarity: mean {own['mean']:.4f} (to another image {another:.4f}), median {own['median']:.4f}"
        )
    if found := summary.get("retrieval"):
        size = found["size"]
        for way in ("text to image", "image to text"):
            shown = "  ".join(f"{rank} {share:.2%}" for rank, share in found[way].items())
            print(f"{way}: {shown}   ({size['images']:,} images, {size['texts']:,} texts)")


def _place(path: str, data_root: str) -> Path:
    """A path as it is where something stands there, otherwise below `data_root`."""
    return Path(path) if Path(path).exists() else resolve_data_path(path, data_root)


def _spread(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    names = ("minimum", "5 %", "median", "95 %", "maximum")
    shares = np.quantile(values.astype(np.float64), (0, 0.05, 0.5, 0.95, 1))
    spread = {"mean": float(values.mean(dtype=np.float64)), "std": float(values.std(dtype=np.float64))}
    return {
        key: round(value, 6)
        for key, value in {**spread, **dict(zip(names, map(float, shares), strict=True))}.items()
    }
