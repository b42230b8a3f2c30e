"""COMMAND  vectors of `guie embed` + their images → a local web page: look through them, click one, see its nearest.

guie browse VECTORS_DIR DATA [--host 127.0.0.1] [--port 8000]
VECTORS_DIR/embeddings.npy, VECTORS_DIR/items.csv and the images they came from → http://127.0.0.1:8000/
"""

import base64
import csv
import hashlib
import ipaddress
import logging
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import waitress

from pipeline.data import sources
from pipeline.errors import BadInput, reason
from pipeline.guards.masked import for_screen
from pipeline.pages import pictures
from pipeline.pages.pictures import Figure
from pipeline.pages.render import render
from pipeline.retrieval.search import nearest
from tfrecords.sources import Item

ITEMS_A_PAGE, NEIGHBOURS, THUMBNAIL_PX = 60, 24, 224
LONGEST_NUMBER = 12  # digits of a row or a page
EVERYWHERE = ("", "0.0.0.0", "::")  # as --host: on all interfaces
# Of waitress. A connection that says nothing is closed; poll, because select ends at 1,024 files.
LIMITS: dict[str, Any] = {
    "threads": 4,
    "connection_limit": 500,
    "channel_timeout": 10,  # seconds
    "cleanup_interval": 2,  # seconds
    "asyncore_use_poll": True,
    "max_request_header_size": 2**14,
    "max_request_body_size": 2**16,
    "log_socket_errors": False,  # who closes the page early is no fault
    "ident": "guie",
}
SECURITY = [
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
thumbnail = lru_cache(maxsize=4096)(pictures.thumbnail)


@dataclass(frozen=True)
class Options:
    vectors: Path
    data: str
    host: str = "127.0.0.1"
    port: int = 8000


@dataclass(frozen=True)
class Gallery:
    """The vectors of `guie embed` with their images."""

    vectors: np.ndarray  # float32 [N, D]
    rows: list[tuple[str, str, str]]  # (key, source, class) of each vector
    classes: list[tuple[str, str]]  # `ImageSet.class_of` of each vector: two images match where it is equal
    images: dict[tuple[str, str], Item]  # by (source, key); one that is gone since is shown without a picture


def main(options: Options) -> None:
    """Serves until it is interrupted."""
    listening = server(options)
    host = f"[{options.host}]" if ":" in options.host else options.host
    print(f"browse: http://{host}:{listening.effective_port}/ (Ctrl-C ends it)", flush=True)
    listening.run()
    print("browse: ended")


def server(options: Options) -> Any:
    """A server of waitress's that listens and does not serve yet: `run` serves, on a few threads.

    Raises BadInput: no vectors there, a table of another length, no such data, an address that is taken or wrong.
    """
    gallery = open_gallery(options.vectors, options.data)
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listening = socket.create_server((options.host, options.port), family=family)
    except (OSError, OverflowError, ValueError) as error:
        raise BadInput(f"cannot listen on {options.host}:{options.port} ({error}): choose another --port") from None
    logging.getLogger("waitress").setLevel(logging.ERROR)  # it warns of queues that are full for a moment
    site = Site(gallery, options.host, listening.getsockname()[1])
    return waitress.create_server(site.answer, sockets=[listening], **LIMITS)


def open_gallery(folder: Path, spec: str) -> Gallery:
    """Raises BadInput; see `server`."""
    try:
        vectors = np.load(folder / "embeddings.npy", mmap_mode="r")
        with (folder / "items.csv").open(encoding="utf-8", newline="") as file:
            rows = [(row["key"], row["source"], row["class"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{folder}: expected embeddings.npy and items.csv of `guie embed` ({reason(error)})") from None
    if vectors.ndim != 2 or len(vectors) != len(rows) or not rows:
        found = f"{vectors.shape} and {len(rows)} rows"
        raise BadInput(f"{folder}: expected one vector for each row of items.csv, got {found}")
    sets = sources.open_data(spec)
    images = {(each.name, item.key): item for each in sets for item in each.items}
    spaces = {each.name: each for each in sets}
    classes = [spaces[source].class_of(name) if source in spaces else (source, name) for _, source, name in rows]
    return Gallery(vectors, rows, classes, images)


class Absent(Exception):
    """There is no such page."""


@dataclass(frozen=True)
class Site:
    """The pages, as WSGI asks for them."""

    gallery: Gallery
    host: str
    port: int

    def answer(self, asked: dict[str, Any], start: Callable) -> list[bytes]:
        """Every request, with one line of text where there is no page for it."""
        kind, headers = "text/plain; charset=utf-8", []
        if asked["REQUEST_METHOD"] not in ("GET", "HEAD"):
            status, body = HTTPStatus.METHOD_NOT_ALLOWED, b"expected GET or HEAD\n"
            headers = [("Allow", "GET, HEAD")]
        elif not self.is_mine(asked.get("HTTP_HOST", "")):
            # A page of another site whose name is made to lead here (DNS rebinding) would read the pictures.
            status, body = HTTPStatus.MISDIRECTED_REQUEST, b"expected the address that guie browse printed\n"
        else:
            try:
                status, (body, kind) = HTTPStatus.OK, self.page(asked["PATH_INFO"], asked["QUERY_STRING"])
            except Absent:
                status, body = HTTPStatus.NOT_FOUND, b"there is no such page\n"
            except BadInput as error:  # images behind a URL that cannot be reached now
                status, body = HTTPStatus.BAD_GATEWAY, f"{for_screen(str(error))}\n".encode()
        headers += [
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            *SECURITY,
            ("Content-Security-Policy", policy(body)),
        ]
        start(f"{status.value} {status.phrase}", headers)
        return [] if asked["REQUEST_METHOD"] == "HEAD" else [body]

    def is_mine(self, header: str) -> bool:
        """Whether a Host header is an address of this server; of one on all interfaces any number or its own name."""
        name, colon, port = header.lower().rpartition(":")
        if not colon or "]" in port:
            name, port = header.lower(), "80"
        plain = name.removeprefix("[").removesuffix("]")
        known = {"localhost", "127.0.0.1", "::1", self.host.lower()}
        if self.host in EVERYWHERE:
            known |= {socket.gethostname().lower(), plain if _is_address(plain) else ""}
        return port == str(self.port) and bool(plain) and plain in known

    def page(self, path: str, query: str) -> tuple[bytes, str]:
        """(body, type) of an address; Absent where there is none. `path`: bytes as Latin-1, as WSGI has them."""
        html = "text/html; charset=utf-8"
        kind, _, number = path.strip("/").partition("/")
        if not kind:
            asked = {name: values[-1] for name, values in parse_qs(query).items()}
            return list_page(self.gallery, asked.get("find", ""), asked.get("page", "1")).encode(), html
        row = _number(number, -1)
        if kind not in ("item", "image") or not 0 <= row < len(self.gallery.rows):
            raise Absent(path)
        if kind == "item":
            return item_page(self.gallery, row).encode(), html
        key, source, _ = self.gallery.rows[row]
        item = self.gallery.images.get((source, key))
        jpeg = thumbnail(item, THUMBNAIL_PX) if item else None
        if jpeg is None:
            raise Absent(path)
        return jpeg, "image/jpeg"


def policy(body: bytes) -> str:
    """The Content-Security-Policy of an answer: its own pictures, its own form, and the style that stands in it."""
    style = re.search(rb"<style>(.*?)</style>", body, re.DOTALL)
    allowed = f"; style-src 'sha256-{base64.b64encode(hashlib.sha256(style[1]).digest()).decode()}'" if style else ""
    return f"default-src 'none'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'{allowed}"


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def _number(text: str, otherwise: int) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER else otherwise


def list_page(gallery: Gallery, find: str, page: str) -> str:
    """Items in order, sixty a page; `find` keeps those whose class, source or key holds it."""
    wanted = find.lower()
    found = [row for row, entry in enumerate(gallery.rows) if any(wanted in each.lower() for each in entry)]
    pages = max(-(-len(found) // ITEMS_A_PAGE), 1)
    number = min(max(_number(page, 1), 1), pages)
    shown = found[(number - 1) * ITEMS_A_PAGE : number * ITEMS_A_PAGE]
    figures = [_figure(gallery, row, gallery.rows[row][2]) for row in shown]
    counts = {"found": len(found), "total": len(gallery.rows), "page": number, "pages": pages}
    return render("browse_list.html", title="Images", find=find, figures=figures, **counts)


def item_page(gallery: Gallery, row: int) -> str:
    """One image and its nearest by Euclidean distance; marked where they are of its class."""
    key, source, name = gallery.rows[row]
    ids, distances = nearest(gallery.vectors[row][None], gallery.vectors, NEIGHBOURS + 1)
    near = [(i, d) for i, d in zip(ids[0].tolist(), distances[0].tolist(), strict=True) if i not in (row, -1)]
    neighbours = []
    for other, distance in near[:NEIGHBOURS]:
        kind = "right" if gallery.classes[other] == gallery.classes[row] else "wrong"
        neighbours.append(_figure(gallery, other, f"{distance:.3f} {gallery.rows[other][2]}", kind))
    title = f"{name} · {source} · {key}"
    return render("browse_item.html", title=title, query=_figure(gallery, row, name), neighbours=neighbours)


def _figure(gallery: Gallery, row: int, caption: str, kind: str = "") -> Figure:
    key, source, _ = gallery.rows[row]
    image = f"/image/{row}" if (source, key) in gallery.images else ""
    return Figure(image, f"{source} {key}", caption[:40], kind, f"/item/{row}")
