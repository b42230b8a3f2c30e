"""Images from disk and from web servers that misbehave: an answer for each, nothing private."""

import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.captions.config import Fetch
from pipeline.captions.fetch import Fetched, fetch, is_public
from tests.captions.faulty_server import FaultyServer, faulty_server

QUICK = Fetch(
    timeout_seconds=0.6,
    max_bytes=200_000,
    retries=2,
    backoff_seconds=0.01,
    max_redirects=3,
    allow_networks=["127.0.0.1/32"],
)


@pytest.fixture(scope="module")
def server():
    with faulty_server({"a.jpg": b"image a", "big": bytes(200_000), "bigger": bytes(200_001)}) as running:
        yield running


def get(server: FaultyServer, path: str, options: Fetch = QUICK) -> Fetched:
    return fetch([server.url + path], options, Path("."))[0]


def test_good_image_comes_whole(server):
    assert get(server, "/good/a.jpg") == Fetched(server.url + "/good/a.jpg", b"image a", "")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/absent", "HTTP 404"),
        ("/slow", "no whole answer within 0.6 s (3 attempts)"),
        ("/drip", "no whole answer within 0.6 s (3 attempts)"),
        ("/drip_headers", "no whole answer within 0.6 s (3 attempts)"),
        ("/truncated", "the body broke off (3 attempts)"),
        ("/empty", "an empty body"),
        ("/announced", "1,000,000,000,000 bytes announced, more than max_bytes 200,000"),
        ("/huge", "more than max_bytes 200,000"),
        ("/good/bigger", "200,001 bytes announced, more than max_bytes 200,000"),
        ("/loop/0", "more than 3 redirects"),
        ("/to/http://10.0.0.1/x", "refused: 10.0.0.1 is not a public address (fetch.allow_networks)"),
        ("/to/http://169.254.169.254/latest", "refused: 169.254.169.254 is not a public address"),
        ("/to/http://127.0.0.2/x", "refused: 127.0.0.2"),
        ("/to/http://[::1]/x", "refused: ::1"),
        ("/to/http://[::ffff:127.0.0.2]/x", "refused: 127.0.0.2"),
        ("/to/http://2130706434/x", "not a URL of http or https: 2130706434"),  # 127.0.0.2 as one number
        ("/to/file:///etc/passwd", "not a URL of http or https"),
        ("/reset", "ServerDisconnectedError"),
    ],
)
@pytest.mark.faults("faulty server")
def test_each_fault_is_one_reason(server, path, reason):
    answer = get(server, path)
    assert answer.content is None
    assert answer.reason.startswith(reason)
    assert "\n" not in answer.reason


def test_largest_image_allowed_is_not_cut(server):
    assert get(server, "/good/big").content == bytes(200_000)


@pytest.mark.faults("faulty server")
def test_endless_body_is_stopped_at_the_limit_and_not_read_on(server):
    before = server.bytes_sent
    get(server, "/huge")
    time.sleep(0.1)
    # Socket buffers beyond the limit, not a stream without end.
    assert server.bytes_sent - before < 20_000_000


@pytest.mark.faults("faulty server")
def test_passing_faults_are_retried_and_lasting_ones_not(server):
    assert get(server, "/flaky/a.jpg").content == b"image a"
    assert server.seen["/flaky/a.jpg"] == 3
    get(server, "/gone")
    assert server.seen["/gone"] == 1
    assert get(server, "/flaky/b?", replace(QUICK, retries=1)).reason == "HTTP 503 (2 attempts)"


def test_redirects_up_to_the_limit_are_followed(server):
    assert get(server, "/hop/3/good/a.jpg").content == b"image a"
    assert get(server, "/hop/4/good/a.jpg").reason == "more than 3 redirects"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("64:ff9b:1::a00:1", False),  # NAT64 within a site
        ("fec0::1", False),  # site-local
        ("::10.0.0.1", False),  # IPv4 in IPv6 as it was first written
        ("192.0.0.192", False),  # protocols
        ("64:ff9b::a00:1", False),  # 10.0.0.1 behind NAT64
        ("64:ff9b::8.8.8.8", True),
        ("::ffff:8.8.8.8", True),
        ("2606:4700:4700::1111", True),
        ("192.0.1.1", True),
    ],
)
def test_addresses_that_some_pythons_call_global_are_not_public(address, expected):
    assert is_public(address) is expected


@pytest.mark.faults("hostile server")
def test_private_addresses_are_refused_before_anything_is_sent(server):
    closed = replace(QUICK, allow_networks=[])
    before = sum(server.seen.values())
    for host in ("127.0.0.1", "localhost", "127.1", "0x7f.0.0.1", "2130706433", "[::ffff:7f00:1]", "0.0.0.0"):
        answer = fetch([f"http://{host}:{server.server_address[1]}/good/a.jpg"], closed, Path("."))[0]
        assert answer.content is None, (host, answer)
        assert "refused: " in answer.reason or "not a canonical IPv4 address" in answer.reason, (host, answer)
    assert sum(server.seen.values()) == before


@pytest.mark.faults("hostile server")
def test_name_that_turns_to_a_private_address_is_refused_on_the_address_connected_to(server, monkeypatch):
    answers = iter(["127.0.0.1", "127.0.0.2"])  # allowed when first asked, another machine when asked again
    real = socket.getaddrinfo

    def rebinding(host, port, *rest, **options):
        if host not in ("rebinding.example", b"rebinding.example"):
            return real(host, port, *rest, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    url = f"http://rebinding.example:{server.server_address[1]}/good/a.jpg"
    assert fetch([url], QUICK, Path("."))[0].content == b"image a"
    assert fetch([url], QUICK, Path("."))[0].reason.startswith("refused: 127.0.0.2")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "::ffff:192.168.0.1",
        "2002:7f00:1::",
        "64:ff9b::a00:1",
    ],
)
def test_no_way_of_writing_a_private_address_counts_as_public(address):
    assert not is_public(address)


def test_public_addresses_count_as_public():
    assert all(map(is_public, ("1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1")))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=12),
            st.tuples(st.sampled_from(["http://", "https://", "ftp://", "HTTP://[", "x://"]), st.text(max_size=12)).map(
                "".join
            ),
        ),
        max_size=5,
    )
)
def test_any_reference_comes_back_once_with_a_reason_and_nothing_raises(tmp_path_factory, references):
    """No name is found and no address is public: nothing is connected to."""
    empty = tmp_path_factory.getbasetemp() / "empty"
    empty.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", nowhere)
        patch.setattr("pipeline.captions.fetch.is_public", lambda address: False)
        answers = fetch(references, Fetch(retries=0, timeout_seconds=5), empty)
    assert [answer.reference for answer in answers] == references
    for answer in answers:
        assert answer.content is None and answer.reason.strip() and "\n" not in answer.reason, answer


def nowhere(*_, **__):
    raise socket.gaierror(socket.EAI_NONAME, "no such name")


def test_malformed_references_are_reasons(server):
    bad = [
        "http://",
        "ftp://example.com/a.jpg",
        "http://[::1/x",
        "javascript://alert(1)",
        "http://a b/c",
        "https://:80/",
        "http://a..b/",
        f"http://{'a' * 70}.example/",  # too long a label for a name's encoding
    ]
    for answer in fetch(bad, QUICK, Path(".")):
        assert answer.content is None and answer.reason, answer


def test_files_are_read_and_what_is_no_file_is_a_reason(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"image a")
    (tmp_path / "big").write_bytes(bytes(200_001))
    os.mkfifo(tmp_path / "pipe")
    too_large = "200,001 bytes, more than max_bytes 200,000"
    expected = {
        "a.jpg": "",
        "none.jpg": "no such file",
        "big": too_large,
        "pipe": "not a file",
        ".": "not a file",
        "nul\0.jpg": "unreadable",
        str(tmp_path / "a.jpg"): "",
        "x" * 5000: "unreadable",
        "two\nlines": "no such file",
    }
    answers = fetch(list(expected), QUICK, tmp_path)
    assert {answer.reference: answer.reason.split(":")[0] for answer in answers} == expected
    for answer in answers:
        assert answer.content == (None if answer.reason else b"image a") and "\n" not in answer.reason


def test_answers_keep_their_order_and_come_in_parallel(server):
    urls = [server.url + path for path in ["/good/a.jpg", "/slow", "/slow?1", "/slow?2", "/absent"] * 3]
    started = time.monotonic()
    answers = fetch(urls, replace(QUICK, retries=0, per_host=16), Path("."))
    assert time.monotonic() - started < 3  # nine slow ones one after the other would be over five seconds
    assert [answer.reference for answer in answers] == urls
    assert [answer.content is not None for answer in answers] == [True, False, False, False, False] * 3


def test_waiting_for_a_turn_at_a_host_is_not_counted_as_its_slowness(server):
    urls = [server.url + path for path in ("/slow?4", "/slow?5", "/good/a.jpg")]
    answers = fetch(urls, replace(QUICK, retries=0, per_host=1), Path("."))
    assert answers[2].content == b"image a"  # 1.2 s after the start, with a time-out of 0.6 s


def test_queue_at_one_host_holds_up_no_other(server, tmp_path):
    with faulty_server({"b.jpg": b"image b"}) as other:
        slow = [f"/slow?{n}" for n in range(90, 92)]
        urls = [*(server.url.replace("127.0.0.1", "localhost") + path for path in slow), other.url + "/good/b.jpg"]
        options = replace(QUICK, retries=0, per_host=1, concurrency=2, timeout_seconds=2.0)
        assert fetch(urls, options, tmp_path)[-1].content == b"image b"
        assert other.asked_at["/good/b.jpg"] < server.asked_at[slow[1]]  # beside the first slow one


def test_networks_that_are_none_are_bad_input():
    assert [key for key, _ in Fetch(allow_networks=["10.0.0.1/8", "::1/128", "localhost"]).rules()] == [
        "allow_networks"
    ] * 2
