"""`guie embed` of photographs of mixed sizes, against its own encoder in full batches and open_clip's usual loop.

    python -m tests.benchmarks.bench_embedding [--encoder clip_vit_b_32] [--images 1000] [--rounds 3]

The photographs are real ones (GUIE_DATA; drawn where there are none), scaled so that the longer side is 300 to 800 px,
as JPEG files of quality 90: no two hundred of them share a size. Every contender reads them from disk, resizes and
embeds them in batches of 64 (guie: into chunks on disk), but for the limit, which gets batches of resized pixels: what
the encoder can do at most.
Random weights of one architecture on both sides. Each contender has a process of its own with all cores; the model is
loaded and called before the clock starts; rounds go round the contenders, so that a slow moment meets all of them.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.benchmarks.bench_reading import PHOTOS
from tests.benchmarks.bench_serving import OPEN_CLIP

SHORTEST, LONGEST, BATCH, WARM_UP = 300, 800, 64, 2 * 64
CONTENDERS = {
    "guie": "guie embed",
    "limit": "limit: the same encoder on full batches of resized pixels",
    "grouped": "guie embed without the second signature: images of one size share a batch",
    "loop": "open_clip: transform of each image by Pillow, then the batch",
    "loader": "open_clip: a torch DataLoader, one worker a core",
}
AIM = 0.9


def write_photographs(data: Path, folder: Path, count: int) -> None:
    """Writes `count` JPEG files of drawn sizes into folder/any/."""
    draw = random.Random(0)
    kinds = ("landmarks", "products10k", "CUB_200_2011", "captions")  # the sets with photographs of 133 px and more
    found = sorted(path for kind in kinds for path in (data / kind).rglob("*.jpg"))
    draw.shuffle(found)
    (folder / "any").mkdir(parents=True)
    for number in range(count):
        if found:
            image = Image.open(found[number % len(found)]).convert("RGB")
        else:
            noise = np.random.default_rng(number).integers(0, 256, (40, draw.randint(30, 60), 3))
            image = Image.fromarray(noise.astype(np.uint8))
        scale = draw.randint(SHORTEST, LONGEST) / max(image.size)
        size = [max(1, round(side * scale)) for side in image.size]
        image.resize((size[0], size[1]), Image.Resampling.BICUBIC).save(folder / "any" / f"{number:05}.jpg", quality=90)


def export_model(encoder: str, folder: Path) -> None:
    """Writes the SavedModel of an embedder with random weights."""
    from export.saved_model import save
    from pipeline.config import Encoder, Run
    from pipeline.models.embedder import build

    embedder = build(Run(name="bench", run_dir=str(folder), encoder=Encoder(name=encoder)))
    save([(embedder.model, embedder.preprocess)], folder / "saved_model")


def guie_embedder(name: str, folder: Path) -> Callable[[Path], None]:
    """Embeds a folder of class folders as `guie embed` does after loading the model, into chunks on disk."""
    from dataclasses import replace

    from pipeline.data import sources
    from pipeline.evaluation import embedders
    from pipeline.evaluation.embedding.chunks import embed_into

    submission = embedders.load(str(folder / "saved_model"))
    if name == "grouped":
        submission = replace(submission, halves=None)

    def run(photographs: Path) -> None:
        listed = [(each.name, item) for each in sources.open_data(str(photographs)) for item in each.items]
        with tempfile.TemporaryDirectory(dir=folder) as out:
            embed_into(Path(out), submission, listed, batch_size=BATCH)

    return run


def limit_embedder(folder: Path) -> Callable[[Path], None]:
    """The encoder alone: embeds as many resized images as the folder has files, the first batch again and again."""
    from pipeline.evaluation import embedders

    halves = embedders.load(str(folder / "saved_model")).halves
    assert halves
    held: dict[str, np.ndarray] = {}

    def run(photographs: Path) -> None:
        files = sorted((photographs / "any").iterdir())
        if not held:
            resized = [halves.resize(np.asarray(Image.open(path))) for path in files[:BATCH]]
            held.update({name: np.stack([each[name] for each in resized]) for name in resized[0]})
        for first in range(0, len(files), BATCH):
            halves.embed({name: pixels[: len(files) - first] for name, pixels in held.items()})

    return run


class Files:
    """A torch map-style dataset: file by number → what open_clip's transform makes of it."""

    def __init__(self, files: list[Path], transform: Any):
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: int) -> Any:
        return self.transform(Image.open(self.files[item]))


def open_clip_embedder(name: str, encoder: str) -> Callable[[Path], None]:
    """open_clip as its users write it: its own transform, `encode_image` of a batch, torch eager."""
    import torch

    from pipeline.models.weights.files import import_open_clip

    model, _, transform = import_open_clip().create_model_and_transforms(OPEN_CLIP[encoder])
    model.eval()
    workers = (os.cpu_count() or 1) if name == "loader" else 0

    def run(photographs: Path) -> None:
        files = Files(sorted((photographs / "any").iterdir()), transform)
        with torch.inference_mode():
            for batch in torch.utils.data.DataLoader(files, batch_size=BATCH, num_workers=workers):
                model.encode_image(batch, normalize=True).numpy()

    return run


def contender_process(name: str, encoder: str, folder: Path) -> None:
    """Warms up, then reads lines from stdin and answers each with the rate of one pass over the photographs."""
    if name in ("loop", "loader"):
        run = open_clip_embedder(name, encoder)
    else:
        from pipeline.quiet import import_quietly  # as the commands start: allocator and oneDNN as theirs

        import_quietly("pipeline.evaluation.embedding.chunks")
        run = limit_embedder(folder) if name == "limit" else guie_embedder(name, folder)
    run(folder / "warm_up")
    print("ready", flush=True)
    count = len(list((folder / "photographs" / "any").iterdir()))
    for _ in sys.stdin:
        worked, started = os.times(), time.perf_counter()
        run(folder / "photographs")
        seconds, after = time.perf_counter() - started, os.times()
        processor = sum(after[:4]) - sum(worked[:4])  # with the workers that have ended
        print(json.dumps({"rate": count / seconds, "processor_ms": 1000 * processor / count}), flush=True)


class Contender:
    """One contender's process."""

    def __init__(self, name: str, encoder: str, folder: Path):
        self.process = subprocess.Popen(
            [*_this(), "--contender", name, "--encoder", encoder, "--folder", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._answer("ready")

    def run(self) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self._answer("{"))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self, start: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(start):
                return line
        raise SystemExit(f"{self.process.args} ended with {self.process.wait()}")


def _this() -> list[str]:
    return [sys.executable, "-m", "tests.benchmarks.bench_embedding"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--photos", type=Path, default=Path(PHOTOS), help="folder of the real images (default GUIE_DATA)"
    )
    parser.add_argument("--encoder", default="clip_vit_b_32", choices=sorted(OPEN_CLIP))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--contender", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        contender_process(options.contender, options.encoder, options.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_photographs(options.photos, folder / "photographs", options.images)
        write_photographs(options.photos, folder / "warm_up", WARM_UP)
        exporting = "import sys; from pathlib import Path; from tests.benchmarks.bench_embedding import export_model; "
        exporting += "export_model(sys.argv[1], Path(sys.argv[2]))"
        command = [sys.executable, "-c", exporting, options.encoder, temporary]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        contenders = {name: Contender(name, options.encoder, folder) for name in options.only}
        rounds = [{name: contender.run() for name, contender in contenders.items()} for _ in range(options.rounds)]
        for contender in contenders.values():
            contender.close()
    report(options, rounds)


def report(options: argparse.Namespace, rounds: list[dict[str, dict[str, float]]]) -> None:
    """Prints medians; ratios are taken within a round, then their median."""
    cores = len(os.sched_getaffinity(0))
    print(f"{options.encoder}, {options.images:,} photographs of {SHORTEST}–{LONGEST} px, batches of {BATCH}, "
          f"{cores} cores, medians of {options.rounds} rounds")  # fmt: skip
    print(f"{'images/s':>9} {'range':>13} {'processor ms/image':>19}  guie embed is … times as fast")
    for name in options.only:
        rates = [each[name]["rate"] for each in rounds]
        work = statistics.median(each[name]["processor_ms"] for each in rounds)
        ratio = statistics.median(each[options.only[0]]["rate"] / each[name]["rate"] for each in rounds)
        aim = f" (aim ≥ {AIM})" if name == "limit" else ""
        extent = f"{min(rates):.1f}–{max(rates):.1f}"
        print(f"{statistics.median(rates):9.1f} {extent:>13} {work:19.1f}  {ratio:.2f}×{aim}  {CONTENDERS[name]}")


if __name__ == "__main__":
    main()
