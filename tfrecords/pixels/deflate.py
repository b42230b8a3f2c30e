"""How many bytes a zlib stream gives, in bounded memory."""

import zlib

_PIECE = 1 << 20


def inflated(data: bytes, most: int) -> tuple[int, bool]:
    """Bytes that the stream gives, counted until it has given more than `most`; whether its end, with a right checksum,
    was reached. Raises zlib.error: the stream is damaged.
    """
    stream, given, at, waiting = zlib.decompressobj(), 0, 0, b""
    view = memoryview(data)
    while not stream.eof and (waiting or at < len(view)) and given <= most:
        if not waiting:
            waiting, at = bytes(view[at : at + _PIECE]), at + _PIECE
        given += len(stream.decompress(waiting, _PIECE))
        waiting = stream.unconsumed_tail
    if not stream.eof and given <= most:
        given += len(stream.flush())  # what the stream holds back when its output comes in pieces
    return given, stream.eof
