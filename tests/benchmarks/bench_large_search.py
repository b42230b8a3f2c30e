"""Exact search over vectors on disk, as ILIAS asks it: 1,232 queries × 5,000,000 vectors, 1,000 neighbours.

    python -m tests.benchmarks.bench_large_search [--widths 64 512] [--rounds 3] [--rows N] [--folder DIR]

guie searches its stores of float32, float16 and int8; faiss by hand: IndexFlatIP, and IndexScalarQuantizer of float16
and of 8 bits, each with all vectors in memory. Vectors are drawn: unit length, a hundred about each of the centres.
Ratios are peer time / guie's time over float16 (above 1: guie is faster), of a process that opens what it searches;
peak memory is what that process reached. Recall is the share of the 1,000 that float32's exact search finds.
A peer whose vectors do not fit into the memory that is free is left out. The folder takes 7 bytes a number.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from export.contract_probe import peak_gigabytes

STORES = ("float16", "float32", "int8")
FAISS = {"faiss flat": 4.0, "faiss fp16": 2.0, "faiss 8bit": 1.0}  # bytes a number
PEERS = (*(f"guie {dtype}" for dtype in STORES), *FAISS)
K, CHUNK_ROWS, ABOUT_A_CENTRE = 1000, 250_000, 100


def drawn(rows: int, width: int, seed: int) -> np.ndarray:
    """float32 [rows, width], unit length."""
    random = np.random.default_rng(seed)
    made = random.standard_normal((rows, width), np.float32)
    centres = np.random.default_rng([width, seed % 7]).standard_normal((rows // ABOUT_A_CENTRE + 1, width), np.float32)
    made += centres[random.integers(0, len(centres), rows)]
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def make(folder: Path, dtypes: list[str], rows: int, width: int, queries: int) -> None:
    """A store of each dtype, and queries.npy."""
    from pipeline.vectors.writer import Writer

    writers = [Writer(folder / dtype, "drawn", width, dtype) for dtype in dtypes]
    for number, first in enumerate(range(0, rows, CHUNK_ROWS)):
        count = min(CHUNK_ROWS, rows - first)
        vectors = drawn(count, width, number)
        for writer in writers:
            writer.put(number, vectors, ((str(first + row), "", "", ()) for row in range(count)))
    for writer in writers:
        writer.finish()
    np.save(folder / "queries.npy", drawn(queries, width, 7))  # some about centres of the vectors


def search(peer: str, folder: Path) -> dict:
    """One search in this process, timed with all that it needs: the files are written, nothing else."""
    queries = np.load(folder / "queries.npy")
    system, kind = peer.split()
    if system == "guie":
        from pipeline.retrieval.large import most_similar
        from pipeline.vectors.store import open_store

        began = time.perf_counter()
        store = open_store(folder / kind)
        rows = most_similar(queries, store.blocks(max(1, (1 << 25) // store.dim)), K)[0]
    else:
        import faiss

        paths = sorted((folder / "float32").glob("vectors-*.npy"))
        began = time.perf_counter()
        width = queries.shape[1]
        if kind == "flat":
            index = faiss.IndexFlatIP(width)
        else:
            of_kind = {"fp16": faiss.ScalarQuantizer.QT_fp16, "8bit": faiss.ScalarQuantizer.QT_8bit}[kind]
            index = faiss.IndexScalarQuantizer(width, of_kind, faiss.METRIC_INNER_PRODUCT)
            index.train(np.load(paths[0]))
        for path in paths:
            index.add(np.load(path))
        rows = index.search(queries, K)[1]
    seconds = time.perf_counter() - began
    np.save(folder / f"found-{system}-{kind}.npy", rows)
    return {"seconds": seconds, "peak_mb": 1024 * peak_gigabytes()}


def recall(folder: Path, peer: str) -> float:
    exact = np.load(folder / "found-guie-float32.npy")
    found = np.load(folder / f"found-{peer.replace(' ', '-')}.npy")
    return float(np.mean([len(np.intersect1d(*each)) / exact.shape[1] for each in zip(exact, found, strict=True)]))


def fits(peer: str, rows: int, width: int) -> bool:
    return FAISS.get(peer, 0.0) * rows * width * 1.2 + 2e9 < psutil.virtual_memory().available


def compare(width: int, given: argparse.Namespace) -> None:
    folder = Path(tempfile.mkdtemp(prefix="guie-bench-", dir=given.folder))
    try:
        dtypes = [dtype for dtype in STORES if f"guie {dtype}" in given.peers]
        make(folder, dtypes, given.rows, width, given.queries)
        print(
            f"{given.queries:,} queries × {given.rows:,} × {width}, k={K}, median of {given.rounds} rounds", flush=True
        )
        found: dict[str, list[dict]] = {}
        for _ in range(given.rounds):
            for peer in given.peers:
                if fits(peer, given.rows, width):
                    command = [sys.executable, "-m", "tests.benchmarks.bench_large_search", "--peer", peer]
                    done = subprocess.run([*command, "--folder", folder], capture_output=True, text=True, check=True)
                    found.setdefault(peer, []).append(json.loads(done.stdout))
                    print(f"    {peer}: {found[peer][-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
        ours = [each["seconds"] for each in found["guie float16"]]
        for peer in given.peers:
            if peer not in found:
                print(f"{peer:>13}: left out, its vectors do not fit into the memory that is free")
                continue
            runs = found[peer]
            ratio = statistics.median(each["seconds"] / own for each, own in zip(runs, ours, strict=True))
            print(
                f"{peer:>13}: {statistics.median(each['seconds'] for each in runs):7.1f} s, peer/guie {ratio:5.2f}, "
                f"peak {max(each['peak_mb'] for each in runs):6,.0f} MB, recall@{K} {recall(folder, peer):.5f}"
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peer", choices=PEERS, help="one search, as JSON (the benchmark calls itself so)")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--folder", type=Path, help="for the vectors; by default the temporary folder")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--queries", type=int, default=1_232)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.peer:
        print(json.dumps(search(given.peer, given.folder)))
        return
    needed = {"guie float16", "guie float32"}
    if needed - set(given.peers):
        sys.exit(f"--peers: expected {' and '.join(sorted(needed))} among them, which the others are compared with")
    for width in given.widths:
        compare(width, given)


if __name__ == "__main__":
    main()
