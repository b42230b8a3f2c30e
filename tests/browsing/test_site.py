"""The pages of `guie browse`, asked for by a client of their own."""

import io
import re
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline import cli
from pipeline.browsing import asked, command, pages, site
from pipeline.browsing.command import Options
from pipeline.browsing.pages import STATIC, Shown
from pipeline.retrieval import projection
from tests.browsing.drawn import COLOURS, embedded, random_gallery, run_folder
from tests.evaluation.tiny import MeanColour, save


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("browse")
    return root, *embedded(root)


@pytest.fixture(scope="module")
def client(folders):
    _, vectors, data = folders
    return site.make_site(command.open_shown(Options(vectors, str(data)))).test_client()


def page(client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.text


def ready(client, path: str) -> str:
    """A page of what is computed once."""
    for _ in range(100):
        if "<progress" not in (text := page(client, path)):
            return text
    raise AssertionError(f"{path} is not computed")


def items(text: str) -> list[int]:
    return [int(row) for row in re.findall(r'href="/item/(\d+)"', text)]


@pytest.mark.faults("hostile name")
def test_the_first_page_lists_every_image_once_and_escapes_names(client):
    text = page(client, "/")
    assert items(text) == list(range(7)) and "7 of 7 images" in text
    assert "blue &amp; &lt;b&gt;" in text and "<b>" not in text
    assert re.findall(r'class="faint">(\d)</span>', text) == ["3", "4"]  # of each class


def test_find_and_class_keep_what_they_name(client):
    assert items(page(client, "/?find=RED")) == [3, 4, 5, 6]
    assert items(page(client, "/?find=/0.PNG")) == [0, 3]
    assert items(page(client, "/?class=0")) == [0, 1, 2]
    assert items(page(client, "/?find=/0.png&class=1")) == [3]
    assert "0 of 7 images" in page(client, "/?find=%22%3E%3Cscript%3E&from=9")


def test_a_page_holds_what_fits_and_leads_on(client):
    client.set_cookie("fits", "6")
    try:
        first = page(client, "/")
        assert items(first) == list(range(6)) and 'rel="prev"' not in first
        following = re.search(r'rel="next" href="(.*?)"', first)[1]
        second = page(client, following)
        assert items(second) == [6] and 'rel="next"' not in second
        assert items(page(client, re.search(r'rel="prev" href="(.*?)"', second)[1])) == list(range(6))
        client.set_cookie("fits", "9" * 30)
        assert items(page(client, "/?from=99999999")) == [6]
    finally:
        client.delete_cookie("fits")


def test_an_item_shows_its_nearest_in_order_and_whose_class_they_are(client):
    text = page(client, "/item/0")
    order = items(text)
    assert order[:2] == [1, 2] and sorted(order) == [1, 2, 3, 4, 5, 6]
    assert text.count('<figure class="right"') == 2 and text.count('<figure class="wrong"') == 4
    assert text.count('.png, right"') == 2 and text.count('.png, wrong"') == 4  # in words, for who sees no frame
    assert text.count("✓") == 3 and text.count("✗") == 5  # the legend's too


def test_views_are_in_the_order_of_what_they_find(tmp_path):
    run = run_folder(tmp_path)
    client = site.make_site(command.open_shown(Options(run))).test_client()
    assert items(ready(client, "/?view=wrong")) == [5]  # the red query lies among the blue
    assert items(ready(client, "/?view=outliers")) == [5, 0, 1, 2, 3, 4]
    pairs = items(ready(client, "/?view=duplicates"))
    assert set(zip(pairs[::2], pairs[1::2], strict=True)) >= {(0, 1), (2, 3), (1, 4), (0, 5)}
    assert "<dd>0.00</dd>" in page(client, "/item/5") and "<dd>1.00</dd>" in page(client, "/item/4")
    assert set(items(page(client, "/item/5"))) == {0, 1, 2, 3}  # no query is a neighbour


def test_the_map_has_a_point_and_a_class_for_every_image(client):
    ready(client, "/map")
    body = client.get("/map/points").data
    x, y, labels = np.frombuffer(body[:28], "<f4"), np.frombuffer(body[28:56], "<f4"), np.frombuffer(body[56:], "<i4")
    assert labels.tolist() == [0] * 3 + [1] * 4 and min(x.min(), y.min()) >= 0 and max(x.max(), y.max()) <= 1
    assert abs(x[:3].mean() - x[3:].mean()) > 0.5
    assert client.get("/map/names").json["classes"] == list(COLOURS)


def test_the_map_marks_a_class_by_its_number_as_two_may_have_one_name(client):
    assert 'data-chosen="1"' in ready(client, "/map?class=1")
    for other in ("", "?class=2", "?class=x"):
        assert 'data-chosen="-1"' in page(client, f"/map{other}")


def test_the_map_is_pca_at_once_and_umap_where_it_is_asked_for(folders, monkeypatch):
    monkeypatch.setattr(pages, "method_of", lambda count: "UMAP")
    monkeypatch.setattr(projection, "_umap", lambda rows: np.arange(14.0).reshape(7, 2))
    client = site.make_site(command.open_shown(Options(folders[1], str(folders[2])))).test_client()
    assert 'href="/map?by=UMAP' in ready(client, "/map") and 'data-by="PCA"' in ready(client, "/map")
    assert 'data-by="UMAP"' in ready(client, "/map?by=UMAP") and 'href="/map?by=PCA"' in page(client, "/map?by=UMAP")
    x = np.frombuffer(client.get("/map/points?by=UMAP").data[:28], "<f4")
    np.testing.assert_allclose(x, np.arange(7) / 6, atol=1e-6)
    assert client.get("/map?by=other").status_code == 404


def test_a_selection_is_listed_at_an_address_of_its_own(client):
    answer = client.post("/select", data="[5, 1, 5]")
    assert answer.status_code == 303 and items(page(client, answer.location)) == [1, 5]
    assert client.post("/select", data="[1,5]").location == answer.location
    assert client.get("/?selection=0123").status_code == 404


@pytest.mark.parametrize(
    "sent", ["", "{}", "[]", "[7]", "[-1]", '["a"]', "[[1]]", "[1e99]", "[9e999]", "[" * 9000, "\0"]
)
@pytest.mark.faults("hostile client")
def test_what_is_no_selection_is_refused_in_one_line(client, sent):
    answer = client.post("/select", data=sent)
    assert answer.status_code == 400 and answer.text.count("\n") == 1 and "list of rows" in answer.text


def test_pictures_are_small_jpegs_of_the_item_and_kept_by_their_version(client):
    answer = client.get("/image/6")
    with Image.open(io.BytesIO(answer.data)) as image:
        assert image.format == "JPEG" and max(image.size) == 224
        assert np.abs(np.asarray(image)[50, 50].astype(int) - COLOURS["red"]).max() < 8
    assert answer.headers["Cache-Control"] == "no-store"
    (address,) = re.findall(r'src="(/image/6\?v=\w+)"', page(client, "/"))
    assert "immutable" in client.get(address).headers["Cache-Control"]
    with Image.open(io.BytesIO(client.get("/large/6").data)) as image:
        assert max(image.size) == 300


@pytest.mark.parametrize(
    "path",
    ["/item/7", "/item/-1", "/image/99", "/item/x", "/../setup.py", "/nothing", "/?view=x", "/?class=2", "/query/x",
     "/query/x/image", "/static/base.html", "/static/../style.css", "/item/0/", "//item/0"],
)  # fmt: skip
def test_what_is_not_there_is_404(client, path):
    assert client.get(path).status_code == 404


def test_an_image_that_is_gone_stands_by_its_name():
    client = site.make_site(Shown(random_gallery(3, 2))).test_client()
    assert page(client, "/").count('<span class="missing">drawn ') == 3
    assert "not where it was" in page(client, "/item/0") and client.get("/image/0").status_code == 404


def test_two_embedders_stand_beside_each_other(folders, tmp_path):
    _, vectors, data = folders
    (tmp_path / "other").mkdir()
    (tmp_path / "other/items.csv").write_bytes((vectors / "items.csv").read_bytes())
    np.save(tmp_path / "other/embeddings.npy", np.arange(7, dtype="f")[::-1, None] ** 2)
    shown = command.open_shown(Options(vectors, str(data), beside=str(tmp_path / "other")))
    text = page(site.make_site(shown).test_client(), "/item/4")
    here, there = text.split("<h3>other</h3>")
    assert "<h3>vectors</h3>" in here and items(here)[:2] == [3, 5] and items(there)[:2] == [5, 6]


def test_a_run_beside_is_called_by_its_folder(tmp_path):
    run = run_folder(tmp_path)
    other = run.rename(tmp_path / "first")
    shutil.copytree(other, tmp_path / "second")
    shown = command.open_shown(Options(other, beside=str(tmp_path / "second")))
    assert "<h3>second</h3>" in page(site.make_site(shown).test_client(), "/item/0")


@pytest.fixture(scope="module")
def searching(tmp_path_factory):
    """A client whose vectors are those of its embedder."""
    root = tmp_path_factory.mktemp("searching")
    embedder = save(MeanColour(), root / "embedder")
    _, data = embedded(root)
    assert cli.main(["embed", str(embedder), str(data), "--out", str(root / "found")]) == 0
    return site.make_site(command.open_shown(Options(root / "found", str(data), embedder=str(embedder)))).test_client()


def sent(client, data: bytes, name: str = "a.png"):
    return client.post("/search", data={"image": (io.BytesIO(data), name)})


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (50, 40), colour).save(file, "PNG")
    return file.getvalue()


def test_a_picture_finds_what_is_like_it(searching):
    answer = sent(searching, png((230, 30, 30)), "<i>.png")
    assert answer.status_code == 303
    text = page(searching, answer.location)
    assert sorted(items(text)[:4]) == [3, 4, 5, 6] and "&lt;i&gt;.png" in text
    with Image.open(io.BytesIO(searching.get(f"{answer.location}/image").data)) as image:
        assert image.format == "JPEG" and image.size == (50, 40)


@pytest.mark.faults("bomb")
def test_pictures_that_are_none_or_too_large_are_refused_in_one_line(searching):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    for data in (b"", b"GIF89a", b"<svg/>", b"\xff\xd8\xff", png((1, 2, 3))[:-30], bomb, b"PK\3\4" * 99):
        answer = sent(searching, data)
        assert answer.status_code == 400 and answer.text.count("\n") == 1 and "expected" in answer.text, data
    answer = sent(searching, b"\0" * (asked.MOST_BYTES + 1))
    assert answer.status_code == 413 and "at most 16 MB" in answer.text
    assert searching.post("/search", data=b"zz", content_type="multipart/form-data; boundary=q").status_code == 400
    assert searching.post("/search", data={"image": "text"}).status_code == 400


def test_without_an_embedder_of_these_vectors_no_picture_is_taken(client, folders):
    root, vectors, data = folders
    assert 'id="drop"' not in page(client, "/") and "--embedder" in sent(client, png((1, 2, 3))).text
    embedder = save(MeanColour(), root / "embedder")
    other = site.make_site(command.open_shown(Options(vectors, str(data), embedder=str(embedder)))).test_client()
    assert 'id="drop"' in page(other, "/")
    answer = sent(other, png((1, 2, 3)))
    assert answer.status_code == 400 and "vectors of 12, those here have 3" in answer.text


def test_bad_input_ends_in_one_line(folders, tmp_path, capsys):
    _, vectors, data = map(str, folders)
    (tmp_path / "items.csv").write_text("key,source,class\na,b,c\n")
    np.save(tmp_path / "embeddings.npy", np.zeros((2, 4), "f"))
    for argv, said in (
        ([str(tmp_path / "none"), data], "guie embed"),
        ([str(tmp_path), data], "one vector for each row"),
        ([vectors], "run that was scored"),
        ([vectors, str(tmp_path / "gone")], "gone"),
        ([vectors, data, "--port", "99999999"], "--port"),
        ([vectors, data, "--beside", str(tmp_path)], "one vector for each row"),
        ([vectors, data, "--embedder", str(tmp_path / "none")], "--embedder"),
    ):
        assert cli.main(["browse", *argv]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


def test_scripts_and_styles_are_served_as_they_are(client):
    for name, kind in STATIC.items():
        answer = client.get(f"/static/{name}")
        assert answer.content_type.startswith(kind) and len(answer.text) > 500
    assert "function guieMap" in client.get("/static/map.js").text
