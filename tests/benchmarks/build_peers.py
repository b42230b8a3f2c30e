"""The other ways to make shards that bench_build.py times; each prints `{"seconds": …, "images": …}`.

    python -m tests.benchmarks.build_peers plain|img2dataset PHOTOS OUT SIZE_PX PROCESSES

Imports are left out of the peers' seconds (TensorFlow's alone are two and more), guie's own start-up counts.
"""

import io
import json
import sys
import time
from pathlib import Path


def plain(photos: Path, out: Path, size_px: int) -> tuple[float, int]:
    """The script everybody writes: Pillow opens, resizes, saves; tf.train.Example; one process."""
    import tensorflow as tf
    from PIL import Image

    started = time.perf_counter()
    paths = sorted(photos.rglob("*.jpg"))
    with tf.io.TFRecordWriter(str(out / "train.tfrec")) as writer:
        for label, path in enumerate(paths):
            image = Image.open(path).convert("RGB")
            factor = size_px / min(image.size)
            if factor < 1:
                size = (round(image.width * factor), round(image.height * factor))
                image = image.resize(size, Image.Resampling.BICUBIC)
            file = io.BytesIO()
            image.save(file, "JPEG", quality=95)
            features = {
                "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[file.getvalue()])),
                "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return time.perf_counter() - started, len(paths)


def img2dataset(photos: Path, out: Path, size_px: int, processes: int) -> tuple[float, int]:
    """img2dataset on file:// addresses, its fastest output (webdataset), same size, quality and processes."""
    import pandas  # noqa: F401  its import is not its work
    from img2dataset import download

    paths = sorted(photos.rglob("*.jpg"))
    listed = out / "list.txt"
    listed.write_text("".join(f"file://{path}\n" for path in paths))
    started = time.perf_counter()
    download(
        url_list=str(listed), input_format="txt", output_folder=str(out / "shards"), output_format="webdataset",
        image_size=size_px, resize_mode="keep_ratio", resize_only_if_bigger=True, encode_quality=95,
        processes_count=processes, thread_count=16, number_sample_per_shard=-(-len(paths) // (2 * processes)),
    )  # fmt: skip
    seconds = time.perf_counter() - started
    stats = [json.loads(path.read_text()) for path in (out / "shards").glob("*_stats.json")]
    return seconds, sum(one["successes"] for one in stats)


if __name__ == "__main__":
    name, photos, out, size, count = sys.argv[1:]
    Path(out).mkdir(parents=True)
    if name == "plain":
        seconds, images = plain(Path(photos), Path(out), int(size))
    else:
        seconds, images = img2dataset(Path(photos), Path(out), int(size), int(count))
    print(json.dumps({"seconds": seconds, "images": images}))
