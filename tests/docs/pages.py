"""README and docs/ as text: their code blocks, and the commands in them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(
    r"^(?:[ ]*<!-- not run: (?P<why>[^\n]+) -->\n)?[ ]*```(?P<language>\S*)\n(?P<body>.*?)^[ ]*```$", re.S | re.M
)


@dataclass(frozen=True)
class Command:
    page: Path
    line: str  # without comments and explanations
    why_not_run: str  # what stands above its block; "" where it can be run


def commands(page: Path, program: str = "guie") -> list[Command]:
    """The lines of the page's code blocks that begin with the program's name; those of notebooks with a "!"."""
    found = []
    for block in FENCE.finditer(page.read_text(encoding="utf-8")):
        body = block["body"].replace("\\\n", " ")
        parts = [part for line in body.splitlines() for part in line.strip().removeprefix("!").split(" && ")]
        for line in [part for part in parts if part.startswith(f"{program} ")]:
            bare = re.split(r"\s+#|\s{3,}", line.strip())[0]
            if not re.match(rf"{program} \S+:", bare):  # what a command said
                found.append(Command(page, " ".join(bare.split()), block["why"] or ""))
    return found


def every_command(program: str = "guie") -> list[Command]:
    return [each for page in PAGES for each in commands(page, program)]


def python_blocks() -> list[tuple[str, str]]:
    """(page, code) of every block of Python."""
    blocks = [(page, block) for page in PAGES for block in FENCE.finditer(page.read_text(encoding="utf-8"))]
    return [(page.name, block["body"]) for page, block in blocks if block["language"] == "python"]
