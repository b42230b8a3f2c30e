"""DATA of the command line: which images it names and how they are read."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from pipeline.data import sources
from pipeline.errors import BadInput
from tests.evaluation.tiny import jpeg
from tfrecords import pixels


def test_a_folder_whose_name_looks_like_a_glob_is_a_folder(tmp_path):
    jpeg(tmp_path / "photos [2024]" / "red" / "0.jpg", (200, 0, 0))
    (images,) = sources.open_data(str(tmp_path / "photos [2024]"))
    assert images.name == "photos [2024]" and [item.key for item in images.items] == ["red/0.jpg"]


def test_an_image_is_read_with_16_bits_as_8_and_turned_upright():
    file = io.BytesIO()
    Image.fromarray(np.full((4, 6), 65535, np.uint16)).save(file, "PNG")
    assert pixels.read(file.getvalue()).min() == 255
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(file, "JPEG", exif=exif)
    assert pixels.read(file.getvalue()).shape == (6, 4, 3)


def test_options_of_a_layout_stand_behind_its_root(tmp_path):
    (images,) = sources.open_data("drawn:?classes=3&images_per_class=2&image_size_px=8")
    assert images.name == "drawn" and len(images.items) == 6 and sources.split_of("drawn:?classes=3") == ""
    (named,) = sources.open_data("mine=drawn:?classes=2&images_per_class=2&image_size_px=8")
    assert named.name == "mine" and len(named.items) == 4
    assert sources.split_of("cifar10:cifar?split=test") == "test" and sources.split_of("photos/test") == "test"
    folder = tmp_path / "cifar?split=test"  # a folder's own name
    folder.mkdir()
    assert sources.split_of(f"cifar10:{folder}") == ""
    assert sources.files_of("drawn:?classes=2").beside != sources.files_of("drawn:?classes=3").beside


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("drawn:?classes", "expected ROOT?OPTION=VALUE"),
        ("drawn:?classes=2&classes=3", "each once, got 'classes=3'"),
        ("drawn:?classes=many", "option classes expects int, got 'many'"),
        ("drawn:?clases=2", "has no option 'clases'"),
        ("products10k:nowhere?iconic=1", "option iconic expects true or false, got '1'"),
        ("cifar10:nowhere?split=dev", "option split expects train, test or all, got 'dev'"),
    ],
)
def test_a_wrong_option_is_one_line(spec, said):
    for opens in (sources.open_data, sources.expect_data):
        with pytest.raises(BadInput, match=re.escape(said)):
            opens(spec)
