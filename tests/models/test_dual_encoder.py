"""Both towers of a CLIP or SigLIP: unit vectors, the cache key of their embeddings, class embeddings."""

import copy
import gzip
from dataclasses import replace

import numpy as np
import pytest

from pipeline.config import Encoder, ImageTextModel
from pipeline.errors import BadInput
from pipeline.models.dual_encoder import CLASSES_A_PART, DualEncoder, class_embeddings
from pipeline.models.text import tokenizers
from pipeline.models.weights import files
from pipeline.models.weights.variables import float_variables, without_prefix
from tests.models.tiny_dual_encoder import MODEL, clip_tiny

TEMPLATES = ["a photo of a {}.", "{}, painted"]


def test_images_and_texts_of_different_widths_are_bad_input():
    with pytest.raises(BadInput, match="agree"):
        DualEncoder(ImageTextModel(Encoder(name="clip_tiny"), text_architecture={"projection_dim": 32}))


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"name": "dinov2_small"}, "no text tower"),
        ({"name": "clip_tiny", "fit": "aspect"}, "clip_tiny wants squares"),
        ({"name": "clip_tiny", "pooling": "mean"}, "only encoder.pooling=projection"),
    ],
)
def test_features_that_are_not_compared_with_text_are_bad_input(encoder, message):
    with pytest.raises(BadInput, match=message):
        DualEncoder(ImageTextModel(Encoder(**encoder)))


def test_both_towers_give_unit_vectors_of_the_same_width():
    dual = clip_tiny()
    images = dual.encode_images(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8))
    texts = dual.encode_texts(["a", "", "😀👩‍👩‍👧 🇩🇪", "word " * 10_000], batch_size=3)
    assert images.shape == (3, 64) and texts.shape == (4, 64)
    for rows in (images, texts):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert dual.encode_texts([]).shape == (0, 64)


def test_identity_changes_with_the_embeddings_and_not_with_label_or_files(tmp_path):
    saved = tmp_path / "weights.safetensors"
    tensors = {f"image/{path}": v.numpy() for path, v in float_variables(clip_tiny().image.model).items()}
    text = float_variables(clip_tiny().text.model)
    files.write(saved, tensors | {f"text/{without_prefix(path)}": v.numpy() for path, v in text.items()}, {})
    copied = tmp_path / "vocabulary.gz"
    copied.write_bytes(tokenizers._open_clip_file().read_bytes())
    lines = gzip.decompress(copied.read_bytes()).split(b"\n")
    other = tmp_path / "other.gz"
    other.write_bytes(gzip.compress(b"\n".join([lines[0], lines[2], lines[1], *lines[3:]])))

    first, encoder = clip_tiny().identity, MODEL.encoder
    same = ImageTextModel(replace(encoder, weights=f"file:{saved}"), str(copied), label="x", seed=1)
    assert DualEncoder(same).identity == first
    found = [DualEncoder(model).identity for model in (replace(MODEL, seed=1), replace(MODEL, vocabulary=str(other)))]
    quick = {"activation": "quick_gelu"}  # in no weight
    for config in (
        replace(MODEL, text_architecture=quick),
        replace(MODEL, encoder=replace(encoder, architecture=quick)),
        replace(MODEL, encoder=replace(encoder, patch_overlap_px=1)),
    ):
        found.append(changed(config=config).identity)
    darker = replace(clip_tiny().image.preprocess, mean=(0.4, 0.4, 0.4))
    found.append(changed(image=replace(clip_tiny().image, preprocess=darker)).identity)
    assert len({first, *found}) == len(found) + 1


def changed(**attributes) -> DualEncoder:
    """The tiny model with other attributes, not built anew."""
    dual = copy.copy(clip_tiny())
    vars(dual).pop("identity", None)
    vars(dual).update(attributes)
    return dual


def test_class_embeddings_are_the_slow_definition(tmp_path):
    names = ["dog", "house", "dog"]
    slow = []
    for name in names:
        rows = clip_tiny().encode_texts([template.replace("{}", name) for template in TEMPLATES])
        slow.append(rows.mean(axis=0) / np.linalg.norm(rows.mean(axis=0)))
    found = class_embeddings(clip_tiny(), names, TEMPLATES, tmp_path, batch_size=2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow, atol=1e-6)


def test_class_embeddings_are_encoded_once_for_each_class_templates_and_model(tmp_path, monkeypatch):
    asked = []
    encode = DualEncoder.encode_texts
    monkeypatch.setattr(
        DualEncoder, "encode_texts", lambda self, texts, size: asked.append(len(texts)) or encode(self, texts, size)
    )
    names = [f"class {number}" for number in range(CLASSES_A_PART + 1)]
    first = class_embeddings(clip_tiny(), names, TEMPLATES, tmp_path, 64)
    assert asked == [2 * CLASSES_A_PART, 2]  # a kill loses at most a part
    again = class_embeddings(clip_tiny(), [*names[:3], "new"], TEMPLATES, tmp_path, 64)
    assert asked[2:] == [2]
    np.testing.assert_array_equal(again[:3], first[:3])
    class_embeddings(clip_tiny(), names[:3], TEMPLATES[:1], tmp_path, 64)
    class_embeddings(DualEncoder(replace(MODEL, seed=1)), names[:3], TEMPLATES, tmp_path, 64)
    assert asked[3:] == [3, 6]
