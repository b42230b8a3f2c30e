"""Scoring's search: 5,000 queries × 200,000 index images × 64 numbers, against faiss' flat index and scikit-learn.

python -m tests.benchmarks.bench_search [--rounds N]
Ratios are peer time / our time (above 1: we are faster); peak memory is what each process reached.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import numpy as np

from export.contract_probe import peak_gigabytes

PEERS = ("guie", "faiss", "sklearn")


def vectors(rows: int, seed: int) -> np.ndarray:
    made = np.random.default_rng(seed).normal(size=(rows, 64)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def run(peer: str, queries: int, index: int) -> dict:
    """One timed search in this process; the ids as a list."""
    asked, held = vectors(queries, 1), vectors(index, 2)
    if peer == "guie":
        from pipeline.retrieval.search import nearest

        began = time.perf_counter()
        ids = nearest(asked, held, 5)[0]
    elif peer == "faiss":
        import faiss

        began = time.perf_counter()
        flat = faiss.IndexFlatL2(64)
        flat.add(held)
        ids = flat.search(asked, 5)[1]
    else:
        from sklearn.neighbors import NearestNeighbors

        began = time.perf_counter()
        ids = NearestNeighbors(n_neighbors=5, algorithm="brute", n_jobs=-1).fit(held).kneighbors(asked)[1]
    seconds = time.perf_counter() - began
    peak = 1024 * peak_gigabytes()
    return {"seconds": seconds, "peak_mb": peak, "ids": np.asarray(ids).tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peer", choices=PEERS, help="one search, as JSON (the benchmark calls itself so)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=5_000)
    parser.add_argument("--index", type=int, default=200_000)
    options = parser.parse_args()
    if options.peer:
        print(json.dumps(run(options.peer, options.queries, options.index)))
        return
    found: dict[str, list[dict]] = {peer: [] for peer in PEERS}
    for _ in range(options.rounds):
        for peer in PEERS:
            command = [sys.executable, "-m", "tests.benchmarks.bench_search", "--peer", peer]
            command += ["--queries", str(options.queries), "--index", str(options.index)]
            found[peer].append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    ours = [each["seconds"] for each in found["guie"]]
    print(f"search {options.queries:,} × {options.index:,} × 64, k=5, median of {options.rounds} rounds")
    for peer, runs in found.items():
        ratio = statistics.median(each["seconds"] / own for each, own in zip(runs, ours, strict=True))
        same = np.mean(np.array(runs[0]["ids"]) == np.array(found["guie"][0]["ids"]))
        print(
            f"{peer:>8}: {statistics.median(each['seconds'] for each in runs):6.2f} s, peer/guie {ratio:5.2f}, "
            f"peak {max(each['peak_mb'] for each in runs):5,.0f} MB, ids as guie's {same:.5f}"
        )


if __name__ == "__main__":
    main()
