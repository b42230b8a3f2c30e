"""Vectors for the parts of a drawn benchmark, as a folder of stores; `guie bench` on them as a function."""

import json
import zlib
from pathlib import Path

import numpy as np

from pipeline import cli
from pipeline.benchmarks.table import BENCHMARKS
from pipeline.vectors.writer import Writer
from tfrecords.sources import list_source


def items(name, root, part):
    benchmark = BENCHMARKS[name]
    return list(list_source(benchmark.layout or name, root, part.options).items)


def coarse(key, dim=3):
    """Numbers from -1 to 1: many ties, many duplicates."""
    return np.random.default_rng(zlib.crc32(key.encode())).integers(-1, 2, dim).astype(np.float32)


def fine(key, dim=8):
    """No two alike, of unit length."""
    vector = np.random.default_rng(zlib.crc32(key.encode())).normal(size=dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def stores(folder, name, root, vector, domains=(), chunk=7):
    """Part → [(item, vector)], written as stores of small chunks."""
    made = {}
    for part in BENCHMARKS[name].of_domains(domains):
        found = [(item, vector(f"{part.domain} {item.key}")) for item in items(name, root, part)]
        writer = Writer(Path(folder) / part.name, "made", len(found[0][1]))
        for number, start in enumerate(range(0, len(found), chunk)):
            block = found[start : start + chunk]
            rows = [(item.key, part.domain or part.name, item.class_name, item.also) for item, _ in block]
            writer.put(number, np.stack([each for _, each in block]), rows)
        writer.finish()
        made[part.name] = found
    return made


def bench(name, embedder, root, out, *more):
    """bench.json of `guie bench`."""
    words = ["bench", name, str(embedder), "--root", str(root), "--out", str(out), *map(str, more)]
    assert cli.main(words) == 0
    return json.loads((out / "bench.json").read_text())


def values(mode):
    """Row → measure → value."""
    return {name: row["values"] for name, row in mode["rows"].items()}
