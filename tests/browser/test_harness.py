"""The harness itself: an error on a page and a request to elsewhere are seen."""

import pytest

pytestmark = pytest.mark.slow


def test_errors_and_requests_to_elsewhere_are_seen(page):
    page.set_content("<h1>here</h1><script>throw new Error('thrown')</script>")
    assert page.inner_text("h1") == "here" and page.wrong == ["thrown"]
    page.evaluate("fetch('http://elsewhere.invalid/').catch(() => 0)")
    assert "asked http://elsewhere.invalid/" in page.wrong
    page.wait_for_timeout(200)  # the console's line about it
    page.wrong.clear()
