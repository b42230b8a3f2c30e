"""An image file of any kind → pixels, or the JPEG that is stored; a module a kind says when its pixels are whole."""

from tfrecords.pixels.jpeg import MAX_SCANS
from tfrecords.pixels.rejected import DECODER_ERRORS, Rejected
from tfrecords.pixels.resizing import reduced_by, shrink, shrunk_size
from tfrecords.pixels.transcoding import FORMATS, MAX_PIXELS, Stored, decode_stored, opened, read, transcode

__all__ = [
    "DECODER_ERRORS",
    "FORMATS",
    "MAX_PIXELS",
    "MAX_SCANS",
    "Rejected",
    "Stored",
    "decode_stored",
    "opened",
    "read",
    "reduced_by",
    "shrink",
    "shrunk_size",
    "transcode",
]
