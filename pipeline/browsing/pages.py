"""The pages of `guie browse`: a method answers an address, so that back returns to where one was."""

import json
from dataclasses import dataclass
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any

import flask
import numpy as np

from pipeline.browsing import findings, listing
from pipeline.browsing.asked import Embedder, Kept, Picture
from pipeline.browsing.figures import Figures
from pipeline.browsing.findings import Findings, Once
from pipeline.browsing.gallery import Beside, Gallery
from pipeline.browsing.listing import Wanted
from pipeline.browsing.words import LONGEST, Words
from pipeline.errors import BadInput
from pipeline.pages import pictures
from pipeline.pages.pictures import Figure
from pipeline.pages.render import distance, render
from pipeline.retrieval.projection import method_of

NEIGHBOURS, PAIRS_A_PAGE = 24, 30
THUMBNAIL_PX, LARGE_PX = 224, 1024
STATIC = {
    "style.css": "text/css",
    "browse.css": "text/css",
    "browse.js": "text/javascript",
    "map.js": "text/javascript",
}


@dataclass(frozen=True)
class Shown:
    """Everything that the pages are made of."""

    gallery: Gallery
    beside: Beside | None = None
    embedder: Embedder | None = None  # None: no picture can be dropped
    words: Words | None = None  # None: no text tower


def line(said: str, status: int) -> flask.Response:
    """An answer of plain text."""
    return flask.Response(f"{said}\n", status, content_type="text/plain; charset=utf-8")


class Pages:
    """Each method answers an address."""

    def __init__(self, shown: Shown):
        self.gallery, self.beside, self.embedder = shown.gallery, shown.beside, shown.embedder
        self.words = shown.words
        self.figures = Figures(self.gallery)
        self.findings = Once(partial(findings.find, self.gallery))
        methods = ["PCA"] if method_of(len(self.gallery.keys)) == "PCA" else ["PCA", "UMAP"]  # the quick one first
        self.layouts = {name: Once(partial(findings.layout, self.gallery, name)) for name in methods}
        self.queries: Kept[Picture] = Kept(64)
        self.selections: Kept[np.ndarray] = Kept(64)
        self.thumbnail = lru_cache(maxsize=4096)(self._thumbnail)
        self.every = listing.classes_of(self.gallery, np.arange(len(self.gallery.keys)))

    def grid(self) -> Any:
        """The grid, in a view's order."""
        values = flask.request.args
        wanted = Wanted(
            values.get("view", "all"),
            listing.number(values.get("class", ""), -1),
            values.get("find", ""),
            values.get("selection", ""),
            listing.number(values.get("from", ""), 0),
        )
        if wanted.view not in listing.VIEWS or wanted.label >= len(self.gallery.classes):
            flask.abort(404)
        selection = self.selections.get(wanted.selection) if wanted.selection else None
        if wanted.selection and selection is None:
            return line("this selection is gone: draw it again on the map", HTTPStatus.NOT_FOUND)
        found = self.findings.get() if wanted.view != "all" else None
        if wanted.view != "all" and found is None:
            return self._wait(listing.VIEWS[wanted.view], wanted.view, self.findings)
        if wanted.view == "duplicates" and found is not None:
            return self._pairs(wanted, found)
        order = listing.order_of(self.gallery, wanted.view, found)
        rows = listing.kept(self.gallery, order, wanted.find, selection)
        plain = wanted.view == "all" and not wanted.find and selection is None
        classes, count = self.every if plain else listing.classes_of(self.gallery, rows)
        if wanted.label >= 0:
            rows = rows[self.gallery.labels[rows] == wanted.label]
        step = min(
            max(listing.number(flask.request.cookies.get("fits", ""), listing.USUAL), listing.FEWEST), listing.MOST
        )
        start = min(wanted.start, max(len(rows) - 1, 0))
        figures = [
            self.figures.of(row, self.figures.caption(row, wanted.view, found))
            for row in rows[start : start + step].tolist()
        ]
        return self._page(
            "browse_list.html",
            view=wanted.view,
            title=listing.VIEWS[wanted.view] if selection is None else "Selection",
            wanted=wanted,
            figures=figures,
            found=len(rows),
            start=start,
            step=step,
            classes=classes,
            class_count=count,
            chosen=self.gallery.classes[wanted.label] if wanted.label >= 0 else "",
        )

    def item(self, number: str) -> Any:
        """One image large, and its nearest; with `beside` those of both embedders."""
        row = self._row(number)
        found = self.findings.get(0) if self.findings.progress == 1 else None
        precision = found.precisions[row] if found else float("nan")
        columns: list[tuple[str, list[Figure] | None]] = [
            (
                self.gallery.name,
                self.figures.neighbours(row, self.gallery.near(self.gallery.vectors[row], NEIGHBOURS, row)),
            )
        ]
        if self.beside:
            near = self.beside.near(row, NEIGHBOURS)
            columns.append((self.beside.other.name, None if near is None else self.figures.neighbours(row, near)))
        label = int(self.gallery.labels[row])
        return self._page(
            "browse_item.html",
            view="",
            title=self.gallery.class_of(row),
            key=self.gallery.keys[row],
            source=self.gallery.sources[row],
            large=f"/large/{row}?v={self.gallery.digest}" if row in self.gallery.images else "",
            address=Wanted(label=label).address(),
            mates=int(np.sum(self.gallery.labels == label)),
            label=label,
            precision=None if np.isnan(precision) else float(precision),
            columns=columns,
            judged=True,
        )

    def query(self, name: str) -> Any:
        """The nearest of a picture that was dropped."""
        picture = self.queries.get(name)
        if picture is None:
            return line("this picture is gone: drop it again", HTTPStatus.NOT_FOUND)
        near = self.gallery.near(picture.vector, NEIGHBOURS)
        figures = [self.figures.of(row, f"{distance(far)} {self.gallery.class_of(row)}") for row, far in near]
        return self._page(
            "browse_item.html",
            view="",
            title=picture.name or "Your picture",
            key="",
            source="your picture",
            large=f"/query/{name}/image",
            address="",
            mates=0,
            label=-1,
            precision=None,
            columns=[(self.gallery.name, figures)],
            judged=False,
        )

    def text(self) -> Any:
        """The images that fit some words best, where there is a text tower."""
        asked_for = flask.request.args.get("q", "").strip()[:LONGEST]
        if self.words is None or not asked_for:
            return line("expected words, and a server with --text", HTTPStatus.NOT_FOUND)
        ready = self.words.ready.get()
        if ready is None:
            return self._wait("Vectors of the images, to be found by words", "", self.words.ready)
        near = self.words.near(ready, asked_for, NEIGHBOURS)
        figures = [self.figures.of(row, f"{cosine:.3f} {self.gallery.class_of(row)}") for row, cosine in near]
        return self._page("browse_text.html", title=asked_for, view="", figures=figures)

    def query_image(self, name: str) -> Any:
        picture = self.queries.get(name) or flask.abort(404)
        return flask.Response(
            picture.jpeg, content_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"}
        )

    def image(self, number: str, side_px: int) -> Any:
        """A picture of an item as JPEG. The web browser keeps it by `?v=`, the digest of the vectors."""
        row = self._row(number)
        jpeg = self.thumbnail(row, side_px) if side_px == THUMBNAIL_PX else self._thumbnail(row, side_px)
        if jpeg is None:
            flask.abort(404)
        known = flask.request.args.get("v") == self.gallery.digest
        kept = "private, max-age=86400, immutable" if known else "no-store"
        return flask.Response(jpeg, content_type="image/jpeg", headers={"Cache-Control": kept})

    def map(self) -> Any:
        """The page of the map; its script asks for the points."""
        method, layout = self._layout()
        if layout.get() is None:
            return self._wait(f"Map by {method}", "map", layout)
        chosen = listing.number(flask.request.args.get("class", ""), -1)
        return self._page(
            "browse_map.html",
            view="map",
            title="Map",
            method=method,
            methods=list(self.layouts),
            count=len(self.gallery.keys),
            label=chosen if chosen < len(self.gallery.classes) else -1,
        )

    def points(self) -> Any:
        """float32 x, then float32 y, then int32 class of all images, little-endian."""
        places = self._layout()[1].get(60)
        if places is None:
            return line("the map is not there yet", HTTPStatus.SERVICE_UNAVAILABLE)
        columns = [places[:, 0].astype("<f4"), places[:, 1].astype("<f4"), self.gallery.labels.astype("<i4")]
        return flask.Response(b"".join(each.tobytes() for each in columns), content_type="application/octet-stream")

    def _layout(self) -> tuple[str, Once[np.ndarray]]:
        method = flask.request.args.get("by", "PCA")
        if method not in self.layouts:
            flask.abort(404)
        return method, self.layouts[method]

    def names(self) -> Any:
        said = {"classes": self.gallery.classes, "version": self.gallery.digest}
        body = json.dumps(said, ensure_ascii=True)
        return flask.Response(body, content_type="application/json")

    def select(self) -> Any:
        """Rows as JSON → the address of a list of them. Raises BadInput."""
        try:
            rows = np.array(json.loads(flask.request.get_data(cache=False)), np.int64)
        except (ValueError, TypeError, OverflowError, RecursionError):
            rows = np.zeros((0, 0), np.int64)
        if rows.ndim != 1 or not len(rows) or rows.min() < 0 or rows.max() >= len(self.gallery.keys):
            raise BadInput(f"expected a list of rows, 0 … {len(self.gallery.keys) - 1}")
        rows = np.unique(rows)
        return flask.redirect(Wanted(selection=self.selections.put(rows.tobytes(), rows)).address(), 303)

    def search(self) -> Any:
        """A picture → the address of its nearest. Raises BadInput."""
        if self.embedder is None:
            raise BadInput("expected an embedder to search with: guie browse … --embedder EMBEDDER")
        sent = flask.request.files.get("image")
        data = sent.read() if sent else b""
        if not data:
            raise BadInput("expected a picture, nothing was sent")
        name = (sent.filename or "")[:80] if sent else ""
        return flask.redirect(f"/query/{self.queries.put(data, self.embedder.picture(name, data))}", 303)

    def static(self, name: str) -> Any:
        """A style sheet or script of the templates' folder."""
        if name not in STATIC:
            flask.abort(404)
        headers = {"Cache-Control": "no-cache"}
        return flask.Response(render(name), content_type=f"{STATIC[name]}; charset=utf-8", headers=headers)

    def _pairs(self, wanted: Wanted, found: Findings) -> str:
        start = min(wanted.start, max(len(found.pairs) - 1, 0))
        labels, named = self.gallery.labels, self.figures.named
        pairs = [
            (f"{far:.4f}", labels[first] == labels[second], named(first), named(second))
            for first, second, far in found.pairs[start : start + PAIRS_A_PAGE]
        ]
        values = {"wanted": wanted, "pairs": pairs, "found": len(found.pairs), "start": start, "step": PAIRS_A_PAGE}
        return self._page("browse_pairs.html", view="duplicates", title=listing.VIEWS["duplicates"], **values)

    def _wait(self, title: str, view: str, what: Once) -> Any:
        body = self._page("browse_wait.html", title=title, view=view, progress=what.progress)
        return flask.Response(body, headers={"Refresh": "1", "Cache-Control": "no-store"})

    def _page(self, template: str, **values: Any) -> str:
        common = {"name": self.gallery.name, "views": listing.VIEWS, "can_search": self.embedder is not None}
        common |= {"has_words": self.words is not None, "asked": flask.request.args.get("q", "")[:LONGEST]}
        return render(template, total=len(self.gallery.keys), **common, **values)

    def _row(self, number: str) -> int:
        row = listing.number(number, -1)
        if not 0 <= row < len(self.gallery.keys):
            flask.abort(404)
        return row

    def _thumbnail(self, row: int, side_px: int) -> bytes | None:
        item = self.gallery.images.get(row)
        return pictures.thumbnail(item, side_px) if item else None
