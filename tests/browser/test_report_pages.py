"""Report and comparison in a real Chromium: no error, no request, both widths, the map by its keys."""

import pytest

from pipeline.pages import compare, compared, report
from tests.pages.test_report import make, run_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """report.html and compare.html of made runs."""
    root = tmp_path_factory.mktemp("pages")
    for name, seed in (("a", 0), ("b", 1)):
        make(root / name, seed)
    report.main(run_of(root / "a"))
    text = compare.page([compared.open_run(root / name, name) for name in "ab"])
    (root / "compare.html").write_text(text)
    return {"report": root / "a/report.html", "compare": root / "compare.html"}


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report", "compare"])
def test_a_page_fits_its_width_and_is_readable_in_both_schemes(page, written, name, scheme, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(written[name].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    contrast = page.evaluate(CONTRAST)
    assert contrast and min(contrast.values()) >= 4.5, contrast  # WCAG AA


# Contrast of the palette's colours for text to the page's own background.
CONTRAST = """() => {
  const style = getComputedStyle(document.documentElement), pen = document.createElement("canvas").getContext("2d");
  const light = (name) => {
    pen.fillStyle = style.getPropertyValue(name).trim();
    const part = (at) => parseInt(pen.fillStyle.slice(at, at + 2), 16) / 255;
    const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * linear(part(1)) + 0.7152 * linear(part(3)) + 0.0722 * linear(part(5));
  };
  const paper = light("--paper"), found = {};
  for (const name of ["--ink", "--faint", "--accent", "--right", "--wrong"]) {
    const pair = [light(name), paper].sort((a, b) => b - a);
    found[name] = (pair[0] + 0.05) / (pair[1] + 0.05);
  }
  return found;
}"""


def test_the_map_shows_an_image_by_the_keyboard_and_its_class(page, written):
    page.goto(written["report"].as_uri())
    canvas = page.locator("canvas")
    canvas.scroll_into_view_if_needed()
    canvas.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(100)
    said = page.locator("[aria-live=polite]").text_content()
    assert "photos" in said and ".jpg" in said
    shown = "[...document.querySelectorAll('#map-here div')].map((each) => each.style.backgroundImage).join('')"
    assert page.evaluate(shown).startswith('url("data:image/jpeg')


def test_on_paper_the_config_is_whole_and_the_contents_are_left_out(page, written):
    page.goto(written["report"].as_uri())
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible() and page.locator("h1").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") in (
        "rgb(255, 255, 255)",
        "rgba(0, 0, 0, 0)",
    )
