"""`guie import-weights --parity`: open_clip's towers and KerasHub's with converted weights."""

import numpy as np
import pytest

from pipeline import cli
from pipeline.errors import BadInput
from pipeline.models import parity
from pipeline.models.weights import open_clip
from tests.models.narrow_models import narrow_clip, narrow_siglip

pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("name", "narrowed"),
    [
        ("clip_vit_b_32", narrow_clip(False)),
        ("clip_vit_b_32_openai", narrow_clip(True)),
        ("siglip_base_patch16_224", narrow_siglip(False)),
        ("siglip2_base_patch16_224", narrow_siglip(True)),
    ],
)
def test_both_towers_and_every_block_agree_with_open_clip(name, narrowed):
    rows = parity.compare(name, narrowed=narrowed)
    assert [(row.tower, row.blocks) for row in rows] == [("image", 3), ("text", 2)]
    assert max(row.error for row in rows) < 1e-5


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
    image, text = parity.compare("clip_vit_b_32", narrowed=narrow_clip(False))
    assert image.error > 1e-3 and text.error < 1e-5
    monkeypatch.setattr(parity, "compare", lambda name: [image, text])
    with pytest.raises(BadInput, match="expected at most"):
        parity.main(["clip_vit_b_32"])


def test_relative_error_counts_another_shape_and_nan_as_infinite():
    assert parity.relative_error(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == 0.5
    assert parity.relative_error(np.ones(3), np.ones(2)) == float("inf")
    assert parity.relative_error(np.array([np.nan]), np.ones(1)) == float("inf")
