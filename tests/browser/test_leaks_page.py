"""The page of `guie leaks` in a real Chromium: both widths, both schemes, every picture shown."""

import pytest

from pipeline import cli
from tests.browser.test_report_pages import CONTRAST
from tests.leaks.test_command import FOUND, photograph, write
from tests.tfrecords.damage import encoded

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("leaks")
    for seed in range(130):  # more pairs than a page shows
        write(root / "mine" / "cup" / f"a long name of a picture {seed}.jpg", encoded(photograph(seed, 200, 150)))
        copy = photograph(seed, 200, 150).resize((160, 120)) if seed < 110 else photograph(seed, 200, 150)
        write(root / "theirs" / "mug" / f"{seed}.jpg", encoded(copy))
    (root / "mine/cup/cut.jpg").write_bytes(b"no image")
    words = ["leaks", f"{root}/mine", "--against", f"{root}/theirs", "--out", f"{root}/out"]
    assert cli.main(words) == FOUND
    return root / "out" / "leaks.html"


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pairs_stand_side_by_side_at_any_width(page, written, scheme, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(written.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert min(page.evaluate(CONTRAST).values()) >= 4.5
    assert page.locator("h2").all_text_contents() == [
        "The same file: 20 pairs", "Nearly the same picture, by perceptual hash: 110 pairs"
    ]  # fmt: skip
    assert "100 of them" in page.locator("body").inner_text()
    for pair in page.locator(".pair").all()[:3]:
        left, right = (each.bounding_box() for each in pair.locator("img").all())
        assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"] and left["width"] >= 100
    page.locator(".pair").last.scroll_into_view_if_needed()
    page.wait_for_function("Array.from(document.images).slice(-2).every(each => each.naturalWidth > 0)")
    assert page.locator("img").count() == 2 * (20 + 100)
