"""Galleries to look through: seven drawn pictures of two classes, as `guie embed` and as a run leave them."""

from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.browsing.gallery import Gallery
from pipeline.evaluation import scored
from pipeline.evaluation.scored import Scored

COLOURS = {"blue & <b>": (20, 30, 220), "red": (220, 20, 20)}


def embedded(root: Path) -> tuple[Path, Path]:
    """(VECTORS_DIR, DATA) below `root`: three blue and four red pictures, each class together."""
    rows, vectors = ["key,source,class"], []
    for label, (name, colour) in enumerate(COLOURS.items()):
        for number in range(3 + label):
            path = root / "pictures" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (300, 200), colour).save(path)
            rows.append(f"{name}/{number}.png,pictures,{name}")
            vectors.append([1.0 - label, float(label), 0.01 * number])
    (root / "vectors").mkdir()
    np.save(root / "vectors/embeddings.npy", np.array(vectors, "f"))
    (root / "vectors/items.csv").write_text("\n".join(rows) + "\n")
    return root / "vectors", root / "pictures"


def run_folder(root: Path) -> Path:
    """A run that was scored: four images of an index, two queries of which the second finds another class."""
    for domain in ("index", "asked"):
        for name, colour in COLOURS.items():
            for number in range(2 if domain == "index" else 1):
                path = root / domain / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40, 30), colour).save(path)
    blue, red = COLOURS
    keys = [f"{blue}/0.png", f"{blue}/1.png", f"{red}/0.png", f"{red}/1.png", f"{blue}/0.png", f"{red}/0.png"]
    vectors = np.array([[0, 0], [0, 1], [5, 0], [5, 1], [0, 2], [1, 0]], "f")
    names = [blue, blue, red, red, blue, red]
    roles = ["index"] * 4 + ["query"] * 2
    run = root / "run"
    run.mkdir()
    found = Scored(vectors, keys, names, ["own"] * 6, roles, np.array([0, 0, 1, 1, 0, 1]))
    scored.write(run / scored.FOLDER, found)
    index, queries = (f"['own={root / each}']" for each in ("index", "asked"))
    (run / "config.yaml").write_text(f"name: run\nscore: {{index: {index}, queries: {queries}}}\n")
    return run


def random_gallery(images: int, classes: int, queries: int = 0, seed: int = 0) -> Gallery:
    """Random vectors in whole numbers, so that some are equal; the last `queries` images are looked for alone."""
    generator = np.random.default_rng(seed)
    vectors = generator.integers(-3, 4, (images, 4)).astype("f")
    labels = generator.integers(0, classes, images)
    keys = [str(number) for number in range(images)]
    names = [f"class {number}" for number in range(classes)]
    asked = np.arange(images - queries, images)
    return Gallery("random", vectors, keys, ["drawn"] * images, labels, names, {}, asked)
