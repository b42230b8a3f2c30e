"""Captions: a bad row is a row with its reason, retrieval is what the slow way counts, a rerun goes on."""

import csv
import io
import json
import mmap
import os
import shutil
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import cli
from pipeline.captions import command, embeddings
from pipeline.captions.caption_table import Pair, Table, read_pairs
from pipeline.captions.metering import Meter
from pipeline.errors import BadInput
from pipeline.models.dual_encoder import DualEncoder
from tests.captions.faulty_server import faulty_server
from tests.models.tiny_dual_encoder import MODEL, clip_tiny

CONFIG = """
table: {table}
images: {images}
run_dir: {run_dir}
model: {{encoder: {{name: clip_tiny}}}}
fetch: {{timeout_seconds: 0.8, max_bytes: 100000, retries: 1, backoff_seconds: 0.01, max_redirects: 3,
         allow_networks: [127.0.0.1/32]}}
max_megapixels: 1
"""


def picture(colour: tuple[int, int, int], side: int = 40, form: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side + 9), colour).save(stream, form)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def encoder_built_once(monkeypatch):
    """Building it takes seconds and is test_text's business."""

    def build(model):
        return clip_tiny() if model == MODEL else DualEncoder(model)

    monkeypatch.setattr(command, "DualEncoder", build)


def run(tmp_path: Path, table: str, *overrides: str) -> tuple[int, list[dict[str, str]], dict]:
    """`guie captions` on the table; (exit code, result rows, summary)."""
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "table.csv").write_text(table, encoding="utf-8")
    paths = {"table": tmp_path / "table.csv", "images": tmp_path / "images", "run_dir": tmp_path / "run"}
    (tmp_path / "captions.yaml").write_text(CONFIG.format(**paths))
    code = cli.main(["captions", str(tmp_path / "captions.yaml"), *overrides])
    if code:
        return code, [], {}
    with (tmp_path / "run" / "captions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return code, rows, json.loads((tmp_path / "run" / "summary.json").read_text())


@pytest.mark.faults("faulty server")
def test_every_fault_is_a_row_with_its_reason_and_stops_nothing(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "red.jpg").write_bytes(picture((200, 0, 0)))
    (tmp_path / "images" / "text.jpg").write_text("no image at all")
    (tmp_path / "images" / "half.jpg").write_bytes(picture((0, 9, 9), 200)[:900])
    (tmp_path / "images" / "wide.png").write_bytes(picture((1, 2, 3), 1100, "PNG"))
    with faulty_server({"blue.jpg": picture((0, 0, 200)), "green.png": picture((0, 200, 0), 30, "PNG")}) as server:
        expected = {
            "red.jpg": "",
            f"{server.url}/good/blue.jpg": "",
            f"{server.url}/hop/2/good/green.png": "",
            f"{server.url}/flaky/blue.jpg": "HTTP 503 (2 attempts)",
            f"{server.url}/absent": "HTTP 404",
            f"{server.url}/slow": "no whole answer within 0.8 s (2 attempts)",
            f"{server.url}/truncated": "the body broke off (2 attempts)",
            f"{server.url}/huge": "more than max_bytes 100,000",
            f"{server.url}/loop/0": "more than 3 redirects",
            f"{server.url}/to/http://10.1.1.1/x": "refused: 10.1.1.1 is not a public address (fetch.allow_networks)",
            f"{server.url}/text": "not an image",
            "ftp://example.com/a.jpg": "not a URL of http or https",
            "text.jpg": "not an image",
            "half.jpg": "not a readable image",
            "wide.png": "1.2 megapixels, more than max_megapixels 1",
            "none.jpg": "no such file",
            "": "no image",
        }
        table = "image,caption\n" + "".join(f"{name},a caption\n" for name in expected)
        code, rows, summary = run(tmp_path, table + "red.jpg,\nred.jpg,a,b\n")
        asked = server.seen["/good/blue.jpg"]
        assert code == 0
        assert [row["image"] for row in rows] == [*expected, "red.jpg", "red.jpg"]
        for row, reason in zip(rows, [*expected.values(), "no caption", "3 fields, expected 2"], strict=True):
            assert row["reason"].startswith(reason) and bool(row["reason"]) == bool(reason), row
            assert bool(row["similarity"]) == (not reason)
        assert (summary["rows"], summary["scored"]) == (len(expected) + 2, 3)
        assert sum(summary["reasons"].values()) == len(expected) - 1
        assert summary["retrieval"]["size"] == {"images": 3, "texts": 3}
        assert capsys.readouterr().out.splitlines()[-1].startswith("captions: 19 rows, 3 scored, 16 not:")

        code, again, _ = run(tmp_path, table)  # now the flaky server has recovered
        assert server.seen["/good/blue.jpg"] == asked  # what could be had is not asked for again
        changed = [row["image"] for row, before in zip(again, rows, strict=False) if row != before]
        assert changed == [f"{server.url}/flaky/blue.jpg"]
        assert again[3]["similarity"] == again[1]["similarity"] and not again[3]["reason"]


def test_nasty_captions_are_scored_and_cut_ones_counted(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(picture((9, 99, 9)))
    texts = ["plain", "😀👩‍👩‍👧", "שלום עולם", "tab\tand\nline", 'a "quote"', "word " * 10_000, "=cmd()", "plain"]
    stream = io.StringIO()
    csv.writer(stream).writerows([["image", "caption"], *(["a.jpg", text] for text in texts)])
    code, rows, summary = run(tmp_path, "\ufeff" + stream.getvalue())
    assert code == 0 and [row["caption"] for row in rows] == [text.strip() for text in texts]
    values = [float(row["similarity"]) for row in rows]
    assert values[0] == values[-1] and len(set(values)) == len(texts) - 1
    assert all(abs(float(row["logit"]) - float(row["similarity"]) / 0.07) < 1e-4 for row in rows)
    assert [int(row["tokens cut"]) for row in rows] == [0] * 5 + [10_000 - 75] + [0] * 2
    assert summary["captions cut"] == 1 and "retrieval" not in summary  # one image: nothing to find


def items_of(summary: dict) -> dict[str, int]:
    return {row["step"]: row["items"] for row in summary["steps"]}


def test_images_are_encoded_once_and_again_when_they_change(tmp_path):
    (tmp_path / "images").mkdir()
    image = tmp_path / "images" / "a.jpg"
    image.write_bytes(picture((9, 99, 9)))
    date = image.stat().st_mtime_ns
    table = "image,caption\na.jpg,one\na.jpg,two\n"
    _, first, summary = run(tmp_path, table)
    steps = {"loading": 1, "preprocessing": 1, "encoding images": 1, "tokenising": 2, "encoding texts": 2}
    assert items_of(summary) == steps
    _, second, summary = run(tmp_path, table)
    assert second == first and items_of(summary) == {"loading": 1, "tokenising": 2}
    image.write_bytes(picture((250, 0, 250), 77))
    os.utime(image, ns=(date, date))  # the bytes tell, not the date
    _, third, _ = run(tmp_path, table)
    assert third[0]["similarity"] != first[0]["similarity"]


def test_equal_images_are_encoded_once_and_each_unreadable_one_has_its_reason(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "copy.jpg"):
        (tmp_path / "images" / name).write_bytes(picture((9, 99, 9)))
    for name in ("text.jpg", "again.jpg"):
        (tmp_path / "images" / name).write_bytes(b"no image at all")
    table = "image,caption\n" + "".join(f"{name},x\n" for name in ("a.jpg", "text.jpg", "copy.jpg", "again.jpg"))
    _, rows, summary = run(tmp_path, table)
    assert [row["reason"] for row in rows] == ["", "not an image"] * 2
    assert rows[0]["similarity"] == rows[2]["similarity"] and items_of(summary)["encoding images"] == 1
    (tmp_path / "images" / "text.jpg").write_bytes(picture((99, 9, 9)))
    _, rows, summary = run(tmp_path, table)
    assert [bool(row["reason"]) for row in rows] == [False, False, False, True]
    assert items_of(summary)["encoding images"] == 1


@pytest.mark.faults("kill")
def test_a_kill_loses_at_most_a_block(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for number in range(5):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(picture((9, 40 * number, 9)))
    table = "image,caption\n" + "".join(f"{number}.jpg,caption {number}\n" for number in range(5))
    monkeypatch.setattr(embeddings, "BLOCK", 2)
    real, calls = DualEncoder.encode_images, []

    def killed(self, images):
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(DualEncoder, "encode_images", killed)
        assert run(tmp_path, table)[0] == 130
    code, rows, summary = run(tmp_path, table)
    assert code == 0 and items_of(summary)["encoding images"] == 3 and all(row["similarity"] for row in rows)
    (tmp_path / "fresh").mkdir()
    shutil.copytree(tmp_path / "images", tmp_path / "fresh" / "images")
    assert run(tmp_path / "fresh", table)[1] == rows


def test_kinds_that_the_records_do_not_take_are_rows_with_a_reason(tmp_path):
    """Pillow's plugin for DDS raises NotImplementedError for these pixel flags, that for FTEX AssertionError."""
    (tmp_path / "images").mkdir()
    header = b"DDS " + struct.pack("<7I44x", 124, 0x1007, 8, 8, 0, 0, 0) + struct.pack("<8I", 32, 0x99, *[0] * 6)
    (tmp_path / "images" / "odd.dds").write_bytes(header + bytes(20))
    ftex = b"FTEX" + struct.pack("<I2i2i", 1, 8, 8, 1, 7) + struct.pack("<2i", 0, 0)
    (tmp_path / "images" / "odd.ftu").write_bytes(ftex + bytes(64))
    (tmp_path / "images" / "a.jpg").write_bytes(picture((9, 99, 9)))
    code, rows, summary = run(tmp_path, "image,caption\nodd.dds,x\nodd.ftu,x\na.jpg,x\n")
    assert code == 0 and summary["scored"] == 1
    assert [row["reason"] for row in rows] == ["not an image", "not an image", ""]


def test_a_new_caption_alone_is_encoded(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(picture((9, 99, 9)))
    _, first, _ = run(tmp_path, "image,caption\na.jpg,one\na.jpg,two\n")
    _, second, summary = run(tmp_path, "image,caption\na.jpg,new\na.jpg,one\na.jpg,two\n")
    assert (items_of(summary)["tokenising"], items_of(summary)["encoding texts"]) == (3, 1)
    assert [row["similarity"] for row in second[1:]] == [row["similarity"] for row in first]


def test_caption_that_is_its_image_s_url_has_its_own_embedding(tmp_path):
    """A URL's cache key is its text's."""
    with faulty_server({"a.jpg": picture((9, 99, 9))}) as server:
        table = f"image,caption\n{server.url}/good/a.jpg,{server.url}/good/a.jpg\n"
        _, first, _ = run(tmp_path, table)
        _, second, _ = run(tmp_path, table)
    assert first == second and float(first[0]["similarity"]) < 0.99


@pytest.mark.faults("stale results")
def test_another_model_finds_nothing_in_the_cache(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(picture((9, 99, 9)))
    _, first, _ = run(tmp_path, "image,caption\na.jpg,one\n")
    _, other, summary = run(tmp_path, "image,caption\na.jpg,one\n", "model.seed=1")
    assert items_of(summary)["encoding images"] == items_of(summary)["encoding texts"] == 1
    assert other[0]["similarity"] != first[0]["similarity"]


def test_table_of_bad_rows_alone_ends_well(tmp_path):
    code, rows, summary = run(tmp_path, "image,caption\nnone.jpg,x\n,y\n")
    assert code == 0 and len(rows) == 2 and summary["scored"] == 0 and summary["similarity"] == {}


def test_reasons_that_differ_in_numbers_and_paths_alone_are_counted_together():
    reasons = [
        "HTTP 503 (2 attempts)",
        "HTTP 503 (3 attempts)",
        "HTTP 404",
        "no such file: /a/b",
        "no such file: /c",
        "1.2 megapixels, more than max_megapixels 1",
        "13.5 megapixels, more than max_megapixels 1",
        "",
    ]
    rows = [[2, "a", "b", "", "", "", reason] for reason in reasons]
    with Meter() as meter:
        nothing = np.zeros(0, np.float32)
        assert command.summarise(MODEL, rows, nothing, nothing, meter)["reasons"] == {
            "HTTP 503 (N attempts)": 2,
            "no such file": 2,
            "N megapixels, more than max_megapixels N": 2,
            "HTTP 404": 1,
        }


def test_retrieval_counts_what_the_slow_way_counts():
    random = np.random.default_rng(0)
    names = [f"i{n}" for n in range(30)]
    pairs = [Pair(n, names[random.integers(30)], f"t{n}") for n in range(80)]
    names = list(dict.fromkeys(pair.image for pair in pairs))

    def unit(x):
        return (x / np.linalg.norm(x)).astype(np.float32)

    images = {name: unit(random.normal(size=16)) for name in names}
    texts = {pair.caption: unit(images[pair.image] + 0.5 * random.normal(size=16)) for pair in pairs}
    found = command.retrieval(pairs, images, texts)
    for k in (1, 5, 10):
        right = 0
        for pair in pairs:
            best = sorted(names, key=lambda name: -float(images[name] @ texts[pair.caption]))
            right += pair.image in best[:k]
        assert found["text to image"][f"R@{k}"] == pytest.approx(right / len(pairs), abs=1e-6)
        right = 0
        for name in names:
            nearest = sorted(pairs, key=lambda pair: -float(images[name] @ texts[pair.caption]))
            right += any(pair.image == name for pair in nearest[:k])
        assert found["image to text"][f"R@{k}"] == pytest.approx(right / len(names), abs=1e-6)
    assert 0.1 < found["text to image"]["R@1"] < 0.9  # neither trivial


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "expected a column"),
        (b"image,caption\n", "no rows"),
        (b"a.jpg,hello\n", "format.header=false"),
        (b"Image,captions\na,b\n", "is it 'Image'"),
        (b"image\tcaption\na\tb\n", "format.delimiter"),
        (b"image\na\n", "'caption'"),
        (b"image,caption,image\na,b,c\n", "2 times"),
        (b"image,caption\na,caf\xe9\n", "line 2 is not utf-8"),
        ("image,caption\na,b\n".encode("utf-16"), "format.encoding=utf-16"),
    ],
)
def test_unusable_tables_are_one_clear_line(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_pairs(tmp_path / "t.csv", Table())


@pytest.mark.parametrize(
    ("content", "table"),
    [
        (b"image,caption\na,b\n", Table()),
        (b"\xef\xbb\xbfimage,caption\r\na,b\r\n", Table()),
        (b"caption,x,image\nb,-,a\n", Table()),
        (b"url;text\na;b\n", Table("url", "text", delimiter=";")),
        (b"image\tcaption\na\tb\n", Table(delimiter="\t")),
        (b"a,b\n", Table("0", "1", header=False)),
        (b"b,a\n", Table("1", "0", header=False)),
        ("image,caption\na,b\n".encode("utf-16"), Table(encoding="utf-16")),
        (b"\nimage,caption\n\na,b\n\n", Table()),
        (b'"image","caption"\n"a","b"', Table()),
    ],
)
def test_other_ways_of_writing_the_table_are_read(tmp_path, content, table):
    (tmp_path / "t.csv").write_bytes(content)
    assert [(pair.image, pair.caption, pair.reason) for pair in read_pairs(tmp_path / "t.csv", table)] == [
        ("a", "b", "")
    ]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("no delimiter here", "1 fields, expected 2"),
        ("", None),  # blank: no row
        ("a,b,c,d", "4 fields, expected 2: a caption with the delimiter in it needs quotes"),
        ('x,"open', "a quote is never closed"),
        ('"open', "a quote is never closed"),
        (",no image", "no image"),
        ("no caption,", "no caption"),
        ("x," + "y" * 10_000_001, "a field of more than 10,000,000 characters"),
    ],
)
def test_a_faulty_first_row_without_a_header_stops_nothing(tmp_path, bad, reason):
    good = ["a.jpg,one", 'b.jpg,"two, three"', "c.jpg,four"]
    table = Table(header=False, image_column="0", caption_column="1")
    for place in range(3):  # first, and between the others
        rows = [*good[:place], bad, *good[place:]]
        (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
        pairs = read_pairs(tmp_path / "t.csv", table)
        assert [(pair.image, pair.caption) for pair in pairs if not pair.reason] == [
            ("a.jpg", "one"), ("b.jpg", "two, three"), ("c.jpg", "four")
        ]  # fmt: skip
        faulty = [(pair.line, pair.reason) for pair in pairs if pair.reason]
        assert faulty == ([(place + 1, reason)] if reason else [])


def test_columns_that_most_rows_without_a_header_lack_are_named(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c\na,b\na,b\n")
    table = Table(header=False, image_column="0", caption_column="2")
    with pytest.raises(BadInput, match="expected a column 2, most rows have 2 fields"):
        read_pairs(tmp_path / "t.csv", table)
    (tmp_path / "t.csv").write_text("a,b\na,b,c\n")  # as many of each: those that hold what is asked for
    assert [pair.reason for pair in read_pairs(tmp_path / "t.csv", table)] == ["2 fields, expected 3", ""]


def test_quote_that_is_never_closed_swallows_no_other_row(tmp_path):
    (tmp_path / "t.csv").write_text(
        'image,caption\na,"open\nb,fine\nc,"one, two"\nd,"again open\ne,"two\nlines"\nf,x\n'
    )
    pairs = read_pairs(tmp_path / "t.csv", Table())
    assert [(pair.image, pair.reason != "") for pair in pairs] == [
        ("a", True), ("b", False), ("c", False), ("d", True), ("e", False), ("f", False)
    ]  # fmt: skip
    assert [pair.caption for pair in pairs if not pair.reason] == ["fine", "one, two", "two\nlines", "x"]
    assert [pair.line for pair in pairs] == [2, 3, 4, 5, 6, 8]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=8), st.text(alphabet='a", \n\t;é\u2028', max_size=8)), max_size=6))
def test_every_row_that_csv_writes_comes_back_once_with_its_fields_or_a_reason(tmp_path_factory, written):
    stream = io.StringIO()
    csv.writer(stream).writerows([["image", "caption"], ["first", "row"], *written])
    path = tmp_path_factory.getbasetemp() / "written.csv"
    path.write_text(stream.getvalue(), encoding="utf-8", newline="")
    pairs = read_pairs(path, Table())

    def read(field: str) -> str:
        return field.replace("\r\n", "\n").replace("\r", "\n").strip()

    assert [(pair.image, pair.caption) for pair in pairs] == [
        ("first", "row"), *((read(image), read(caption)) for image, caption in written)
    ]  # fmt: skip
    for pair in pairs:
        missing = "no image" if not pair.image else "no caption" if not pair.caption else ""
        assert pair.reason == missing


@settings(deadline=None)
@given(st.text(alphabet='ab", \n\r;', max_size=60))
def test_any_text_is_read_as_rows_in_order_each_with_both_fields_or_a_reason(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text("image,caption\nfirst,row\n" + text, encoding="utf-8", newline="")
    pairs = read_pairs(path, Table())
    starts = [pair.line for pair in pairs]
    assert pairs[0] == Pair(2, "first", "row") and starts == sorted(set(starts))
    assert all(pair.reason or (pair.image and pair.caption) for pair in pairs)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for start, end, pair in zip(starts, [*starts[1:], len(lines) + 1], pairs, strict=True):
        spanned = lines[start - 1 : end - 1]
        if sum(line != "\n" for line in spanned) > 1:  # one quoted field over several lines, not a lone quote
            rows = [row for row in csv.reader(spanned, strict=True) if row]
            assert len(rows) == 1 and len(rows[0]) == 2 and not pair.reason.startswith("a quote")


@pytest.mark.parametrize(
    "override",
    ["fetch.concurrency=0", "fetch.retries=-1", "fetch.timeout_seconds=0", "fetch.allow_networks=[localhost]",
     "max_megapixels=0", "model.encoder.name=dinov2_base", "format.delimiter=ab", "table=/none.csv", "tabel=x"],
)  # fmt: skip
def test_unusable_configs_end_with_code_2(tmp_path, override, capsys):
    (tmp_path / "t.csv").write_text("image,caption\na,b\n")
    paths = {"table": tmp_path / "t.csv", "images": tmp_path, "run_dir": tmp_path / "run"}
    (tmp_path / "c.yaml").write_text(CONFIG.format(**paths))
    assert cli.main(["captions", str(tmp_path / "c.yaml"), override]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_meter_counts_overlapping_threads_once_and_sees_memory_come_and_go():
    with Meter() as meter:

        def work():
            with meter.step("threads", 1):
                time.sleep(0.2)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with meter.step("large"):
            block = mmap.mmap(-1, 40_000_000)  # not from the allocator, which keeps what is freed
            np.frombuffer(block, np.uint8)[:] = 1
            time.sleep(0.05)
            block.close()
        with meter.step("small"):
            time.sleep(0.05)
    rows = {row["step"]: row for row in meter.rows()}
    assert 0.2 <= rows["threads"]["seconds"] < 0.4 and rows["threads"]["items"] == 3
    assert rows["large"]["peak MB"] - rows["small"]["peak MB"] > 30
    header, first, *_ = meter.table().splitlines()
    assert header.split() == ["step", "items", "seconds", "items/s", "peak", "MB", "above", "start"]
    assert first.split()[:3] == ["threads", "3", f"{rows['threads']['seconds']:.2f}"]
