"""STAGE  vectors of `guie embed` + their images → a local web page: look through them, click one, see its nearest.

guie browse VECTORS_DIR DATA [--host 127.0.0.1] [--port 8000]
VECTORS_DIR/embeddings.npy, VECTORS_DIR/items.csv and the images they came from → http://127.0.0.1:8000/
"""

import csv
import html
import io
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
from PIL import Image

from pipeline.data import sources
from pipeline.errors import BadInput
from pipeline.pages.report import STYLE
from pipeline.retrieval.search import nearest
from tfrecords import pixels
from tfrecords.sources import Item

GRID = "figure { vertical-align: top } figcaption { max-width: 120px; overflow-wrap: anywhere }"
ITEMS_A_PAGE, NEIGHBOURS, THUMBNAIL_PX = 60, 24, 224


@dataclass(frozen=True)
class Options:
    vectors: Path
    data: str
    host: str = "127.0.0.1"
    port: int = 8000


@dataclass(frozen=True)
class Gallery:
    """
    Attributes:
        vectors: float32 [N, D].
        rows: (key, source, class) of each vector.
        images: (source, key) → image; what is gone since is shown without a picture.
    """

    vectors: np.ndarray
    rows: list[tuple[str, str, str]]
    images: dict[tuple[str, str], Item]


def main(options: Options) -> None:
    """Serves until it is interrupted."""
    with server(options) as listening:
        print(f"browse: http://{options.host}:{listening.server_address[1]}/ (Ctrl-C ends it)", flush=True)
        try:
            listening.serve_forever()
        except KeyboardInterrupt:
            print("browse: ended")


def server(options: Options) -> ThreadingHTTPServer:
    """A server that listens and does not serve yet.

    Raises:
        BadInput: no vectors there, a table of another length, no such data, an address that cannot be used.
    """
    handler = type("Handler", (_Handler,), {"gallery": open_gallery(options.vectors, options.data)})
    try:
        return ThreadingHTTPServer((options.host, options.port), handler)
    except (OSError, OverflowError) as error:
        raise BadInput(
            f"cannot listen on {options.host}:{options.port} ({error}): choose another --port"
        ) from None


def open_gallery(folder: Path, spec: str) -> Gallery:
    """Raises BadInput; see `server`."""
    try:
        vectors = np.load(folder / "embeddings.npy", mmap_mode="r")
        with (folder / "items.csv").open(encoding="utf-8", newline="") as file:
            rows = [(row["key"], row["source"], row["class"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(
            f"{folder}: expected embeddings.npy and items.csv, as `guie embed` writes them ({error})"
        ) from None
    if vectors.ndim != 2 or len(vectors) != len(rows) or not rows:
        raise BadInput(
            f"{folder}: expected a vector a row of items.csv, got {vectors.shape} and {len(rows)} rows"
        )
    sets = sources.open_data(spec)
    return Gallery(vectors, rows, {(each.name, item.key): item for each in sets for item in each.items})


class _Handler(BaseHTTPRequestHandler):
    gallery: Gallery

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = {name: values[-1] for name, values in parse_qs(url.query).items()}
        kind, _, number = url.path.strip("/").partition("/")
        row = int(number) if number.isascii() and number.isdigit() else -1
        if not url.path.strip("/"):
            self._send(list_page(self.gallery, asked.get("find", ""), asked.get("page", "1")).encode())
        elif kind == "item" and 0 <= row < len(self.gallery.rows):
            self._send(item_page(self.gallery, row).encode())
        elif kind == "image" and 0 <= row < len(self.gallery.rows) and (jpeg := self._thumbnail(row)):
            self._send(jpeg, "image/jpeg")
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _thumbnail(self, row: int) -> bytes | None:
        key, source, _ = self.gallery.rows[row]
        item = self.gallery.images.get((source, key))
        return thumbnail(item) if item else None

    def _send(self, body: bytes, kind: str = "text/html; charset=utf-8") -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: a page of pictures would be sixty lines."""


@lru_cache(maxsize=4096)
def thumbnail(item: Item) -> bytes | None:
    """JPEG of at most 224 px, None where the image cannot be read any more."""
    try:
        image = Image.fromarray(pixels.read(item.read()))
    except (OSError, ValueError):
        return None
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=85)
    return jpeg.getvalue()


def list_page(gallery: Gallery, find: str, page: str) -> str:
    """Items in order, sixty a page; `find` keeps those whose class, source or key holds it."""
    wanted = find.lower()
    found = [row for row, entry in enumerate(gallery.rows) if any(wanted in each.lower() for each in entry)]
    pages = max(-(-len(found) // ITEMS_A_PAGE), 1)
    number = min(max(int(page) if page.isascii() and page.isdigit() else 1, 1), pages)
    shown = found[(number - 1) * ITEMS_A_PAGE : number * ITEMS_A_PAGE]
    links = [
        f'<a href="/?{html.escape(urlencode({"find": find, "page": to}))}">{word}</a>'
        for word, to in (("previous", number - 1), ("next", number + 1))
        if 1 <= to <= pages
    ]
    form = (
        f'<form><input name="find" value="{html.escape(find, quote=True)}" placeholder="class, source or key">'
        f"<button>Find</button> {len(found):,} of {len(gallery.rows):,} images, page {number} of {pages} "
        f"{' '.join(links)}</form>"
    )
    return _page("Images", form + "".join(_figure(gallery, row, gallery.rows[row][2]) for row in shown))


def item_page(gallery: Gallery, row: int) -> str:
    """One image and its nearest by Euclidean distance; a green frame is its class, a red one another."""
    key, source, name = gallery.rows[row]
    ids, distances = nearest(gallery.vectors[row][None], gallery.vectors, NEIGHBOURS + 1)
    near = [(i, d) for i, d in zip(ids[0].tolist(), distances[0].tolist(), strict=True) if i not in (row, -1)]
    figures = [
        _figure(gallery, other, f"{distance:.3f} {gallery.rows[other][2]}", _kind(gallery, row, other))
        for other, distance in near[:NEIGHBOURS]
    ]
    title = html.escape(f"{name} · {source} · {key}")
    return _page(
        title, f'<p><a href="/">all images</a></p>{_figure(gallery, row, name)}<hr>{"".join(figures)}'
    )


def _kind(gallery: Gallery, row: int, other: int) -> str:
    return "hit" if gallery.rows[row][1:] == gallery.rows[other][1:] else "miss"


def _figure(gallery: Gallery, row: int, caption: str, kind: str = "") -> str:
    key = html.escape(" ".join(gallery.rows[row][1:2] + gallery.rows[row][:1]), quote=True)
    return (
        f'<figure class="{kind}"><a href="/item/{row}"><img src="/image/{row}" alt="{key}" title="{key}" '
        f'loading="lazy"></a><figcaption>{html.escape(caption[:40])}</figcaption></figure>'
    )


def _page(title: str, body: str) -> str:
    head = f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{STYLE}{GRID}</style>'
    return f"{head}<h1>{title}</h1>{body}"
