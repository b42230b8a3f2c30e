"""The README's picture: images of a run's unseen classes and the five nearest of each, in docs/pictures/neighbours.png.

python -m tests.docs.picture [RUN]

RUN is a run folder with a score, by default runs/demo. The queries: the first image of every eighth class.
"""

import sys
from pathlib import Path

from PIL import Image

from pipeline import config
from pipeline.evaluation import scored
from pipeline.files import atomic_path
from pipeline.pages import pictures
from pipeline.retrieval import search
from tests.docs.pages import DOCS
from tfrecords import pixels

PAGE = DOCS / "pictures" / "neighbours.png"
EVERY, WIDTH, COLOURS = 8, 1000, 128


def main(run_dir: Path) -> None:
    run = config.load_from(run_dir)
    found = scored.read(run_dir / scored.FOLDER)
    items = scored.images(*run.scored_data)

    def tile(row: int, query: int) -> pictures.Tile:
        image = pixels.read(items[found.domains[row], found.roles[row], found.keys[row]].read())
        right = None if row == query else bool(found.labels[row] == found.labels[query])
        return pictures.Tile(image, found.classes[row] if row != query else f"query: {found.classes[row]}", right)

    firsts = [found.classes.index(name) for name in sorted(set(found.classes))[::EVERY]]
    nearest, _ = search.nearest(found.vectors, found.vectors, 5, leave_one_out=True)
    rows = [pictures.neighbour_picture(tile(q, q), [tile(row, q) for row in nearest[q]]) for q in firsts]
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    for number, row in enumerate(rows):
        sheet.paste(row, (0, number * row.height))
    sheet = sheet.resize((WIDTH, round(sheet.height * WIDTH / sheet.width)), Image.Resampling.LANCZOS)
    with atomic_path(PAGE) as temporary:
        sheet.quantize(COLOURS).save(temporary, "PNG", optimize=True)
    print(f"→ {PAGE}, {PAGE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
