"""Crop first: the box of what a picture shows, from a KerasHub object detector. The choice of the box is pure."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.errors import BadInput, reason
from pipeline.models.weights.variables import weights_digest
from pipeline.similar.config import Crop

Box = tuple[int, int, int, int]  # left, top, right, bottom in px; right and bottom excluded


def choose_box(
    boxes: np.ndarray,
    scores: np.ndarray,
    height: int,
    width: int,
    min_score: float = 0.3,
    centre_share: float = 0.5,
    padding: float = 0.0,
) -> Box | None:
    """The largest box near the picture's centre, padded and clipped to the picture.

    Args:
        boxes: float [N, 4], left, top, right, bottom in px; may reach beyond the picture.
        scores: float [N]. height, width: of the picture, px.
        centre_share: the box's middle must lie within this share of width and height around the centre.
        padding: share of the box's width and height that is added at every side.

    None where no box is sure and central enough: the whole picture is then the object. Ties in area go to the
    surer box.

    >>> boxes = np.array([[0, 0, 30, 100], [40, 40, 60, 60], [30, 30, 70, 70]])
    >>> choose_box(boxes, np.array([0.9, 0.9, 0.8]), 100, 100)
    (30, 30, 70, 70)
    """
    best: tuple[float, float, Box] | None = None
    for (left, top, right, bottom), score in zip(boxes.tolist(), scores.tolist(), strict=True):
        if not np.isfinite([left, top, right, bottom, score]).all() or score < min_score:
            continue
        left, right = max(left, 0.0), min(right, float(width))
        top, bottom = max(top, 0.0), min(bottom, float(height))
        if right - left < 1 or bottom - top < 1:
            continue
        off_x = abs((left + right) / 2 - width / 2) / width
        off_y = abs((top + bottom) / 2 - height / 2) / height
        if max(off_x, off_y) > centre_share / 2:
            continue
        pad_x, pad_y = padding * (right - left), padding * (bottom - top)
        padded = (
            max(0, int(np.floor(left - pad_x))),
            max(0, int(np.floor(top - pad_y))),
            min(width, int(np.ceil(right + pad_x))),
            min(height, int(np.ceil(bottom + pad_y))),
        )
        area = (right - left) * (bottom - top)
        if best is None or (area, score) > best[:2]:
            best = (area, score, padded)
    return best[2] if best else None


def crop_image(image: np.ndarray, box: Box | None) -> np.ndarray:
    """The part of uint8 [H, W, 3] within the box; the whole image for None."""
    if box is None:
        return image
    left, top, right, bottom = box
    return np.ascontiguousarray(image[top:bottom, left:right])


class Detector:
    """A KerasHub object detector with its weights.

    Attributes:
        made_by: JSON-able; all that decides a box but the picture.

    Raises BadInput: no such preset, or it cannot be fetched.
    """

    def __init__(self, crop: Crop):
        import keras_hub

        self.crop = crop
        try:
            self.model = keras_hub.models.ObjectDetector.from_preset(crop.detector)
        except Exception as error:  # KerasHub's, Kaggle's and those of requests
            local = "" if Path(crop.detector).exists() else "; expected a KerasHub preset or its folder"
            raise BadInput(f"crop.detector {crop.detector!r}: {reason(error)}{local}") from None
        self.made_by = [asdict(crop), weights_digest(self.model.weights)]
        # The detector is given squares of its converter's size, so boxes need no more than scaling back.
        converter = self.model.preprocessor.image_converter
        size = getattr(converter, "image_size", None)
        self.sides = (int(size[0]), int(size[1])) if size else (crop.image_size_px, crop.image_size_px)

    def find_box(self, image: np.ndarray) -> Box | None:
        """uint8 [H, W, 3] → the box to crop, None for the whole picture."""
        import keras

        height, width = image.shape[:2]
        rows, columns = self.sides
        square = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR), np.float32)
        found = self.model.predict(square[None], verbose=0)
        count = int(np.asarray(found["num_detections"])[0])
        corners = np.asarray(
            keras.utils.bounding_boxes.convert_format(
                np.asarray(found["boxes"], np.float32),
                source=self.model.bounding_box_format,
                target="xyxy",
                height=rows,
                width=columns,
            )
        )[0, :count]
        scaled = corners * np.array([width / columns, height / rows] * 2, np.float32)
        scores = np.asarray(found["confidence"])[0, :count]
        return choose_box(scaled, scores, height, width, self.crop.min_score, self.crop.centre_share, self.crop.padding)
