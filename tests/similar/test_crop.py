"""Crops: the box that is chosen, its pixels, a detector's boxes at the picture's scale."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import BadInput
from pipeline.similar import crop
from pipeline.similar.config import Crop


def corners(*rows):
    return np.array(rows, float)


@pytest.mark.parametrize(
    ("found", "scores", "options", "expected"),
    [
        (corners([30, 30, 70, 70], [45, 45, 60, 60]), [0.9, 0.99], {}, (30, 30, 70, 70)),  # the larger
        (corners([0, 0, 40, 100], [45, 45, 60, 60]), [0.9, 0.5], {}, (45, 45, 60, 60)),  # near the centre
        (corners([30, 30, 70, 70]), [0.2], {}, None),  # unsure
        (corners([30, 30, 70, 70]), [0.2], {"min_score": 0.1}, (30, 30, 70, 70)),
        (corners([40, 40, 60, 60]), [0.9], {"padding": 0.5}, (30, 30, 70, 70)),
        (corners([40, 30, 60, 70]), [0.9], {"padding": 0.5}, (30, 10, 70, 90)),  # of its width, of its height
        (corners([10, 10, 90, 90]), [0.9], {"padding": 0.5}, (0, 0, 100, 100)),  # clipped to the picture
        (corners([-50, -50, 150, 150]), [0.9], {}, (0, 0, 100, 100)),
        (corners([50, 50, 50, 50], [200, 0, 300, 9]), [0.9, 0.9], {}, None),  # empty; outside
        (corners([np.nan, 0, 10, 10], [40, 40, 60, np.inf]), [0.9, 0.9], {}, None),
        (corners([40, 40, 60, 60], [41, 41, 61, 61]), [0.5, 0.8], {}, (41, 41, 61, 61)),  # same area: the surer
        (np.zeros((0, 4)), [], {}, None),
    ],
)
def test_the_largest_sure_box_near_the_centre_is_chosen(found, scores, options, expected):
    assert crop.choose_box(found, np.array(scores), 100, 100, **options) == expected


def test_a_box_of_a_wide_picture_is_measured_by_width_and_height():
    assert crop.choose_box(corners([60, 10, 80, 70]), np.array([0.9]), 100, 200) == (60, 10, 80, 70)
    assert crop.choose_box(corners([10, 40, 30, 60]), np.array([0.9]), 100, 200) is None
    assert crop.choose_box(corners([-9, -9, 300, 300]), np.array([0.9]), 100, 200) == (0, 0, 200, 100)


def test_a_crop_is_the_pixels_of_the_box_or_the_whole_image():
    image = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)
    np.testing.assert_array_equal(crop.crop_image(image, (1, 2, 4, 5)), image[2:5, 1:4])
    assert crop.crop_image(image, None) is image


def test_a_detectors_boxes_are_scaled_from_its_square_to_the_picture(detector_folder: Path):
    detector = crop.Detector(Crop(str(detector_folder), min_score=0.01, centre_share=1.0))
    picture = np.random.default_rng(0).integers(0, 255, (90, 150, 3)).astype(np.uint8)
    square = np.asarray(Image.fromarray(picture).resize((64, 64), Image.Resampling.BILINEAR), np.float32)
    found = detector.model.predict(square[None], verbose=0)
    count = int(found["num_detections"][0])
    yxyx = found["boxes"][0, :count]
    expected = crop.choose_box(
        np.stack([yxyx[:, 1] * 150 / 64, yxyx[:, 0] * 90 / 64, yxyx[:, 3] * 150 / 64, yxyx[:, 2] * 90 / 64], axis=1),
        found["confidence"][0, :count],
        90,
        150,
        0.01,
        1.0,
    )
    assert count > 0 and expected is not None and detector.find_box(picture) == expected
    with pytest.raises(BadInput, match=r"crop\.detector 'no_such_detector'"):
        crop.Detector(Crop("no_such_detector"))
