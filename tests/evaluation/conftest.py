"""Fixtures of the room: an embedder as a SavedModel, a folder of images."""

import pytest

from tests.evaluation.tiny import MeanColour, jpeg, save


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return save(MeanColour(), tmp_path_factory.mktemp("embedder"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two colours that are told apart, in many sizes, modes and kinds of file."""
    root = tmp_path_factory.mktemp("things") / "things"
    for name, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        for number in range(4):
            jpeg(root / name / f"{number}.jpg", colour, size=(20 + 13 * number, 31 - 5 * number))
        jpeg(root / name / "palette.png", colour, mode="P")
        jpeg(root / name / "alpha.png", colour, mode="RGBA")
        jpeg(root / name / "cmyk.jpg", colour, mode="CMYK")
        jpeg(root / name / "large.webp", colour, size=(301, 199))
    return root
