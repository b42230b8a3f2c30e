"""STAGE  embedder + images → vectors.

guie embed EMBEDDER DATA --out DIR
→ DIR/embeddings.npy [N, 64] float32, DIR/items.csv: key,source,class (row n is vector n), DIR/rejects.csv
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import files
from pipeline.data import sources
from pipeline.errors import BadInput
from pipeline.evaluation import embedders, score


@dataclass(frozen=True)
class Options:
    embedder: str
    data: str
    out: str
    batch_size: int = 64


def main(options: Options) -> None:
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out}: expected a folder, it is a file")
    submission = embedders.load(options.embedder)
    sets = sources.open_data(options.data)
    classes: dict[tuple[str, str], int] = {}
    embedded = score.embed_sets(submission, sets, options.batch_size, "embed", classes)
    named = {label: pair for pair, label in classes.items()}
    rows: list[tuple[str, ...]] = [
        (key, embedded.names[place], named[label][1])
        for key, place, label in zip(
            embedded.keys, embedded.domains.tolist(), embedded.labels.tolist(), strict=True
        )
    ]
    with files.atomic_path(out / "embeddings.npy") as temporary, temporary.open("wb") as file:
        np.save(file, embedded.vectors["embedder"])
    files.write_text(out / "items.csv", _csv(("key", "source", "class"), rows))
    files.write_text(out / "rejects.csv", _csv(("source", "key", "reason"), embedded.rejects))
    print(
        f"embed: {len(rows):,} vectors of {submission.embedding_dim}, {len(embedded.rejects)} left out "
        f"→ {out}/embeddings.npy"
    )


def _csv(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()
