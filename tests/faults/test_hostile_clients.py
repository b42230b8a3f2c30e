"""`guie browse` asked by hostile and broken clients, over raw sockets: one clean answer each, a quiet console."""

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.browsing.door import Door

pytestmark = pytest.mark.faults("hostile client")


@dataclass
class Served:
    port: int
    process: subprocess.Popen

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def raw(self, request: bytes) -> bytes:
        """All that comes back until the server closes."""
        with self.connect() as connection:
            connection.sendall(request)
            found = b""
            with contextlib.suppress(ConnectionResetError):  # it need not read a request to its end
                while piece := connection.recv(65536):
                    found += piece
            return found

    def get(self, path: bytes = b"/", method: bytes = b"GET", host: str | None = None, more: bytes = b"") -> bytes:
        named = f"Host: {host or f'localhost:{self.port}'}\r\n".encode("latin-1") if host != "" else b""
        return self.raw(method + b" " + path + b" HTTP/1.1\r\n" + named + b"Connection: close\r\n" + more + b"\r\n")


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("hostile")
    for number in range(3):
        path = root / "pictures/a" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (40 * number, 9, 9)).save(path)
    np.save(root / "embeddings.npy", np.eye(3, dtype="f"))
    (root / "items.csv").write_text("key,source,class\n" + "".join(f"a/{n}.png,pictures,a\n" for n in range(3)))
    with (root / "console").open("w") as console:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "browse", str(root), str(root / "pictures"), "--port", "0"],
            cwd=Path(__file__).resolve().parents[2], stdout=console, stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
        )  # fmt: skip
        for _ in range(600):
            if found := re.search(r":(\d+)/", (root / "console").read_text()):
                break
            time.sleep(0.1)
        assert found, (root / "console").read_text()
        yield Served(int(found[1]), process)
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=20)
    said = (root / "console").read_text().splitlines()
    assert code == 0 and len(said) == 2 and said[-1] == "browse: ended", said  # whatever was asked of it


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("localhost:PORT", 200),
        ("LOCALHOST:PORT", 200),
        ("127.0.0.1:PORT", 200),
        ("[::1]:PORT", 200),
        ("evil.example:PORT", 421),
        ("evil.example", 421),
        ("localhost", 421),
        ("localhost:1", 421),
        ("127.0.0.1.evil.example:PORT", 421),
        ("192.168.0.1:PORT", 421),
        ("localhost:PORT@evil.example", 421),
        ("localhost:PORT, evil.example", 421),
        (":PORT", 421),
        ("[::1", 421),
        ("\xff\xfe:PORT", 421),
        ("", 421),
    ],
)
def test_only_its_own_address_is_answered(served, host, code):
    answer = served.get(host=host.replace("PORT", str(served.port)))
    assert status(answer) == code
    if code != 200:
        body = answer.split(b"\r\n\r\n", 1)[1]
        assert body.count(b"\n") == 1 and b"pictures" not in body


def test_two_host_headers_do_not_pass(served):
    assert status(served.get(more=b"Host: evil.example\r\n")) in (400, 421)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (b"/item/" + b"9" * 5000, 404),
        (b"/image/" + b"1" * 5000, 404),
        (b"/?page=" + b"9" * 5000, 200),
        (b"/?page=-1&page=x", 200),
        (b"/?find=%", 200),
        (b"/?find=%zz%f&&&=;", 200),
        (b"/?find=%ff%fe%00", 200),
        (b"/%", 404),
        (b"/%ff%00", 404),
        (b"/item/%d9%a3", 404),  # a digit of Arabic
        (b"/item/%c2%b2", 404),
        (b"//item//0", 404),
        (b"/../../etc/passwd", 404),
        (b"/item/0", 200),
        (b"/image/0", 200),
        (b"http://evil.example/item/0", 200),  # in absolute form: the Host header counts
    ],
)
def test_every_path_has_one_clean_answer(served, path, code):
    answer = served.get(path)
    assert status(answer) == code
    assert code == 200 or answer.split(b"\r\n\r\n", 1)[1].count(b"\n") == 1


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT", b"X" * 50])
def test_other_methods_are_refused(served, method):
    assert status(served.get(method=method)) in (400, 405)


def test_head_is_get_without_a_body(served):
    head, get = served.get(b"/item/1", b"HEAD"), served.get(b"/item/1")
    assert status(head) == 200 and head.endswith(b"\r\n\r\n")
    length = re.compile(rb"Content-Length: (\d+)")
    assert length.search(head)[1] == length.search(get)[1] == str(len(get.split(b"\r\n\r\n", 1)[1])).encode()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100 + b"\r\n\r\n",  # TLS
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X-%d: a\r\n" * 5000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad header\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(served, request_bytes):
    answer = served.raw(request_bytes.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
    assert 400 <= status(answer) < 506 and b"Traceback" not in answer
    assert status(served.get()) == 200


@pytest.mark.slow
def test_idle_and_slow_connections_hold_no_threads_and_are_closed(served):
    began = time.monotonic()
    idle = [served.connect() for _ in range(150)]
    for connection in idle[::2]:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: loc")
    assert status(served.get()) == 200 and time.monotonic() - began < 10
    threads = len(os.listdir(f"/proc/{served.process.pid}/task"))
    closed = 0
    for connection in idle:
        with contextlib.suppress(ConnectionResetError):
            connection.settimeout(30)
            while connection.recv(4096):
                pass
        closed += 1
        connection.close()
    assert closed == 150 and threads < 100


def test_clients_that_leave_are_no_fault(served):
    for _ in range(20):
        connection = served.connect()
        connection.sendall(f"GET /item/0 HTTP/1.1\r\nHost: localhost:{served.port}\r\n\r\n".encode())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        connection.close()
    assert status(served.get()) == 200


def test_pages_forbid_what_they_do_not_need(served):
    head = served.get().split(b"\r\n\r\n", 1)[0].decode()
    assert "X-Content-Type-Options: nosniff" in head and "unsafe-inline" not in head
    assert "Content-Security-Policy: default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'" in head


@pytest.mark.parametrize("path", [b"/search", b"/select"])
@pytest.mark.parametrize(
    "origin", [b"", b"Origin: null\r\n", b"Origin: http://evil.example\r\n", b"Origin: https://localhost:PORT\r\n",
               b"Origin: http://localhost:1\r\n", b"Origin: http://evil.example:PORT\r\n"]
)  # fmt: skip
def test_a_form_of_another_site_is_refused(served, path, origin):
    named = origin.replace(b"PORT", str(served.port).encode())
    answer = served.get(path, b"POST", more=named + b"Content-Length: 3\r\n\r\n[0]")
    assert status(answer) == 403 and b"selection" not in answer


def test_a_form_of_its_own_is_taken(served):
    own = f"Origin: http://localhost:{served.port}\r\nContent-Length: 3\r\n\r\n[0]".encode()
    answer = served.get(b"/select", b"POST", more=own)
    assert status(answer) == 303 and b"\r\nLocation: /?selection=" in answer
    assert status(served.get(b"/search", b"POST", more=own)) == 400  # it has no embedder


@pytest.mark.parametrize("length", [2**24 + 1, 2**40])
def test_more_than_a_picture_is_not_read(served, length):
    own = f"Origin: http://localhost:{served.port}\r\nContent-Length: {length}\r\n\r\n".encode()
    assert status(served.get(b"/search", b"POST", more=own)) == 413


def test_on_all_interfaces_numbers_and_its_own_name_are_answered():
    door = Door(lambda asked, start: [], "0.0.0.0", 8000)
    mine = ("localhost:8000", "192.168.0.9:8000", "[fe80::1]:8000", f"{socket.gethostname()}:8000")
    others = ("evil.example:8000", "192.168.0.9:8001", "192.168.0.9", "", ":8000", "192.168.0.999:8000")
    assert [door.is_mine(each) for each in (*mine, *others)] == [True] * len(mine) + [False] * len(others)
    door = Door(door.pages, "localhost", 80)
    assert door.is_mine("localhost") and door.is_from_here("http://localhost") and not door.is_from_here("localhost")
    assert not Door(door.pages, "localhost", 8000).is_mine("localhost")
