"""DATA of the command line: which images it names and how they are read."""

import io

import numpy as np
from PIL import Image

from pipeline.data import sources
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


def test_a_split_is_known_where_data_names_one(tmp_path):
    assert sources.split_of("cifar10,split=test:cifar") == "test" and sources.split_of("birds=photos/test") == "test"
    assert sources.split_of("photos") == sources.split_of("drawn:") == ""


def test_a_set_may_be_called_as_a_layout_is(tmp_path):
    jpeg(tmp_path / "photos" / "red" / "0.jpg", (200, 0, 0))
    (images,) = sources.open_data(f"cub200={tmp_path}/photos")
    assert images.name == "cub200" and len(images.items) == 1
