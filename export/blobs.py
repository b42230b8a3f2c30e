"""Resumable uploads: after a dropped connection only the bytes that the server lacks are sent again."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.console import Progress
from pipeline.errors import BadInput
from pipeline.files import file_sha256

TRIES = 6
FIRST_PAUSE_SECONDS = 1.0  # doubled after every try
VALID_SECONDS = 6 * 24 * 3600  # Kaggle keeps an unfinished upload for a week


def upload(
    path: Path, begin: Callable[[], tuple[str, str]], uploads: dict[str, Any], remember: Callable[[], None]
) -> str:
    """Sends a file, from where an earlier try or an earlier process stopped; returns its token.

    Args:
        begin: asks for a new upload; returns (token, address to PUT to).
        uploads: file digest → {"token", "url", "begun", "done"}, changed in place.
        remember: called after every change of `uploads`.

    Raises BadInput: the connection dropped TRIES times.
    """
    size, digest = path.stat().st_size, file_sha256(path)
    progress = Progress(f"upload {path.name}", size // 1000, "kB")
    for number in range(TRIES):
        state = uploads.get(digest)
        if state is None or time.time() - state["begun"] > VALID_SECONDS:
            token, url = begin()
            state = uploads[digest] = {"token": token, "url": url, "begun": time.time(), "done": False}
            remember()
        if state["done"]:
            return state["token"]
        try:
            there = _send(path, size, state["url"], progress)
        except OSError as error:  # requests' errors are OSErrors
            pause(number, f"upload {path.name}", error)
            continue
        if not there:  # it expired on the server
            del uploads[digest]
            continue
        state["done"] = True
        remember()
        return state["token"]
    raise BadInput(f"the connection drops on {path.name} every time; run the same command again, it goes on from there")


def pause(number: int, what: str, error: Exception) -> None:
    """Waits after try `number`, counted from 0."""
    seconds = FIRST_PAUSE_SECONDS * 2**number
    print(f"submit: {what}: {type(error).__name__}, tries again in {seconds:.0f} s", flush=True)
    time.sleep(seconds)


def _send(path: Path, size: int, url: str, progress: Progress) -> bool:
    """One try: asks how much the server has, sends the rest. False: the upload has expired. Raises OSError."""
    import requests

    asked = requests.put(url, headers={"Content-Length": "0", "Content-Range": f"bytes */{size}"}, timeout=60)
    if asked.status_code in (200, 201):
        return True
    if asked.status_code in (404, 410):
        return False
    if asked.status_code != 308:
        asked.raise_for_status()
    there = int(asked.headers["Range"].rpartition("-")[2]) + 1 if "Range" in asked.headers else 0
    progress.restart(there // 1000)
    with path.open("rb") as file:
        file.seek(there)
        headers = {"Content-Range": f"bytes {there}-{size - 1}/{size}"} if there else {}
        answer = requests.put(url, data=_Reader(file, size - there, progress), headers=headers, timeout=600)
    answer.raise_for_status()
    if answer.status_code not in (200, 201):
        raise ConnectionError(f"the upload stopped early (answer {answer.status_code})")
    return True


class _Reader:
    """The rest of a file, with progress; its length keeps `requests` from sending it in chunks."""

    def __init__(self, file: Any, size: int, progress: Progress):
        self.file, self.size, self.progress = file, size, progress

    def __len__(self) -> int:
        return self.size

    def read(self, count: int = -1) -> bytes:
        block = self.file.read(count)
        self.progress.add(len(block) // 1000)
        return block
