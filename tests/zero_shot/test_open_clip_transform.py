"""Zero-shot sees an image as open_clip does: its own transform, the same embedding, on photographs of any shape."""

import numpy as np
import pytest
from PIL import Image

from pipeline.data import host_resize
from pipeline.data.preprocessing import prepare_all, resize_to_square
from pipeline.models.dual_encoder import DualEncoder
from pipeline.models.weights import files
from tests.models.logits_against_open_clip import imported, narrow_clip

pytest.importorskip("torch", reason="needs the extra clip")
TOLERANCE = 1e-4  # of any number of an embedding


def photographs(shared, count: int) -> list[np.ndarray]:
    """uint8 [H, W, 3] each, birds, products, landmarks and scenes; and of each a window of another shape."""
    paths = sorted(path for path in (shared / "data").rglob("*.jp*g") if path.stat().st_size > 5000)
    random, found = np.random.default_rng(0), []
    for i in np.linspace(0, len(paths) - 1, count).astype(int):
        whole = np.asarray(Image.open(paths[i]).convert("RGB"))
        height, width = (random.integers(40, length + 1) for length in whole.shape[:2])
        found += [whole, whole[:height, :width]]
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(open_clip's model, ours with its weights)"""
    open_clip = files.import_open_clip()
    theirs, ours = narrow_clip(open_clip)
    return theirs.eval(), imported(theirs, ours, tmp_path_factory.mktemp("clip"))


@pytest.mark.parametrize("mode", ["shortest", "squash"])  # CLIP's and SigLIP's
def test_embeddings_are_those_of_open_clips_own_transform(shared, both, mode):
    import torch
    from open_clip.transform import image_transform

    theirs, ours = both
    preprocess = ours.preprocess
    transform = image_transform(
        preprocess.image_size_px, False, preprocess.mean, preprocess.std, resize_mode=mode, interpolation="bicubic"
    )
    pictures = photographs(shared, 20)
    assert len({picture.shape for picture in pictures}) > 20
    with torch.no_grad():
        pixels = torch.stack([transform(Image.fromarray(picture)) for picture in pictures])
        expected = theirs.encode_image(pixels, normalize=True).numpy()
    if mode == "squash":
        squashed = [resize_to_square(each, type(preprocess)(32, preprocess.mean, preprocess.std)) for each in pictures]
        found = [ours.encode_images(np.stack(squashed))]
    else:
        ways = (resize_to_square, host_resize.resize)
        found = [ours.encode_images(np.stack([way(each, preprocess) for each in pictures])) for way in ways]
        found.append(embedded(ours, pictures))
    for each in found:
        assert np.abs(each - expected).max() < TOLERANCE


def embedded(ours: DualEncoder, pictures: list[np.ndarray]) -> np.ndarray:
    """By the graph that training, scoring and export share."""
    features = ours.image.model(prepare_all(pictures, ours.preprocess), training=False).numpy()
    return features / np.linalg.norm(features, axis=1, keepdims=True)
