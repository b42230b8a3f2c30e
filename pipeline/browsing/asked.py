"""What visitors asked for: pictures that were dropped, images that were drawn around. In memory, a few of each."""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image

from pipeline.errors import BadInput
from pipeline.pages import pictures
from pipeline.quiet import import_quietly
from tfrecords import pixels

MOST_BYTES = 2**24  # of a picture that is sent
SHOWN_PX = 640
Value = TypeVar("Value")


class Kept(Generic[Value]):
    """The last few values, by the digest of what they are of: the same again has the same address."""

    def __init__(self, most: int):
        self._most, self._lock = most, threading.Lock()
        self._values: OrderedDict[str, Value] = OrderedDict()

    def put(self, content: bytes, value: Value) -> str:
        name = hashlib.sha256(content).hexdigest()[:16]
        with self._lock:
            self._values[name] = value
            self._values.move_to_end(name)
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        return name

    def get(self, name: str) -> Value | None:
        with self._lock:
            return self._values.get(name)


@dataclass(frozen=True)
class Picture:
    """A picture that was dropped."""

    name: str
    jpeg: bytes  # as it is shown
    vector: np.ndarray  # float32 [D]


@dataclass
class Embedder:
    """What embeds a picture that is dropped, loaded when the first one is. One picture at a time."""

    handle: str  # as `guie embed` takes it
    trust: bool
    dim: int  # of the vectors that are searched
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _loaded: Any = None

    def picture(self, name: str, data: bytes) -> Picture:
        """Raises BadInput: no image, a damaged one or one too large to be decoded; no embedder for these vectors."""
        with self._lock:
            try:
                image = pixels.read(data)
            except (OSError, ValueError) as error:
                raise BadInput(f"expected an image (JPEG, PNG, WebP, GIF, BMP or TIFF): {error}") from None
            vector = self._load().embed(image[None])[0].astype(np.float32)
        shown = Image.fromarray(image)
        shown.thumbnail((SHOWN_PX, SHOWN_PX))
        return Picture(name, pictures.as_jpeg(shown), vector)

    def _load(self) -> Any:
        if self._loaded is None:
            loaded = import_quietly("pipeline.evaluation.embedders").load(self.handle, self.trust)
            if loaded.embedding_dim != self.dim:
                came = f"it gives vectors of {loaded.embedding_dim}, those here have {self.dim}"
                raise BadInput(f"{self.handle}: expected the embedder of these vectors: {came}")
            self._loaded = loaded
        return self._loaded
