"""COMMAND  a scored run, or vectors of `guie embed` and their images → a local web page to look through them.

guie browse RUN [--beside VECTORS2] [--embedder EMBEDDER] [--text ENCODER] [--host 127.0.0.1] [--port 8000]
guie browse VECTORS_DIR DATA …
RUN/scored/ and RUN/config.yaml, or VECTORS_DIR/embeddings.npy and items.csv; the images they came from
→ http://127.0.0.1:8000/
"""

import logging
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import waitress

from pipeline.browsing import asked, gallery, site, words
from pipeline.browsing.door import Door
from pipeline.browsing.pages import Shown
from pipeline.errors import BadInput

# Of waitress. A connection that says nothing is closed; poll, because select ends at 1,024 files.
LIMITS: dict[str, Any] = {
    "threads": 4,
    "connection_limit": 500,
    "channel_timeout": 10,  # seconds
    "cleanup_interval": 2,  # seconds
    "asyncore_use_poll": True,
    "max_request_header_size": 2**14,
    "max_request_body_size": asked.MOST_BYTES,
    "log_socket_errors": False,  # who closes the page early is no fault
    "ident": "guie",
}


@dataclass(frozen=True)
class Options:
    vectors: Path  # or a run
    data: str = ""  # empty: `vectors` is a run
    beside: str = ""
    embedder: str = ""  # empty: a run's own submission
    trust: bool = False
    text: str = ""  # an encoder with a text tower; empty: no search by words
    text_weights: str = "preset"  # as encoder.weights
    host: str = "127.0.0.1"
    port: int = 8000


def main(options: Options) -> None:
    """Serves until it is interrupted."""
    listening = server(options)
    host = f"[{options.host}]" if ":" in options.host else options.host
    print(f"browse: http://{host}:{listening.effective_port}/ (Ctrl-C ends it)", flush=True)
    listening.run()
    print("browse: ended")


def server(options: Options) -> Any:
    """A server of waitress's that listens and does not serve yet: `run` serves, on a few threads.

    Raises BadInput: no vectors there, a table of another length, no such data, an address that is taken or wrong.
    """
    pages = site.make_site(open_shown(options))
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listening = socket.create_server((options.host, options.port), family=family)
    except (OSError, OverflowError, ValueError) as error:
        raise BadInput(f"cannot listen on {options.host}:{options.port} ({error}): choose another --port") from None
    logging.getLogger("waitress").setLevel(logging.ERROR)  # it warns of queues that are full for a moment
    return waitress.create_server(Door(pages, options.host, listening.getsockname()[1]), sockets=[listening], **LIMITS)


def open_shown(options: Options) -> Shown:
    """Raises BadInput as `gallery.open_gallery` and `gallery.open_beside`; an embedder that is not there."""
    first = gallery.open_gallery(options.vectors, options.data)
    beside = gallery.open_beside(first, Path(options.beside)) if options.beside else None
    handle, own = options.embedder, options.vectors / "submission.zip"
    if handle and "://" not in handle and not Path(handle).exists():
        raise BadInput(f"--embedder {handle}: expected a SavedModel folder, a submission.zip or a Hub handle")
    if not handle and not options.data and own.is_file():
        handle = str(own)
    embedder = asked.Embedder(handle, options.trust, first.vectors.shape[1]) if handle else None
    found = words.open_words(first, options.vectors, options.text, options.text_weights) if options.text else None
    return Shown(first, beside, embedder, found)
