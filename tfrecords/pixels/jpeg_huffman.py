"""Walks the Huffman codes of a sequential JPEG: do its scans hold every block, and nothing else?

Slow (Python, a loop a code): for the rare chroma samplings that the strict decoder does not know.
"""

from itertools import pairwise

from tfrecords.pixels.jpeg_markers import (
    FRAMES,
    HUFFMAN_TABLES,
    RESTART_INTERVAL,
    SEQUENTIAL_FRAMES,
    START_OF_SCAN,
    segments,
)
from tfrecords.pixels.rejected import Rejected

_RESTARTS = bytes(range(0xD0, 0xD8))
Table = list[tuple[int, int]]  # of each 16 bits ahead: the code's length, its symbol; length 0: no code


def require_whole_scans(stream: bytes) -> None:
    """Raises Rejected where a scan of a stream made by `jpeg.bare` lacks blocks, has a bad code or bytes left over."""
    tables: dict[int, Table] = {}  # class << 4 | number
    sampling: dict[int, tuple[int, int]] = {}
    width = height = interval = 0
    found = list(segments(stream))
    for one, following in pairwise(found):
        body = stream[one.start + 4 : one.end]
        if one.marker in FRAMES:
            if one.marker not in SEQUENTIAL_FRAMES - {0xC9}:
                raise Rejected("JPEG of an unusual chroma sampling, not sequential: whether it is whole cannot be told")
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            sampling = {body[at]: divmod(body[at + 1], 16) for at in range(6, 6 + 3 * body[5], 3)}
        elif one.marker == HUFFMAN_TABLES:
            tables |= _tables(body)
        elif one.marker == RESTART_INTERVAL:
            interval = int.from_bytes(body[:2], "big")
        elif one.marker == START_OF_SCAN:
            across, down = (max(factors) for factors in zip(*sampling.values(), strict=True))
            chosen = [(body[at], body[at + 1]) for at in range(1, 1 + 2 * body[0], 2)]
            blocks = []
            if not {component for component, _ in chosen} <= sampling.keys():
                raise Rejected("damaged JPEG: a scan of a component that the frame does not name")
            for component, selected in chosen:
                horizontal, vertical = sampling[component]
                if not {selected >> 4, 16 | selected & 15} <= tables.keys():
                    raise Rejected("damaged JPEG: a Huffman table is missing")
                pair = tables[selected >> 4], tables[16 | selected & 15]
                blocks += [pair] * (1 if len(chosen) == 1 else horizontal * vertical)
            if len(chosen) == 1:  # of a scan of one component, the blocks that its own size needs
                horizontal, vertical = sampling[chosen[0][0]]
                columns = _up(_up(width * horizontal, across), 8)
                rows = _up(_up(height * vertical, down), 8)
            else:
                columns, rows = _up(width, 8 * across), _up(height, 8 * down)
            _walk(stream[one.end : following.start], blocks, columns * rows, interval)


def _up(value: int, by: int) -> int:
    """Divided, rounded up."""
    return -(-value // by)


def _tables(body: bytes) -> dict[int, Table]:
    """The tables of a DHT segment."""
    found, at = {}, 0
    while at < len(body):
        key, counts = body[at], body[at + 1 : at + 17]
        at += 17
        table: Table = []
        for length, count in enumerate(counts, 1):
            if len(table) <= 65536:
                for symbol in body[at : at + count]:
                    table += [(length, symbol)] * (1 << 16 - length)
            at += count
        if len(table) > 65536:
            raise Rejected("damaged JPEG: a Huffman table of too many codes")
        found[key] = table + [(0, 0)] * (65536 - len(table))
    return found


def _walk(coded: bytes, blocks: list[tuple[Table, Table]], units: int, interval: int) -> None:
    """`units` times the blocks of one MCU, in intervals between restart markers."""
    number, at = 0, 0
    while units > 0:
        end = coded.find(b"\xff", at)
        while end >= 0 and coded[end + 1 : end + 2] == b"\0":
            end = coded.find(b"\xff", end + 2)
        part = coded[at:] if end < 0 else coded[at:end]
        _walk_interval(part.replace(b"\xff\0", b"\xff"), blocks, min(interval or units, units))
        units -= interval or units
        if units > 0 and (end < 0 or coded[end + 1 : end + 2] != _RESTARTS[number % 8 : number % 8 + 1]):
            raise Rejected("damaged JPEG: a restart marker is missing")
        at, number = (len(coded) if end < 0 else end + 2), number + 1
    if coded[at:]:
        raise Rejected("damaged JPEG: bytes left over behind the last block")


def _walk_interval(data: bytes, blocks: list[tuple[Table, Table]], units: int) -> None:
    bits, total = 0, 8 * len(data)
    data += bytes(8)

    def ahead() -> int:
        return int.from_bytes(data[bits >> 3 : (bits >> 3) + 3], "big") >> 8 - (bits & 7) & 0xFFFF

    for _ in range(units):
        for first, others in blocks:
            length, size = first[ahead()]
            bits += length + size
            coefficient = 1
            while coefficient < 64 and length:
                length, symbol = others[ahead()]
                bits += length + (symbol & 15)
                if symbol & 15:
                    coefficient += (symbol >> 4) + 1
                elif symbol == 0xF0:
                    coefficient += 16
                else:
                    break
            if not length or coefficient > 64 or bits > total:
                raise Rejected("damaged JPEG: " + ("premature end of data" if bits > total else "bad Huffman code"))
    if total - bits >= 8:
        raise Rejected("damaged JPEG: bytes left over behind the last block")
