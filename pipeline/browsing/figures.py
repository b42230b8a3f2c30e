"""An image of a gallery as a page shows it: picture, caption, and whether it is right."""

from dataclasses import dataclass

from pipeline.browsing.findings import Findings
from pipeline.browsing.gallery import Gallery, Near
from pipeline.pages.pictures import Figure
from pipeline.pages.render import distance, precision

KINDS = {True: "right", False: "wrong"}


@dataclass(frozen=True)
class Figures:
    gallery: Gallery

    def of(self, row: int, caption: str, kind: str = "") -> Figure:
        image = f"/image/{row}?v={self.gallery.digest}" if row in self.gallery.images else ""
        name = f"{self.gallery.sources[row]} {self.gallery.keys[row]}"
        return Figure(image, name, caption, kind, f"/item/{row}")

    def neighbours(self, row: int, near: Near) -> list[Figure]:
        """Those of an image, right where they are of its class."""
        labels = self.gallery.labels
        return [
            self.of(other, f"{distance(far)} {self.gallery.class_of(other)}", KINDS[bool(labels[other] == labels[row])])
            for other, far in near
        ]

    def named(self, row: int) -> Figure:
        return self.of(row, self.gallery.class_of(row))

    def caption(self, row: int, view: str, found: Findings | None) -> str:
        """The class, and before it the number that the view's order goes by."""
        name = self.gallery.class_of(row)
        if found and view == "wrong":
            return f"P@5 {precision(found.precisions[row])} {name}"
        if found and view == "outliers":
            return f"{distance(found.own[row])} {name}"
        return name
