"""Images of mixed sizes in full batches: the export's second signature gives the served graph's embeddings."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export import saved_model
from pipeline.config import Embedder, Encoder, Export, Run
from pipeline.data import sources
from pipeline.evaluation import embed, embedders
from pipeline.evaluation.halves import Halves
from pipeline.models import embedder as models
from tests.evaluation.tiny import jpeg, run
from tests.training.tiny_runs import VIT

SIZES = ((1, 1), (1, 97), (150, 3), (32, 32), (32, 24), (40, 56), (56, 40), (201, 77), (300, 420))  # width, height
IMAGES = (".jpg", ".jpeg", ".png")


def exported(folder: Path, fit: str = "squash", **options: object) -> Path:
    """A small ViT of random weights at 32 px, as `guie export` writes it."""
    encoder = Encoder("clip_tiny", image_size_px=32, architecture=VIT, fit=fit)
    sizes = options.pop("sizes_px", [])
    run = Run(encoder=encoder, embedder=Embedder(sizes_px=sizes), export=Export(**options))
    saved_model.save_embedder(run, models.build(run), folder)
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """Images of many sizes, grey ones, one with a palette, one that is damaged."""
    root = tmp_path_factory.mktemp("mixed") / "mixed"
    for number, size in enumerate(SIZES):
        for kind, mode in (("red", "RGB"), ("grey", "L")):
            jpeg(root / kind / f"{number}.jpg", (200, 60 + number, 40), size=size, mode=mode)
    jpeg(root / "red" / "palette.png", (200, 20, 20), size=(77, 41), mode="P")
    (root / "red" / "broken.jpg").write_bytes((root / "red" / "8.jpg").read_bytes()[:900])
    return root


@pytest.mark.parametrize(
    "options",
    [
        {"fit": "crop", "flip_average": True},
        {"fit": "pad", "sizes_px": [32, 48]},
        {"fit": "aspect", "sizes_px": [32, 48], "flip_average": True},
        {"crops": 6, "flip_average": True, "sizes_px": [16, 32]},
    ],
)
def test_both_halves_give_the_served_graphs_embeddings_in_the_same_order(options, mixed, tmp_path):
    whole = embedders.load(str(exported(tmp_path / "model", **options)))
    assert whole.halves
    found = [
        embed.embed_sets(each, sources.open_data(str(mixed)), 4, "embed", {})
        for each in (whole, replace(whole, halves=None))
    ]
    assert found[0].keys == found[1].keys and len(found[0].keys) == 2 * len(SIZES) + 1
    assert found[0].rejects == found[1].rejects and found[0].rejects[0][1] == "red/broken.jpg"
    near = 1e-3 if options.get("fit") == "aspect" else 1e-5  # Pillow's levels are seldom others
    for row in ("embedder", "raw_pixels"):
        np.testing.assert_allclose(found[0].vectors[row], found[1].vectors[row], atol=near)
    assert np.ptp(found[0].vectors["embedder"], axis=0).max() > 1e-2  # of different images


def test_real_photographs_of_all_sizes_are_embedded_as_by_the_served_graph(shared, tmp_path):
    photographs = []
    for folder in ("landmarks", "products10k", "CUB_200_2011", "imagenet", "cifar10", "captions"):
        found = sorted(path for path in (shared / "data" / folder).rglob("*") if path.suffix.lower() in IMAGES)
        photographs += found[:: len(found) // 30]
    assert len({Image.open(path).size for path in photographs}) >= 20
    for number, path in enumerate(photographs):
        target = tmp_path / "photographs" / "any" / f"{number:04d}{path.suffix.lower()}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    whole = embedders.load(str(exported(tmp_path / "model", flip_average=True)))
    data = sources.open_data(str(tmp_path / "photographs"))
    both = (whole, replace(whole, halves=None))
    halves, served = (embed.embed_sets(each, data, 32, "embed", {}).vectors["embedder"] for each in both)
    assert len(halves) == len(photographs)
    np.testing.assert_allclose(halves, served, atol=1e-5)


def test_mixed_sizes_fill_batches_and_large_inputs_go_in_small_ones(mixed, tmp_path, monkeypatch):
    whole = embedders.load(str(exported(tmp_path / "model", sizes_px=[16, 32])))
    batches = []

    def recorded(pixels):
        batches.append({name: values.shape for name, values in pixels.items()})
        return whole.halves.embed(pixels)

    assert whole.halves.values == 3 * (16 * 16 + 32 * 32)
    submission = replace(whole, halves=Halves(whole.halves.resize, recorded, whole.halves.values))
    data = sources.open_data(str(mixed))  # 19 images that can be read
    embed.embed_sets(submission, data, 8, "embed", {})
    assert [each["pixels_16"][0] for each in batches] == [8, 8, 3]
    assert batches[0] == {"pixels_16": (8, 1, 16, 16, 3), "pixels_32": (8, 1, 32, 32, 3)}
    batches.clear()
    monkeypatch.setattr(embed, "MAX_BATCH_VALUES", 5 * whole.halves.values)
    embed.embed_sets(submission, data, 8, "embed", {})
    assert [each["pixels_16"][0] for each in batches] == [5, 5, 5, 4]


def test_the_command_embeds_and_scores_an_export_and_one_without_halves_alike(mixed, embedder, tmp_path, capsys):
    assert embedders.load(str(embedder)).halves is None  # anybody's
    model = exported(tmp_path / "model")
    assert run(capsys, "embed", model, mixed, "--out", tmp_path / "out")[0] == 0
    served = replace(embedders.load(str(model)), halves=None)
    expected = embed.embed_sets(served, sources.open_data(str(mixed)), 64, "embed", {})
    np.testing.assert_allclose(np.load(tmp_path / "out/embeddings.npy"), expected.vectors["embedder"], atol=1e-5)
    rows = list(csv.DictReader((tmp_path / "out/items.csv").open()))
    assert [row["key"] for row in rows] == expected.keys
    assert list(expected.vectors) == ["embedder", "raw_pixels"]
    code, text, _ = run(capsys, "score", model, "--index", mixed)
    assert code == 0 and "1 image(s) left out" in text
