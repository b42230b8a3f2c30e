"""README is a door of two screens; what the pages say of links, keys, messages and targets is true of this checkout."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.docs import config_page
from tests.docs.pages import DOCS, FENCE, PAGES, ROOT

SHORTEST = 6  # characters of a message's fixed text that are looked for
ELSEWHERE = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^\"'> ]+")


def ids(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def test_the_readme_is_a_door_of_two_screens():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120 and len(text.split()) <= 900


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_links_and_pictures_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" not in target:
            assert (page.parent / path).exists() if path else anchor, f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_files_targets_and_modules_that_are_named_exist(page):
    """`configs/x.yaml`, `tests/x.py` and other paths in backticks, `make x`, `python -m x`."""
    text = page.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for path in re.findall(
        r"`((?:configs|docs|export|kaggle|pipeline|tests|tfrecords)/[\w/.-]+\.(?:py|md|yaml|txt))`", text
    ):
        assert (ROOT / path).exists(), f"{page}: {path}"
    for target in re.findall(r"(?:^|`)make ([a-z][\w-]*)", text, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), f"{page}: make {target}"
    for module in re.findall(r"python -m\s+((?:tests|export|pipeline|tfrecords)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{page}: {module}"


def test_the_page_of_keys_is_current():
    assert config_page.PAGE.read_text(encoding="utf-8") == config_page.page(), "python -m tests.docs.config_page"


@cache
def said_by_the_code() -> str:
    """Every text of the packages, a value in it as "…"."""
    texts = []
    for path in [each for room in ("pipeline", "tfrecords", "export") for each in (ROOT / room).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


MESSAGES = re.findall(r"^#### `(.+)`$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_that_is_explained_is_one_of_the_code(message):
    fixed = [part.strip() for part in message.split("…") if len(part.strip()) >= SHORTEST]
    assert fixed and all(part in said_by_the_code() for part in fixed)


@pytest.mark.slow
def test_the_site_builds_strictly_and_asks_no_other_host(tmp_path):
    """Broken links, pages without a place and unknown anchors fail; nothing on a page is fetched from elsewhere."""
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {path: path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")}
    assert len(pages) >= len(PAGES)  # README is none of them, CONTRIBUTING, SECURITY and CHANGELOG are
    for path, text in pages.items():
        assert not ELSEWHERE.findall(text), path
        assert not re.search(r"<p>[^<]*\n[-*] ", text), f"{path}: a list without an empty line above it"
