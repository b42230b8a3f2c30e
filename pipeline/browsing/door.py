"""Who may ask the server what: before any page of it, and without Flask. What every answer says to the web browser."""

import ipaddress
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

EVERYWHERE = ("", "0.0.0.0", "::")  # as --host: on all interfaces
POSTS = ("/search", "/select")
POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Content-Security-Policy", POLICY),
]


@dataclass(frozen=True)
class Door:
    """The WSGI application in front of the pages."""

    pages: Callable[[dict[str, Any], Callable], Iterable[bytes]]
    host: str
    port: int

    def __call__(self, asked: dict[str, Any], start: Callable) -> Iterable[bytes]:
        """Lets pass what may; answers the rest with one line of text."""
        method, path = asked["REQUEST_METHOD"], asked["PATH_INFO"]
        allowed = ("GET", "HEAD", "POST") if path in POSTS else ("GET", "HEAD")
        if method not in allowed:
            said = f"expected {' or '.join(allowed)}"
            return _refused(start, method, HTTPStatus.METHOD_NOT_ALLOWED, said, [("Allow", ", ".join(allowed))])
        if not self.is_mine(asked.get("HTTP_HOST", "")):
            # A page of another site whose name is made to lead here (DNS rebinding) would read the pictures.
            return _refused(
                start, method, HTTPStatus.MISDIRECTED_REQUEST, "expected the address that guie browse printed"
            )
        if method == "POST" and not self.is_from_here(asked.get("HTTP_ORIGIN", "")):
            # A page of another site may send a form anywhere, but not say that it came from here.
            return _refused(start, method, HTTPStatus.FORBIDDEN, "expected a request of this server's own pages")

        def with_headers(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return start(status, [*headers, *HEADERS], *more)

        return self.pages(asked, with_headers)

    def is_mine(self, header: str) -> bool:
        """Whether a Host header is an address of this server; of one on all interfaces any number or its own name."""
        name, colon, port = header.lower().rpartition(":")
        if not colon or "]" in port:
            name, port = header.lower(), "80"
        plain = name.removeprefix("[").removesuffix("]")
        known = {"localhost", "127.0.0.1", "::1", self.host.lower()}
        if self.host in EVERYWHERE:
            known |= {socket.gethostname().lower(), plain if _is_address(plain) else ""}
        return port == str(self.port) and bool(plain) and plain in known

    def is_from_here(self, origin: str) -> bool:
        """Whether an Origin header names this server; web browsers send one with every POST."""
        scheme, _, host = origin.partition("://")
        return scheme == "http" and self.is_mine(host)


def _refused(
    start: Callable, method: str, status: HTTPStatus, said: str, headers: Iterable[tuple[str, str]] = ()
) -> Iterable[bytes]:
    body = f"{said}\n".encode()
    kind = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    start(f"{status.value} {status.phrase}", [*headers, *kind, *HEADERS])
    return [] if method == "HEAD" else [body]


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False
