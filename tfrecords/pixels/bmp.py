"""BMP: run lengths set every pixel; Pillow itself refuses raw rows that end early."""

from tfrecords.pixels.rejected import Rejected

_RLE = {1: 1, 2: 2}  # compression → pixels in a byte
_END_OF_LINE, _END_OF_BITMAP, _DELTA = 0, 1, 2


def require_whole(data: bytes, size: tuple[int, int]) -> None:
    """Raises Rejected where run-length codes leave pixels out, run over a row's end, or end early."""
    compression = int.from_bytes(data[30:34], "little") if int.from_bytes(data[14:18], "little") >= 40 else 0
    if compression not in _RLE:
        return
    per_byte, (width, height) = _RLE[compression], size
    at, row, column = int.from_bytes(data[10:14], "little"), 0, 0
    while at + 1 < len(data) and row < height:
        count, value = data[at], data[at + 1]
        at += 2
        if count or value > _DELTA:
            column += count or value
            if not count:  # so many pixels follow as they are, filled up to two bytes
                length = -(-value // per_byte)
                at += length + (length & 1)
            if column > width or at > len(data):
                raise Rejected("damaged BMP: a run goes beyond its row")
        elif value == _END_OF_LINE and column == width:
            row, column = row + 1, 0
        else:
            break
    if row < height - 1 or (row == height - 1 and column < width):
        raise Rejected(f"damaged BMP: its runs end in row {row + 1} of {height}, at pixel {column} of {width}")


def colours(data: bytes) -> int:
    """Colours of the palette: as many as the header says, or as the bits of a pixel can number."""
    old = int.from_bytes(data[14:18], "little") < 40
    bits = int.from_bytes(data[24:26] if old else data[28:30], "little")
    return (0 if old else int.from_bytes(data[46:50], "little")) or 1 << bits
