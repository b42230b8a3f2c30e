"""The application of `guie browse`, by Flask: which page answers which address, and what a wrong request is told."""

from functools import partial
from http import HTTPStatus
from typing import Any

import flask
from werkzeug.exceptions import HTTPException

from pipeline.browsing import asked
from pipeline.browsing.pages import LARGE_PX, THUMBNAIL_PX, Pages, Shown, line
from pipeline.errors import BadInput
from pipeline.guards.masked import for_screen


def make_site(shown: Shown) -> flask.Flask:
    """The application, without its door: see `door.Door`."""
    site = flask.Flask("guie", static_folder=None)
    site.config |= {"MAX_CONTENT_LENGTH": asked.MOST_BYTES, "MAX_FORM_PARTS": 4}
    site.url_map.merge_slashes = False
    pages = Pages(shown)
    for rule, page in (
        ("/", pages.grid),
        ("/item/<number>", pages.item),
        ("/image/<number>", partial(pages.image, side_px=THUMBNAIL_PX)),
        ("/large/<number>", partial(pages.image, side_px=LARGE_PX)),
        ("/map", pages.map),
        ("/map/points", pages.points),
        ("/map/names", pages.names),
        ("/text", pages.text),
        ("/query/<name>", pages.query),
        ("/query/<name>/image", pages.query_image),
        ("/static/<name>", pages.static),
    ):
        site.add_url_rule(rule, rule, page)
    site.add_url_rule("/favicon.ico", "icon", lambda: ("", HTTPStatus.NO_CONTENT))  # asked for unbidden
    site.add_url_rule("/search", "search", pages.search, methods=["POST"])
    site.add_url_rule("/select", "select", pages.select, methods=["POST"])
    site.register_error_handler(HTTPException, _refused)
    site.register_error_handler(BadInput, _bad)
    return site


def _bad(error: BadInput) -> flask.Response:
    """What was sent is wrong; or images behind a URL cannot be reached now."""
    sent = flask.request.method == "POST"
    return line(for_screen(str(error)), HTTPStatus.BAD_REQUEST if sent else HTTPStatus.BAD_GATEWAY)


def _refused(error: HTTPException) -> Any:
    if error.response is not None or (error.code or 500) < 400:
        return error  # a redirect
    said = {404: "there is no such page", 413: f"expected a picture of at most {asked.MOST_BYTES // 2**20} MB"}
    return line(said.get(error.code or 500, error.name), error.code or 500)
