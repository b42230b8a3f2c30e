"""Embedding images from the exported SavedModel, one at a time and in batches, against its peers on the same ViT-B/32.

    python -m tests.benchmarks.bench_serving [--encoder clip_vit_b_32] [--images 64] [--rounds 5]

Peers: ONNX Runtime on the exported model.onnx, and open_clip's own ViT-B/32 on torch, eager. All three get uint8
images of 480 × 640 and give embeddings: resizing and normalising count. Random weights; every peer on the same cores.
Each runs in a process of its own, so that thread pools do not meet and the peak memory is its own; the rounds go round
the peers, so that a slow moment of the machine meets all of them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

HEIGHT, WIDTH = 480, 640
PEERS = ("saved_model", "onnxruntime", "open_clip")
OPEN_CLIP = {"clip_vit_b_32": "ViT-B-32", "clip_vit_b_16": "ViT-B-16", "clip_vit_l_14": "ViT-L-14"}


def export_models(encoder: str, folder: Path) -> None:
    """Writes saved_model/ and model.onnx of an embedder with random weights."""
    from export.formats import write_onnx
    from export.saved_model import save
    from pipeline.config import Encoder, Run
    from pipeline.models.embedder import build

    embedder = build(Run(name="bench", run_dir=str(folder), encoder=Encoder(name=encoder)))
    save([(embedder.model, embedder.preprocess)], folder / "saved_model")
    write_onnx(embedder.model, embedder.preprocess, folder / "model.onnx")


def embedder_of(peer: str, encoder: str, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """uint8 [B, 480, 640, 3] → float32 [B, D] by one of the peers."""
    if peer == "saved_model":
        import tensorflow as tf

        model = tf.saved_model.load(str(folder / "saved_model"))
        serve = model.signatures["serving_default"]
        return lambda images, model=model: serve(images=tf.constant(images))["embedding_norm"].numpy()
    if peer == "onnxruntime":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images})[0]
    return open_clip_embedder(OPEN_CLIP[encoder])


def open_clip_embedder(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """open_clip's image tower on torch, eager; resizing by torch, as its users do for tensors."""
    import torch

    from pipeline.models.weights.files import import_open_clip

    model = import_open_clip().create_model(name).eval()
    side = model.visual.image_size[0]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).reshape(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).reshape(1, 3, 1, 1)

    def embed(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
            pixels = torch.nn.functional.interpolate(pixels, [side, side], mode="bicubic", antialias=True)
            pixels = (pixels.clamp(0, 255) / 255.0 - mean) / std
            return model.encode_image(pixels, normalize=True).numpy()

    return embed


def peer_process(peer: str, encoder: str, folder: Path) -> None:
    """Reads lines "batch images" from stdin, answers each with a line of JSON; ends at the end of stdin."""
    embed = embedder_of(peer, encoder, folder)
    from export.contract_probe import blocks, peak_gigabytes

    pictures = np.stack([blocks(HEIGHT, WIDTH, seed) for seed in range(32)])
    print("ready", flush=True)
    for line in sys.stdin:
        batch, images = map(int, line.split())
        started = time.perf_counter()
        for first in range(0, images, batch):
            embed(pictures[np.arange(first, first + batch) % len(pictures)])
        seconds = time.perf_counter() - started
        print(json.dumps({"rate": images / seconds, "gigabytes": peak_gigabytes()}), flush=True)


class Peer:
    """One peer's process."""

    def __init__(self, name: str, encoder: str, folder: Path):
        command = [sys.executable, "-m", "tests.benchmarks.bench_serving", "--peer", name, "--encoder", encoder]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        self.process = subprocess.Popen(
            [*command, "--folder", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        while self._line() != "ready":
            pass

    def run(self, batch: int, images: int) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{batch} {images}\n")
        self.process.stdin.flush()
        while not (line := self._line()).startswith("{"):
            pass
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended with {self.process.wait()}")
        return line.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--encoder", default="clip_vit_b_32", choices=sorted(OPEN_CLIP))
    parser.add_argument("--images", type=int, default=64, help="images a measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        peer_process(arguments.peer, arguments.encoder, arguments.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        exporting = [sys.executable, "-c", "import sys; from pathlib import Path; from tests.benchmarks.bench_serving "]
        exporting[-1] += "import export_models; export_models(sys.argv[1], Path(sys.argv[2]))"
        subprocess.run([*exporting, arguments.encoder, temporary], check=True, stderr=subprocess.DEVNULL)
        peers = {name: Peer(name, arguments.encoder, Path(temporary)) for name in PEERS}
        rates: dict[tuple[str, int], list[float]] = {}
        memory: dict[str, float] = {}
        for round_number in range(arguments.rounds + 1):
            for batch in arguments.batches:
                for name, peer in peers.items():
                    measured = peer.run(batch, max(arguments.images, batch))
                    if round_number:  # the first warms up
                        rates.setdefault((name, batch), []).append(measured["rate"])
                    memory[name] = measured["gigabytes"]
        for peer in peers.values():
            peer.close()
    print(f"{arguments.encoder}, {HEIGHT}×{WIDTH}, {os.cpu_count()} cores, medians of {arguments.rounds} rounds")
    print(f"{'':<14}{'batch':>6}{'images/s':>10}{'lowest':>9}{'highest':>9}{'SavedModel is':>16}{'peak GB':>9}")
    for batch in arguments.batches:
        ours = statistics.median(rates["saved_model", batch])
        for name in PEERS:
            found = rates[name, batch]
            median = statistics.median(found)
            ratio = "" if name == "saved_model" else f"{ours / median:.2f}×"
            print(
                f"{name:<14}{batch:>6}{median:>10.1f}{min(found):>9.1f}{max(found):>9.1f}{ratio:>16}"
                f"{memory[name]:>9.2f}"
            )


if __name__ == "__main__":
    main()
