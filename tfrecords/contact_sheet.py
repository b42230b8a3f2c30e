"""A picture of a records folder: a row a class, its images side by side, read back from the shards."""

import io
import textwrap
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from pipeline.errors import BadInput
from pipeline.files import atomic_path
from tfrecords import labels
from tfrecords.schema import read_shard

MARGIN_PX, NAME_PX = 2, 150
RECORDS_READ = 20_000  # enough to fill the rows of large sets without reading them to the end


@dataclass(frozen=True)
class Config:
    records_dir: Path
    out_path: Path


def contact_sheet(records_dir: Path, rows: int = 16, columns: int = 12, tile_px: int = 64) -> Image.Image:
    """Draws about `rows` classes with up to `columns` images each, some of every source, evenly spaced.

    Shards are read side by side, so that classes of every source and split are found early. Raises BadInput: no
    labels.json, no shard, or a damaged one.
    """
    space = labels.read(records_dir / "labels.json")
    shards = sorted(records_dir.glob("*.tfrec"))
    if not shards or not space.classes:
        raise BadInput(f"expected shards in {records_dir}, found none: has guie tfrecords been run?")
    wanted = []
    for first, count in space.ranges().values():
        share = min(max(round(rows * count / len(space.classes)), 1), count)
        wanted += [first + index * count // share for index in range(share)]
    tiles: dict[int, list[bytes]] = {label: [] for label in wanted}
    readers = [read_shard(path) for path in shards]
    read = 0
    while readers and read < RECORDS_READ and any(len(found) < columns for found in tiles.values()):
        for reader in list(readers):
            record = next(reader, None)
            read += 1
            if record is None:
                readers.remove(reader)
            elif len(tiles.get(record.label, ())) < columns and record.label in tiles:
                tiles[record.label].append(record.encoded)
    step = tile_px + MARGIN_PX
    sheet = Image.new("RGB", (NAME_PX + columns * step, len(wanted) * step), "white")
    pen = ImageDraw.Draw(sheet)
    for row, label in enumerate(wanted):
        source, name = space.classes[label]
        words = textwrap.wrap(space.names.get((source, name), name), 24, max_lines=3, placeholder=" …")
        for line, text in enumerate([f"{label} {source}", *words]):
            pen.text((4, row * step + 2 + 14 * line), text, fill="black")
        for column, encoded in enumerate(tiles[label]):
            with Image.open(io.BytesIO(encoded)) as image:
                tile = image.convert("RGB")
            tile.thumbnail((tile_px, tile_px))
            sheet.paste(tile, (NAME_PX + column * step, row * step))
    return sheet


def write(records_dir: Path, out_path: Path) -> None:
    """Writes the sheet as a JPEG, whole or not at all."""
    sheet = contact_sheet(records_dir)
    with atomic_path(out_path) as temporary:
        sheet.save(temporary, "JPEG", quality=90)


def main(config: Config) -> None:
    write(config.records_dir, config.out_path)
    print(f"contact sheet: {config.out_path}")
