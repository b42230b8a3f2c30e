"""A web server on 127.0.0.1 that answers late, breaks off, lies and redirects in circles."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Faulty(BaseHTTPRequestHandler):
    """`/good/NAME` serves `server.files[NAME]`; the other paths each have one fault."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server: FaultyServer = self.server  # type: ignore[assignment]
        server.seen[self.path] += 1
        server.asked_at.setdefault(self.path, time.monotonic())
        kind, _, name = self.path[1:].partition("/")
        try:
            getattr(self, f"_{kind.partition('?')[0]}", self._missing)(name)  # `/slow?1`, `/slow?2` differ as addresses
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client left, as it should

    def _send(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        if length is not None and length != len(body):
            self.close_connection = True

    def _missing(self, name: str) -> None:
        self._send(404, b"none here")

    def _good(self, name: str) -> None:
        body = self.server.files.get(name)  # type: ignore[attr-defined]
        self._send(200, body) if body is not None else self._missing(name)

    def _text(self, name: str) -> None:
        self._send(200, b"<html>not an image</html>", Content_Type="image/jpeg")  # a lie in the header

    def _empty(self, name: str) -> None:
        self._send(200)

    def _slow(self, name: str) -> None:
        self.server.stop.wait(20)  # type: ignore[attr-defined]
        self._send(200)

    def _drip(self, name: str) -> None:
        """A byte now and then: each read comes in time, the whole never."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        for _ in range(1000):
            self.wfile.write(b"x")
            self.wfile.flush()
            if self.server.stop.wait(0.05):  # type: ignore[attr-defined]
                break

    def _drip_headers(self, name: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        for _ in range(1000):
            self.wfile.write(b"x")
            self.wfile.flush()
            if self.server.stop.wait(0.05):  # type: ignore[attr-defined]
                break

    def _truncated(self, name: str) -> None:
        self._send(200, b"\xff\xd8\xff\xe0 only the start", length=5000)

    def _huge(self, name: str) -> None:
        """Announces nothing and never ends."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        server: FaultyServer = self.server  # type: ignore[assignment]
        while not server.stop.is_set():
            server.bytes_sent += self.wfile.write(bytes(64 * 1024))

    def _announced(self, name: str) -> None:
        self._send(200, b"", length=10**12)

    def _loop(self, name: str) -> None:
        self._send(302, Location="/loop/" + str(int(name or 0) + 1))

    def _hop(self, name: str) -> None:
        """`/hop/N/TARGET`: N redirects, then the target on this server."""
        count, _, target = name.partition("/")
        self._send(302, Location=f"/hop/{int(count) - 1}/{target}" if int(count) > 1 else f"/{target}")

    def _to(self, name: str) -> None:
        self._send(302, Location=unquote(name))  # `/to/http://10.0.0.1/x`

    def _flaky(self, name: str) -> None:
        """503 twice, then the image."""
        if self.server.seen[self.path] <= 2:  # type: ignore[attr-defined]
            self._send(503, b"later", Retry_After="0")
        else:
            self._good(name)

    def _reset(self, name: str) -> None:
        self.close_connection = True  # closes without a word

    def log_message(self, *_: object) -> None:
        pass


class FaultyServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Faulty)
        self.files, self.bytes_sent, self.stop = files, 0, threading.Event()
        self.seen: Counter[str] = Counter()
        self.asked_at: dict[str, float] = {}  # path → when first

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        pass  # a client that hangs up is what these tests are about


@contextmanager
def faulty_server(files: dict[str, bytes]) -> Iterator[FaultyServer]:
    server = FaultyServer(files)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
