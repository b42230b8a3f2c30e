"""COMMAND  vectors of `guie embed` + their images → a local web page: look through them, click one, see its nearest.

guie browse VECTORS_DIR DATA [--host 127.0.0.1] [--port 8000]
VECTORS_DIR/embeddings.npy, VECTORS_DIR/items.csv and the images they came from → http://127.0.0.1:8000/
"""

import csv
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np

from pipeline.data import sources
from pipeline.errors import BadInput, reason
from pipeline.pages import pictures
from pipeline.pages.pictures import Figure
from pipeline.pages.render import render
from pipeline.retrieval.search import nearest
from tfrecords.sources import Item

ITEMS_A_PAGE, NEIGHBOURS, THUMBNAIL_PX = 60, 24, 224
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
    with server(options) as listening:
        print(f"browse: http://{options.host}:{listening.server_address[1]}/ (Ctrl-C ends it)", flush=True)
        try:
            listening.serve_forever()
        except KeyboardInterrupt:
            print("browse: ended")


def server(options: Options) -> ThreadingHTTPServer:
    """A server that listens and does not serve yet.

    Raises BadInput: no vectors there, a table of another length, no such data, an address that is taken or wrong.
    """
    handler = type("Handler", (_Handler,), {"gallery": open_gallery(options.vectors, options.data)})
    try:
        return ThreadingHTTPServer((options.host, options.port), handler)
    except (OSError, OverflowError) as error:
        raise BadInput(f"cannot listen on {options.host}:{options.port} ({error}): choose another --port") from None


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
        return thumbnail(item, THUMBNAIL_PX) if item else None

    def _send(self, body: bytes, kind: str = "text/html; charset=utf-8") -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: a page of pictures would be sixty lines."""


def list_page(gallery: Gallery, find: str, page: str) -> str:
    """Items in order, sixty a page; `find` keeps those whose class, source or key holds it."""
    wanted = find.lower()
    found = [row for row, entry in enumerate(gallery.rows) if any(wanted in each.lower() for each in entry)]
    pages = max(-(-len(found) // ITEMS_A_PAGE), 1)
    number = min(max(int(page) if page.isascii() and page.isdigit() else 1, 1), pages)
    shown = found[(number - 1) * ITEMS_A_PAGE : number * ITEMS_A_PAGE]
    figures = [_figure(gallery, row, gallery.rows[row][2]) for row in shown]
    counts = {"found": len(found), "total": len(gallery.rows), "page": number, "pages": pages}
    return render("browse_list.html", title="Images", find=find, figures=figures, **counts)


def item_page(gallery: Gallery, row: int) -> str:
    """One image and its nearest by Euclidean distance; a green frame is its class, a red one another."""
    key, source, name = gallery.rows[row]
    ids, distances = nearest(gallery.vectors[row][None], gallery.vectors, NEIGHBOURS + 1)
    near = [(i, d) for i, d in zip(ids[0].tolist(), distances[0].tolist(), strict=True) if i not in (row, -1)]
    neighbours = []
    for other, distance in near[:NEIGHBOURS]:
        kind = "hit" if gallery.classes[other] == gallery.classes[row] else "miss"
        neighbours.append(_figure(gallery, other, f"{distance:.3f} {gallery.rows[other][2]}", kind))
    title = f"{name} · {source} · {key}"
    return render("browse_item.html", title=title, query=_figure(gallery, row, name), neighbours=neighbours)


def _figure(gallery: Gallery, row: int, caption: str, kind: str = "") -> Figure:
    key, source, _ = gallery.rows[row]
    image = f"/image/{row}" if (source, key) in gallery.images else ""
    return Figure(image, f"{source} {key}", caption[:40], kind, f"/item/{row}")
