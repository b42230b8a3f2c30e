"""`guie browse` in a real Chromium: by keys, by pointer, on a wide and on a narrow screen."""

import base64
import io
import re
import threading
import time

import numpy as np
import pytest
from PIL import Image

from pipeline import cli
from pipeline.browsing import command
from pipeline.browsing.command import Options
from pipeline.retrieval import projection
from tests.evaluation.tiny import MeanColour, save

pytestmark = pytest.mark.slow
COLOURS = {"blue": (20, 30, 220), "red": (220, 20, 20)}
EACH = 40  # pictures of a class: more than one page


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server of blue and red pictures, embedded by their colour; the same by another embedder beside them."""
    root = tmp_path_factory.mktemp("chromium")
    for name, colour in COLOURS.items():
        for number in range(EACH):
            path = root / "pictures" / name / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (60, 40), tuple(min(255, value + number) for value in colour)).save(path)
    embedder = save(MeanColour(), root / "embedder")
    vectors, data = root / "vectors", root / "pictures"
    assert cli.main(["embed", str(embedder), str(data), "--out", str(vectors)]) == 0
    (root / "beside").mkdir()
    (root / "beside/items.csv").write_bytes((vectors / "items.csv").read_bytes())
    np.save(root / "beside/embeddings.npy", np.random.default_rng(0).normal(size=(2 * EACH, 3)).astype("f"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "find_spec", lambda name: None)  # PCA: blue at one side, red at the other
        options = Options(vectors, str(data), beside=str(root / "beside"), embedder=str(embedder), port=0)
        listening = command.server(options)
        threading.Thread(target=listening.run, daemon=True).start()
        yield f"http://127.0.0.1:{listening.effective_port}"
        listening.close()


def until(page, holds: str) -> None:
    """Waits for a condition: `page.wait_for_function` needs an eval that the pages forbid."""
    ended = time.monotonic() + 10
    while time.monotonic() < ended:
        try:
            if page.evaluate(holds):
                return
        except Exception as error:  # Playwright's, which is not installed everywhere
            if "navigation" not in str(error):
                raise
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {holds}")


def focused(page) -> str:
    return page.evaluate("document.activeElement.getAttribute('href')")


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (30, 30), colour).save(file, "PNG")
    return file.getvalue()


def names(page) -> list[str]:
    """The classes of the first neighbours, as their captions say them."""
    return [text.split()[-1] for text in page.locator(".tiles figcaption").all_inner_texts()[:5]]


def test_keys_lead_through_the_grid_into_an_image_and_back(page, address):
    page.goto(address)
    shown = page.locator(".tiles a").count()
    across = page.evaluate("getComputedStyle(document.querySelector('.tiles')).gridTemplateColumns.split(' ').length")
    assert 2 * across <= shown < 2 * EACH and shown % across == 0  # whole rows that fit the window
    page.keyboard.press("ArrowRight")
    assert focused(page) == "/item/0"
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
    assert focused(page) == f"/item/{across}"
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/item/{across}")
    page.keyboard.press("ArrowRight")
    onward = focused(page)
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{onward}")
    page.keyboard.press("Escape")
    page.wait_for_url(f"**/item/{across}")
    page.keyboard.press("Escape")
    page.wait_for_url(f"{address}/")
    until(page, f"document.activeElement.getAttribute('href') === '/item/{across}'")
    for _ in range(shown - across):
        page.keyboard.press("ArrowRight")
    page.wait_for_url("**/?from=*#first")  # past the last: the next page, at its first
    until(page, f"document.activeElement.getAttribute('href') === '/item/{shown}'")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url("**/#last")
    until(page, f"document.activeElement.getAttribute('href') === '/item/{shown - 1}'")


def test_search_class_and_size_have_addresses_that_back_returns_to(page, address):
    page.goto(address)
    page.keyboard.press("/")
    page.keyboard.type("red/0")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?find=red*")
    assert page.locator(".tiles a").count() == 10 and "10 of 80 images" in page.inner_text("main")
    page.locator(".tiles a").nth(3).click()
    page.wait_for_url("**/item/*")
    assert set(names(page)) == {"red"} and page.locator("figure.right").count() >= 5
    page.go_back()
    page.wait_for_url("**/?find=red*")
    page.goto(address)
    page.get_by_role("link", name="blue", exact=True).click()
    page.wait_for_url("**/?class=*")
    assert page.inner_text("h1") == "All images: blue" and page.locator(".tiles a").count() <= EACH
    before = page.locator(".tiles img").first.bounding_box()["width"]
    shown = page.locator(".tiles a").count()
    page.locator("#size").focus()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    until(page, f"document.querySelector('.tiles img').getBoundingClientRect().width > {before} + 40")
    until(page, f"document.querySelectorAll('.tiles a').length < {shown}")  # as many as fit now
    until(page, "document.activeElement.id === 'size'")


def test_a_picture_that_is_dropped_pasted_or_chosen_finds_its_like(page, address):
    red, blue = png((200, 40, 30)), png((40, 50, 210))
    give = """([kind, data]) => {
      const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)), carried = new DataTransfer();
      carried.items.add(new File([bytes], "mine.png", {type: "image/png"}));
      const given = {bubbles: true, cancelable: true};
      document.body.dispatchEvent(kind === "drop" ? new DragEvent("drop", {dataTransfer: carried, ...given})
        : new ClipboardEvent("paste", {clipboardData: carried, ...given}));
    }"""
    for kind, data, expected in (("drop", red, "red"), ("paste", blue, "blue")):
        page.goto(address)
        page.evaluate(give, [kind, base64.b64encode(data).decode()])
        page.wait_for_url("**/query/*")
        assert names(page) == [expected] * 5 and page.inner_text("h1") == "mine.png"
        assert page.evaluate("document.querySelector('img.large').naturalWidth") == 30
    page.goto(address)
    page.set_input_files("#image", {"name": "red.png", "mimeType": "image/png", "buffer": red})
    page.wait_for_url("**/query/*")
    page.keyboard.press("Escape")
    page.wait_for_url(f"{address}/")
    page.set_input_files("#image", {"name": "no.png", "mimeType": "image/png", "buffer": b"no picture"})
    until(page, "document.querySelector('#said').textContent.includes('expected an image')")
    assert len(page.wrong) == 1 and "400" in page.wrong.pop()


def drawn(page):
    """The box of the map's canvas, once its points are there."""
    canvas = page.locator("#map canvas")
    canvas.wait_for()
    return canvas, canvas.bounding_box()


def test_a_lasso_on_the_map_lists_what_is_in_it(page, address):
    page.goto(f"{address}/map")
    _, box = drawn(page)
    middle, low = box["x"] + box["width"] / 2, box["y"] + box["height"]
    page.get_by_role("button", name="Draw around").click()
    page.mouse.move(middle, box["y"] + 2)
    page.mouse.down()
    for x, y in ((box["x"] + 2, box["y"] + 2), (box["x"] + 2, low - 2), (middle, low - 2)):
        page.mouse.move(x, y, steps=3)
    page.mouse.up()
    page.wait_for_url("**/?selection=*")
    assert page.inner_text("h1") == "Selection" and f"{EACH} of 80 images" in page.inner_text("main")
    assert len(set(names(page))) == 1
    page.go_back()
    page.wait_for_url("**/map")
    drawn(page)
    page.get_by_role("button", name="Select the images in view").click()
    page.wait_for_url("**/?selection=*")
    assert "80 of 80 images" in page.inner_text("main")


def test_the_map_goes_by_keys_wheel_and_pointer(page, address):
    page.goto(f"{address}/map?class=1")
    canvas, box = drawn(page)
    marked = page.get_by_label("Mark a class")
    assert marked.locator("option:checked").inner_text() == "red"
    marked.select_option("blue")
    canvas.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    tip = page.locator("#map canvas + div")
    assert tip.inner_text() in COLOURS and page.locator("#map p[aria-live]").inner_text() == tip.inner_text()
    assert "/image/" in tip.locator("div").first.evaluate("node => node.style.backgroundImage")
    before = canvas.screenshot()
    page.keyboard.press("+")
    page.wait_for_timeout(100)
    assert canvas.screenshot() != before
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.wheel(0, 300)
    canvas.focus()
    page.keyboard.press("0")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_url("**/item/*")
    page.keyboard.press("Escape")
    page.wait_for_url("**/map?class=1")


NAMELESS = """[...document.querySelectorAll("a, button, input, select")].filter((each) => each.type !== "hidden" &&
  !(each.textContent.trim() || each.ariaLabel || each.title || each.labels?.length ||
    each.querySelector("img[alt]:not([alt=''])"))).length"""
PAGES = ("/", "/?view=wrong", "/?view=outliers", "/?view=duplicates", "/item/3", "/map")


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844)])
def test_no_page_is_wider_than_the_screen_and_each_has_its_landmarks(page, address, width, height):
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme="dark")
    for path in PAGES:
        page.goto(address + path)
        until(page, "!document.querySelector('main progress')")
        page.wait_for_load_state("load")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path
        assert [page.locator(each).count() for each in ("main", "h1", "header nav[aria-label]")] == [1, 1, 1]
        assert page.evaluate(NAMELESS) == 0, path
        red, green, blue = map(
            int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]
        )
        assert max(red, green, blue) < 60, path
        if path == "/":
            assert page.evaluate("document.querySelector('.classes').open") is (width > 800)
        if path == "/item/3":
            assert page.locator("h3").all_inner_texts() == ["vectors", "beside"]


def test_pages_are_whole_without_scripts(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator(".tiles a").count() == 60
    page.locator("a[rel=next]").click()
    page.wait_for_url("**/?from=60")
    page.set_input_files("#image", {"name": "red.png", "mimeType": "image/png", "buffer": png((200, 40, 30))})
    page.locator("#drop button").click()
    page.wait_for_url("**/query/*")
    assert names(page) == ["red"] * 5
    context.close()
