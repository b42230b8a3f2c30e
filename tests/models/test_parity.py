"""`guie import-weights --parity`: open_clip's towers (timm's DINOv3) and ours with converted weights."""

import numpy as np
import pytest
from PIL import Image

from pipeline import cli
from pipeline.errors import BadInput
from pipeline.models.parity import towers
from pipeline.models.weights import open_clip

pytest.importorskip("torch")
from tests.models import narrow_models as narrow


@pytest.mark.parametrize(
    ("name", "narrowed"),
    [
        ("clip_vit_b_32", narrow.narrow_clip(False)),
        ("clip_vit_b_32_openai", narrow.narrow_clip(True)),
        ("metaclip_2_vit_huge_patch14_224", narrow.narrow_metaclip2()),
        ("siglip_base_patch16_224", narrow.narrow_siglip(False)),
        ("siglip2_base_patch16_512", narrow.narrow_siglip(True)),
        ("pe_core_b_16_224", narrow.narrow_pe_core(True)),
        ("dinov3_small", narrow.narrow_dinov3(False)),
        ("dinov3_small_plus", narrow.narrow_dinov3(True)),
    ],
)
def test_every_block_of_both_towers_and_what_is_made_of_photographs_agree(name, narrowed, photographs):
    rows = towers.compare(name, narrowed=narrowed, photographs=photographs)
    text = [] if name.startswith("dinov3") else [("text", 2)]
    assert [(row.tower, row.blocks) for row in rows] == [("image", 3), ("photographs", 0), *text]
    assert max(row.error for row in rows) < 1e-5
    assert rows[1].differing == 0


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """JPEGs of several shapes."""
    folder, found = tmp_path_factory.mktemp("photographs"), []
    for number, (height, width) in enumerate([(97, 211), (300, 80), (64, 64)]):
        rows, columns = np.mgrid[:height, :width]
        scene = np.stack([128 + 100 * np.sin(rows / (5 + k) + columns / (9 - k)) for k in range(3)], axis=-1)
        found.append(folder / f"{number}.jpg")
        Image.fromarray(scene.astype(np.uint8)).save(found[-1])
    return found


@pytest.mark.slow
def test_vit_b_32_at_full_size_agrees_with_open_clip(capsys):
    """The command of docs/encoders.md on one model."""
    assert cli.main(["import-weights", "--parity", "clip_vit_b_32"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "1 models agree" in last and float(last.split()[-1]) < 1e-5


def test_parity_sees_a_single_wrong_tensor(monkeypatch):
    rules = open_clip.image_rules

    def swapped(family, architecture):
        found = rules(family, architecture)
        names = [name for name, _, _ in found]
        a, b = (names.index(f"encoder_block_1/attention/{part}/bias") for part in ("query", "value"))
        (to_a, of_a, how_a), (to_b, of_b, how_b) = found[a], found[b]
        found[a], found[b] = (to_b, of_a, how_a), (to_a, of_b, how_b)
        return found

    monkeypatch.setattr(open_clip, "image_rules", swapped)
    image, text = towers.compare("clip_vit_b_32", narrowed=narrow.narrow_clip(False))
    assert image.error > 1e-3 and text.error < 1e-5
    monkeypatch.setattr(towers, "compare", lambda name, photographs: [image, text])
    with pytest.raises(BadInput, match="expected at most"):
        towers.main(["clip_vit_b_32"])


def test_relative_error_counts_another_shape_and_nan_as_infinite():
    assert towers.relative_error(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == 0.5
    assert towers.relative_error(np.ones(3), np.ones(2)) == float("inf")
    assert towers.relative_error(np.array([np.nan]), np.ones(1)) == float("inf")
