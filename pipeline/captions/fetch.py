"""Loads images from disk or by URL, many at once: of each its bytes, or the reason why there are none.

URLs come out of strangers' tables, so they are not trusted: every address is checked after the name is resolved,
at the moment of connecting. A name that resolves to another address the second time, a redirect into the local
network and an address written as a number all meet the same check.
"""

import asyncio
import functools
import ipaddress
import random
import re
import socket
import stat
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from pipeline.captions.config import Fetch
from pipeline.errors import reason

RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})  # those that may pass
LONGEST_PAUSE_SECONDS = 30.0  # however long a server asks us to wait
CHUNK_BYTES = 64 * 1024
NAT64 = ipaddress.ip_network("64:ff9b::/96")
NEVER_PUBLIC = [  # what `is_global` of some Python 3.11 and 3.12 lets pass
    ipaddress.ip_network(text)
    for text in (
        "64:ff9b:1::/48",  # NAT64 within a site, RFC 8215
        "fec0::/10",  # site-local, RFC 3879
        "::/96",  # IPv4 in IPv6 as it was first written, RFC 4291
        "192.0.0.0/24",  # of protocols, RFC 6890
    )
]


@dataclass(frozen=True)
class Fetched:
    """`content` is None exactly when there is a `reason`."""

    reference: str
    content: bytes | None
    reason: str = ""


class Refused(OSError):
    """A private address; an OSError, so that the HTTP library sees a failed connection."""


class Unfetchable(Exception):
    """No image; the message is the reason. `passing`: a retry may help, after the pause that the server asks for."""

    def __init__(self, message: str, passing: bool = False, pause_seconds: float = 0.0):
        super().__init__(message)
        self.passing, self.pause_seconds = passing, pause_seconds


def is_url(reference: str) -> bool:
    return "://" in reference


def is_public(address: str) -> bool:
    """Whether an IP address (as text) belongs to the open internet.

    Not loopback, private, link-local, shared, reserved or multicast; an IPv4 address inside an IPv6 one
    counts as itself.

    >>> [is_public(a) for a in ("1.1.1.1", "127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "fe80::1%eth0")]
    [True, False, False, False, False]
    """
    plain = _plain(address)
    refused = plain.is_multicast or any(plain in network for network in NEVER_PUBLIC)
    return plain.is_global and not refused


def fetch(references: list[str], options: Fetch, root: Path) -> list[Fetched]:
    """Reads all references, in parallel; the answers stand in the order of the references.

    `references` are URLs (http, https) or paths, relative ones from `root`. Nothing about a single image raises. Holds
    up to `max_bytes` of each in memory.
    """
    return asyncio.run(_fetch_all(references, options, root))


async def _fetch_all(references: list[str], options: Fetch, root: Path) -> list[Fetched]:
    networks = [ipaddress.ip_network(text) for text in options.allow_networks]
    # The semaphores below limit: in the connector's own queue the time-out would run already.
    connector = aiohttp.TCPConnector(limit=0, socket_factory=functools.partial(_checked_socket, networks))
    slots = asyncio.Semaphore(options.concurrency)
    hosts: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(options.per_host))
    async with aiohttp.ClientSession(
        connector=connector,
        # A compressed body would pass the size limit small and unpack large: none is asked for or unpacked.
        headers={"User-Agent": "guie/0.1", "Accept": "image/*,*/*;q=0.1", "Accept-Encoding": "identity"},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,  # a proxy would connect in our place, past the check
    ) as session:

        async def one(reference: str) -> Fetched:
            try:
                if is_url(reference):
                    # The host first: a slow host's queue holds no slot.
                    async with hosts[_host(reference)], slots:
                        return Fetched(reference, await _with_retries(session, reference, options))
                async with slots:
                    content = await asyncio.to_thread(_read, root / reference, options.max_bytes)
                return Fetched(reference, content)
            except Unfetchable as error:
                return Fetched(reference, None, reason(error))

        return await asyncio.gather(*map(one, references))


async def _with_retries(session: aiohttp.ClientSession, url: str, options: Fetch) -> bytes:
    attempt = 0
    while True:
        try:
            return await _get(session, url, options)
        except Unfetchable as error:
            if not error.passing or attempt == options.retries:
                times = f" ({attempt + 1} attempts)" if attempt else ""
                raise Unfetchable(f"{error}{times}") from None
            pause = options.backoff_seconds * 2**attempt * random.uniform(0.5, 1.5)
            await asyncio.sleep(min(max(pause, error.pause_seconds), LONGEST_PAUSE_SECONDS))
            attempt += 1


async def _get(session: aiohttp.ClientSession, url: str, options: Fetch) -> bytes:
    """One attempt. Raises Unfetchable in place of the library's many errors."""
    timeout = aiohttp.ClientTimeout(total=options.timeout_seconds)
    try:
        async with session.get(url, timeout=timeout, max_redirects=options.max_redirects + 1) as response:
            if response.status != 200:
                pause_seconds = _seconds(response.headers.get("Retry-After", ""))
                raise Unfetchable(f"HTTP {response.status}", response.status in RETRIED_STATUSES, pause_seconds)
            return await _body(response, options.max_bytes)
    except TimeoutError:
        raise Unfetchable(f"no whole answer within {options.timeout_seconds:g} s", passing=True) from None
    except aiohttp.TooManyRedirects:
        raise Unfetchable(f"more than {options.max_redirects} redirects") from None
    except aiohttp.ClientConnectorError as error:
        if refused := re.search(r"refused: \S+ is not[^,]*", str(error.os_error)):
            raise Unfetchable(refused.group()) from None
        raise Unfetchable(f"no connection: {error.os_error.strerror or error.os_error}", passing=True) from None
    except aiohttp.ClientPayloadError:
        raise Unfetchable("the body broke off", passing=True) from None
    # A redirect may hold such a URL too.
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlRedirectClientError) as error:
        raise Unfetchable(f"not a URL of http or https: {error}") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        passing = isinstance(error, aiohttp.ServerDisconnectedError | ConnectionError)
        raise Unfetchable(f"{type(error).__name__}: {error}", passing=passing) from None


def _host(url: str) -> str:
    """Raises Unfetchable where there is none, or the scheme is another than http and https."""
    try:
        scheme, host = urlsplit(url).scheme.lower(), urlsplit(url).hostname
    except ValueError as error:
        raise Unfetchable(f"not a URL: {error}") from None
    if scheme not in ("http", "https") or not host:
        raise Unfetchable(f"not a URL of http or https: {url[:200]!r}")
    return host


async def _body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    if (response.content_length or 0) > max_bytes:
        raise Unfetchable(f"{response.content_length:,} bytes announced, more than max_bytes {max_bytes:,}")
    body = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        body += chunk
        if len(body) > max_bytes:  # what a server announces need not be true
            raise Unfetchable(f"more than max_bytes {max_bytes:,}")
    if not body:
        raise Unfetchable("an empty body")
    return bytes(body)


def _checked_socket(allowed: list, address_info: tuple) -> socket.socket:
    """aiohttp's hook: called with each resolved address right before the connection."""
    family, kind, protocol, _, address = address_info
    plain = _plain(address[0])
    if not is_public(address[0]) and not any(plain in network for network in allowed):
        raise Refused(f"refused: {plain} is not a public address (fetch.allow_networks)")
    return socket.socket(family=family, type=kind, proto=protocol)


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An IP address; the IPv4 address of an IPv6 one that wraps it (mapped, 6to4, NAT64)."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        wrapped = parsed.ipv4_mapped or parsed.sixtofour
        if wrapped is None and parsed in NAT64:
            wrapped = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        return wrapped or parsed
    return parsed


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a named pipe would hang, a device never end
            raise Unfetchable(f"not a file: {path}")
        if status.st_size > max_bytes:
            raise Unfetchable(f"{status.st_size:,} bytes, more than max_bytes {max_bytes:,}")
        return path.read_bytes()
    except FileNotFoundError:
        raise Unfetchable(f"no such file: {path}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise Unfetchable(f"unreadable: {getattr(error, 'strerror', None) or error}") from None


def _seconds(retry_after: str) -> float:
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
