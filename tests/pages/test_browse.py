"""`guie browse`: pages over the vectors of `guie embed`, asked for as a browser would."""

import io
import re
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from pipeline import cli
from pipeline.data.sources import ImageSet
from pipeline.pages import browse

COLOURS = {"blue & <b>": (20, 30, 220), "red": (220, 20, 20)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Seven pictures of two classes, and vectors in which each class lies together."""
    root = tmp_path_factory.mktemp("browse")
    rows, vectors = ["key,source,class"], []
    for label, (name, colour) in enumerate(COLOURS.items()):
        for number in range(3 + label):
            path = root / "pictures" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (300, 200), colour).save(path)
            rows.append(f"{name}/{number}.png,pictures,{name}")
            vectors.append([1.0 - label, float(label), 0.01 * number])
    (root / "vectors").mkdir()
    np.save(root / "vectors/embeddings.npy", np.array(vectors, "f"))
    (root / "vectors/items.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def get(folders):
    options = browse.Options(folders / "vectors", str(folders / "pictures"), port=0)
    listening = browse.server(options)
    threading.Thread(target=listening.run, daemon=True).start()

    def ask(path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{listening.effective_port}{path}", timeout=10) as answer:
            return answer.read()

    return ask


@pytest.mark.faults("hostile name")
def test_the_first_page_lists_every_image_once_and_escapes_names(get):
    page = get("/").decode()
    assert [page.count(f'href="/item/{row}"') for row in range(7)] == [1] * 7
    assert "7 of 7 images" in page and "blue &amp; &lt;b&gt;" in page and "<b>" not in page


def test_find_keeps_what_holds_the_words(get):
    page = get("/?find=RED").decode()
    assert "4 of 7 images" in page and '"/item/3"' in page and '"/item/0"' not in page
    assert "0 of 7 images" in get("/?find=%22%3E%3Cscript%3E&page=9").decode()


def test_an_item_shows_its_nearest_in_order_and_whose_class_they_are(get):
    page = get("/item/0").decode()
    order = [page.index(f'"/item/{row}"') for row in (0, 1, 2, 3)]
    assert order == sorted(order)
    assert page.count('<figure class="right"') == 2 and page.count('<figure class="wrong"') == 4


def test_a_class_of_the_same_name_matches_within_its_label_space_alone(tmp_path, monkeypatch):
    rows = [("0", "a", "cat"), ("1", "a", "cat"), ("2", "b", "cat"), ("3", "c", "cat"), ("4", "d", "dog")]
    spaces = {"a": "", "b": "", "c": "one build", "d": "one build"}
    sets = [ImageSet(name, [], space) for name, space in spaces.items()]
    monkeypatch.setattr(browse.sources, "open_data", lambda spec: sets)
    (tmp_path / "items.csv").write_text("key,source,class\n" + "\n".join(map(",".join, rows)) + "\n5,d,cat\n")
    np.save(tmp_path / "embeddings.npy", np.arange(6, dtype=np.float32)[:, None])
    gallery = browse.open_gallery(tmp_path, "DATA")

    def kinds(row):
        page = browse.item_page(gallery, row).split("<h2>")[1]
        return dict(
            zip(re.findall(r"/item/(\d)", page), re.findall(r'<figure class="(right|wrong)"', page), strict=True)
        )

    assert kinds(0) == {"1": "right", "2": "wrong", "3": "wrong", "4": "wrong", "5": "wrong"}
    assert kinds(3) == {"5": "right", "0": "wrong", "1": "wrong", "2": "wrong", "4": "wrong"}


def test_pictures_are_small_jpegs_of_the_item(get):
    with Image.open(io.BytesIO(get("/image/6"))) as image:
        assert image.format == "JPEG" and max(image.size) == 224
        assert np.abs(np.asarray(image)[50, 50].astype(int) - COLOURS["red"]).max() < 8


@pytest.mark.parametrize("path", ["/item/7", "/item/-1", "/image/99", "/item/x", "/../setup.py", "/nothing"])
def test_what_is_not_there_is_404(get, path):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(path)


def test_bad_input_ends_in_one_line(folders, tmp_path, capsys):
    pictures = str(folders / "pictures")
    (tmp_path / "items.csv").write_text("key,source,class\na,b,c\n")
    np.save(tmp_path / "embeddings.npy", np.zeros((2, 4), "f"))
    for argv, said in (
        ([str(tmp_path / "none"), pictures], "guie embed"),
        ([str(tmp_path), pictures], "one vector for each row"),
        ([str(folders / "vectors"), str(tmp_path / "gone")], "gone"),
        ([str(folders / "vectors"), pictures, "--port", "99999999"], "--port"),
    ):
        assert cli.main(["browse", *argv]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
