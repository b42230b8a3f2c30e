"""The page of `guie bench` in a real Chromium: no error, no request, both widths, readable in both schemes."""

import pytest

from tests.browser.test_report_pages import CONTRAST
from tests.drawn_benchmarks import draw_uned
from tests.protocols.made import bench, coarse, stores

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """bench.html of all eight domains, by an embedder with a long name."""
    root, folder = tmp_path_factory.mktemp("uned"), tmp_path_factory.mktemp("an_embedder_whose_name_is_quite_long_" * 2)
    draw_uned(root, pictures=False)
    stores(folder, "uned", root, coarse)
    bench("uned", folder, root, root / "out")
    return root / "out/bench.html"


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_width_and_is_readable_in_both_schemes(page, written, scheme, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(written.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    contrast = page.evaluate(CONTRAST)
    assert contrast and min(contrast.values()) >= 4.5, contrast  # WCAG AA
    assert page.locator("table").count() == 3 and page.locator("svg").count() == 2
    for chart in page.locator("svg").all():
        assert chart.bounding_box()["width"] <= width
