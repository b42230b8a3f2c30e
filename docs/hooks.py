"""MkDocs: the pages that stand at the top of the repository join those of docs/, with links that hold in both."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")


def on_files(files: Files, config: Any) -> Files:
    for name in PAGES:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    if page.file.src_uri in PAGES:
        return markdown.replace("](docs/", "](")
    return re.sub(rf"\]\(((?:\.\./)*)\.\./({'|'.join(map(re.escape, PAGES))})", r"](\1\2", markdown)
