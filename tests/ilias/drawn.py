"""ILIAS's lists and features, drawn small in the authors' exact layout: many ties, objects without a positive."""

import csv
import gzip
from pathlib import Path

import h5py
import numpy as np

OBJECTS, WIDTH = 14, 3
NAMES = [f"{name}_{number:03d}" for number, name in enumerate(["bold_bimp", "it's", "#U010daj", "zippy_zoot"] * 4)]


def features(path: Path, ids: list[str], vectors: np.ndarray, compression: int = 0, dtype: type = np.float16) -> None:
    """As the authors' own extraction writes them."""
    with h5py.File(path, "w") as file:
        file.create_dataset("index", data=ids, dtype=h5py.string_dtype(encoding="ascii"))
        options = {"compression": "gzip", "compression_opts": compression}
        file.create_dataset("features", data=vectors.astype(dtype), dtype=dtype, **options)


def vectors(rows: int, seed: int) -> np.ndarray:
    """Of few values: most similarities stand many times."""
    return np.random.default_rng(seed).integers(-2, 3, (rows, WIDTH)).astype(np.float16)


def ilias(root: Path, distractors: tuple[int, ...] = (53, 1, 120)) -> Path:
    """<root>/image_ids and <root>/features; returns the latter."""
    random = np.random.default_rng(5)
    queries, positives, texts = [], [], []
    for number, name in enumerate(NAMES[:OBJECTS]):
        queries += [f"{name}/query/Q{number:03d}_{each:02d}.jpg" for each in range(1 + number % 2)]
        positives += [f"{name}/pos/P{number:03d}_{each:02d}.jpg" for each in range(number % 5)]  # some have none
        texts.append(f"{name}/query/T{number:03d}.txt")
    lists = root / "image_ids"
    lists.mkdir(parents=True)
    with (lists / "image_query_ids.txt").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows((query, "100", "1") for query in queries[::-1])
    with (lists / "positive_ids.txt").open("w", newline="") as file:
        rows = [(each, random.uniform(0, 0.4), random.integers(0, 70)) for each in positives[::-1]]
        csv.writer(file, lineterminator="\n").writerows(rows)
    (lists / "text_query_ids.txt").write_text("\n".join(texts) + "\n")
    folder = root / "features"
    folder.mkdir()
    features(folder / "features_image_queries.hdf5", queries, vectors(len(queries), 1))
    features(folder / "features_positives.hdf5", positives, vectors(len(positives), 2), compression=4)
    features(folder / "features_text_queries.hdf5", texts, vectors(len(texts), 3), dtype=np.float32)
    every = []
    for number, count in enumerate(distractors):
        ids = [f"yfcc100m_{number:04d}.tar/{number:02x}{each:06d}" for each in range(count)]
        every += ids
        features(folder / f"features_distractors_{number:05d}.hdf5", ids, vectors(count, 10 + number))
    with gzip.open(lists / "distractor_ids.txt.gz", "wt") as file:
        file.write("\n".join(every) + "\n")
    (lists / "mini_ilias_yfcc100m_ids.txt").write_text("\n".join(each.partition("/")[2] for each in every[::3]) + "\n")
    return folder


def read(path: Path) -> tuple[list[str], np.ndarray]:
    """As the authors' own search reads them."""
    with h5py.File(path) as file:
        return list(file["index"].asstr()[:]), file["features"][:]
