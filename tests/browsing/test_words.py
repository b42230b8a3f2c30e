"""Images found by words: as both towers say, encoded once, offered only where there is a text tower."""

import numpy as np
import pytest

from pipeline.browsing import command, site, words
from pipeline.browsing.command import Options
from pipeline.browsing.gallery import open_gallery
from pipeline.data.preprocessing import resize_to_square
from pipeline.errors import BadInput
from tests.browsing.drawn import embedded
from tests.browsing.test_site import items, ready
from tests.models.tiny_dual_encoder import clip_tiny
from tfrecords import pixels


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr("pipeline.models.dual_encoder.DualEncoder", lambda model: clip_tiny())
    return clip_tiny()


def test_words_find_what_both_towers_say_and_images_are_encoded_once(tmp_path, tiny, monkeypatch):
    vectors, data = embedded(tmp_path)
    (data / "red/3.png").write_bytes(b"no picture any more")
    options = Options(vectors, str(data), text="clip_tiny", text_weights="none")
    client = site.make_site(command.open_shown(options)).test_client()
    shown = ready(client, "/text?q=a+red+<i>bird")
    gallery = open_gallery(vectors, str(data))
    images = [resize_to_square(pixels.read(gallery.images[row].read()), tiny.preprocess) for row in range(6)]
    cosines = tiny.encode_images(np.stack(images)) @ tiny.encode_texts(["a red <i>bird"])[0]
    found = items(shown)
    assert sorted(found) == list(range(6)) and (np.diff(cosines[found]) < 1e-5).all()  # equal pictures are equal
    assert f"{cosines.max():.3f} " in shown and "a red &lt;i&gt;bird" in shown and 'id="words"' in shown
    assert len(list((vectors / words.FOLDER).glob("*/*/vectors.npy"))) == 1
    monkeypatch.setattr(type(tiny), "encode_images", None)  # a second start encodes nothing
    again = site.make_site(command.open_shown(options)).test_client()
    assert items(ready(again, "/text?q=a+red+<i>bird")) == found


def test_without_a_text_tower_there_is_no_such_page(tmp_path):
    vectors, data = embedded(tmp_path)
    client = site.make_site(command.open_shown(Options(vectors, str(data)))).test_client()
    assert client.get("/text?q=bird").status_code == 404 and 'id="words"' not in client.get("/").text
    for name, said in (("efficientnet_b0", "no text tower"), ("clip_tin", "nearest: clip_tiny")):
        with pytest.raises(BadInput, match=said):
            command.open_shown(Options(vectors, str(data), text=name))


def test_a_text_tower_that_cannot_be_loaded_is_one_line_on_the_page(tmp_path, monkeypatch):
    def refuse(model):
        raise BadInput("weights are not there")

    monkeypatch.setattr("pipeline.models.dual_encoder.DualEncoder", refuse)
    vectors, data = embedded(tmp_path)
    options = Options(vectors, str(data), text="clip_tiny", text_weights="file:gone")
    answer = site.make_site(command.open_shown(options)).test_client().get("/text?q=bird")
    assert answer.status_code == 502 and answer.text == "weights are not there\n"
