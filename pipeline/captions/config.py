"""The keys of `guie captions CONFIG`."""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import MISSING

from pipeline.config import ImageTextModel, key


@dataclass(frozen=True)
class Table:
    """How the table is written; the section `format`."""

    image_column: str = "image"  # a name in the header; without a header a number, from 0
    caption_column: str = "caption"  # likewise, the captions'
    header: bool = True  # whether the first row names the columns
    delimiter: str = ","  # one character between two columns
    encoding: str = "utf-8"  # of the file; a byte-order mark is skipped

    def rules(self) -> Iterator[tuple[str, str]]:
        if len(self.delimiter) != 1:
            yield "delimiter", f"expected one character, got {self.delimiter!r}"


@dataclass(frozen=True)
class Fetch:
    """How images are fetched; the section `fetch`."""

    # Of one attempt: name, connection, redirects and body together
    timeout_seconds: float = key(10.0, above=0)
    max_bytes: int = key(10_000_000, least=1)  # an image with more is left out; counted while it streams
    # Attempts after the first, for what may pass (time-outs, 5xx, 429, broken connections)
    retries: int = key(2, least=0)
    # Pause before the first retry; doubles with each, ± half by chance
    backoff_seconds: float = key(0.5, least=0)
    max_redirects: int = key(5, least=0)  # that are followed, each address checked
    concurrency: int = key(16, least=1)  # images fetched at once
    per_host: int = key(4, least=1)  # images fetched at once from one host
    allow_networks: list[str] = field(default_factory=list)  # private ones that may be asked, as 127.0.0.1/32

    def rules(self) -> Iterator[tuple[str, str]]:
        for text in self.allow_networks:
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                yield "allow_networks", f"expected networks such as 10.0.0.0/8, {error}"


@dataclass(frozen=True)
class Captions:
    """Captions scored against their images: what `guie captions CONFIG` reads."""

    name: str = ""  # empty: the config file's name
    run_dir: str = ""  # empty: runs/<name>
    data_root: str = "${oc.env:GUIE_DATA,''}"  # folder that relative data paths start from
    table: str = MISSING  # CSV; as given, or below data_root
    images: str = ""  # where relative image paths start; empty: the table's folder
    format: Table = field(default_factory=Table)
    model: ImageTextModel = field(default_factory=ImageTextModel)
    fetch: Fetch = field(default_factory=Fetch)
    max_megapixels: float = key(50.0, above=0)  # larger images are left out before they are decoded
    retrieval: bool = True  # also score captions → images and images → captions
