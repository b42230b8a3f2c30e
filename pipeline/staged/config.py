"""The keys of `guie staged … CONFIG`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.config import Encoder, ImageSource, key

STAGES = ("first", "second", "third", "origin")  # from shallow to deep
NEVER = 2.0  # a threshold that no agreement reaches: the stage is skipped
LARGEST_PIXELS_PX = 104  # Milvus holds 32,768 numbers a vector


@dataclass(frozen=True)
class Staged:
    """Staged retrieval: what `guie staged … CONFIG` reads."""

    name: str = ""  # empty: the config file's name
    run_dir: str = ""  # empty: runs/<name>
    data_root: str = "${oc.env:GUIE_DATA,''}"  # folder that relative data paths start from
    encoder: Encoder = field(default_factory=Encoder)
    vocabulary: str = ""  # of the text tower, see ImageTextModel
    # replaces the catalogue's dimensions of the text tower
    text_architecture: dict[str, Any] = field(default_factory=dict)
    # Auto: zero-shot with a text tower; encoder: never zero-shot
    origin: str = key("auto", one_of=("auto", "encoder"))
    templates: str = "80"  # of zero-shot: 80 | one | a file
    seed: int = 0  # of random weights
    index: list[ImageSource] = field(default_factory=list)  # fill the database
    queries: list[ImageSource] = field(default_factory=list)  # the test set of `perf`
    taps: dict[str, str] = field(default_factory=dict)  # second, third → a layer; empty: chosen by depth
    # side of the image whose pixels are the first stage's vector
    pixels_px: int = key(32, least=1, most=LARGEST_PIXELS_PX)
    neighbours: int = key(10, least=1)  # that vote for a class
    # Of the cascade: share of the neighbours that must agree; 2 skips a stage.
    thresholds: dict[str, float] = key({"first": 1.0, "second": 0.9, "third": 0.8}, least=0, most=NEVER)
    database: str = key("", urls=True)  # a path ending in .db, or the URI of a cluster; empty: <run_dir>/vectors.db
    token: str = key("${oc.env:MILVUS_TOKEN,''}", secret=True)  # of a cluster
    collection: str = "guie"  # first part of the names in the database
    batch_size: int = key(32, least=1)  # images embedded together

    def rules(self) -> Iterator[tuple[str, str]]:
        if not re.fullmatch(r"[A-Za-z_]\w{0,200}", self.collection):
            yield "collection", f"expected letters, digits and underscores, got {self.collection!r}"
        for stage in self.thresholds:
            if stage not in STAGES[:-1]:
                yield "thresholds", f"expected {', '.join(STAGES[:-1])}; got {stage!r}"
