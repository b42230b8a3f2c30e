"""A server on 127.0.0.1 that speaks what gcsfs asks of Google Cloud Storage: objects by name and range, and lists."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class Bucket(ThreadingHTTPServer):
    """Serves the files of `root/BUCKET/`; reading alone, as guie writes nothing there."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, root: Path):
        super().__init__(("127.0.0.1", 0), _Requests)
        self.root = root
        self.seconds = 0.0  # that each request waits
        self.unavailable: Counter[str] = Counter()  # file's name → how many of its reads still get a 503
        self.broken: Counter[str] = Counter()  # … break off in the middle
        self.reads: Counter[str] = Counter()
        self.writes: list[str] = []


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Bucket

    def do_GET(self) -> None:
        time.sleep(self.server.seconds)
        asked = urlsplit(self.path)
        words, query = asked.path.split("/"), {key: values[0] for key, values in parse_qs(asked.query).items()}
        at = words.index("b") + 1
        bucket, name = words[at], unquote("/".join(words[at + 2 :]))
        path = self.server.root / bucket / name
        if "download" in words:
            self._content(path)
        elif len(words) == at + 1:
            self._answer(200, {"name": bucket})
        elif not name:
            self._list(bucket, query)
        elif path.is_file():
            self._answer(200, self._described(bucket, path))
        else:
            self._answer(404, {"error": {"code": 404, "message": f"No such object: {bucket}/{name}"}})

    def _refused(self) -> None:
        self.server.writes.append(self.path)
        self._answer(403, {"error": {"code": 403, "message": "read only"}})

    do_POST = do_PUT = do_PATCH = do_DELETE = _refused

    def _described(self, bucket: str, path: Path) -> dict[str, Any]:
        name = path.relative_to(self.server.root / bucket).as_posix()
        when = "2026-01-01T00:00:00.000Z"
        size = str(path.stat().st_size)
        return {"kind": "storage#object", "name": name, "bucket": bucket, "size": size, "updated": when}

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        folder, prefix, ends = self.server.root / bucket, query.get("prefix", ""), query.get("delimiter", "")
        items, prefixes = [], set()
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            described = self._described(bucket, path)
            if described["name"].startswith(prefix):
                inner, found, _ = described["name"].removeprefix(prefix).partition(ends) if ends else ("", "", "")
                if found:
                    prefixes.add(f"{prefix}{inner}{ends}")
                else:
                    items.append(described)
        self._answer(200, {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)})

    def _content(self, path: Path) -> None:
        self.server.reads[path.name] += 1
        if not path.is_file():
            return self._answer(404, {"error": {"code": 404, "message": "No such object"}})
        if self._due(self.server.unavailable, path.name):
            return self._answer(503, {"error": {"code": 503, "message": "Service Unavailable"}})
        content, asked = path.read_bytes(), self.headers.get("Range")
        if asked:
            begin, _, end = asked.removeprefix("bytes=").partition("-")
            if int(begin) >= len(content):
                return self._answer(416, {"error": {"code": 416, "message": "range"}})
            part = content[int(begin) : int(end) + 1 if end else None]
        else:
            part = content
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self._due(self.server.broken, path.name):
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
        else:
            self.wfile.write(part)

    def _due(self, faults: Counter[str], name: str) -> bool:
        faults[name] -= 1
        return faults[name] >= 0

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def serving(root: Path) -> Iterator[Bucket]:
    server = Bucket(root)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
