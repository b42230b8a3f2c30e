"""Files that come with guie beside its code: configs, and what is pushed to Kaggle; from the checkout or the wheel."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import BadInput, nearest

_PACKAGE = Path(__file__).resolve().parents[1]
_IN_WHEEL = _PACKAGE / "packaged"  # setup.py copies configs/ and kaggle/ there; a checkout has none
ROOT = _PACKAGE.parent  # the checkout, or site-packages


def folder(name: str) -> Path:
    """The folder `configs` or `kaggle`."""
    return (_IN_WHEEL if _IN_WHEEL.is_dir() else ROOT) / name


def is_checkout() -> bool:
    return not _IN_WHEEL.is_dir() and (ROOT / "setup.py").is_file()


def names() -> list[str]:
    """The names of the packaged configs."""
    return sorted(path.stem for path in folder("configs").glob("*.yaml"))


def is_config(word: str) -> bool:
    """Whether a word of the command line names a config: a YAML file, or a packaged one."""
    return word.endswith((".yaml", ".yml")) or (word in names() and not Path(word).is_file())


def find(path: str | Path) -> Path:
    """The file of a config: `path` where it is one, else the packaged config of that name; BadInput for neither."""
    path = Path(path)
    if path.is_file():
        return path
    known = names()
    if str(path) in known:
        return folder("configs") / f"{path}.yaml"
    came = "is a folder" if path.is_dir() else "does not exist"
    if path.stem in known:
        raise BadInput(f"expected a config file, {path} {came}; guie brings one of that name along: {path.stem}")
    if path.suffix or path.is_dir() or len(path.parts) > 1:
        files = [each.name for each in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        near = f"; nearest: {nearest(path.name, files)}" if files else ""
        raise BadInput(f"expected a config file, {path} {came}{near}")
    what = f"expected a config file or the name of a packaged config, {str(path)!r} is neither"
    raise BadInput(f"{what}; nearest: {nearest(str(path), known, most=3)}; `guie configs` lists them")


@dataclass(frozen=True)
class Head:
    """The comment at a config's top."""

    title: str  # the first paragraph, on one line
    commands: list[str]  # the lines that start with guie, or a variable and guie, without what explains them

    @property
    def command(self) -> str:
        """The command that takes the config, run or train before one stage of them: run, zero-shot, …"""
        found = [words[1] for each in self.commands if len(words := each.split()) > 1]
        return next((name for name in ("run", "train", *found) if name in found), "run")


def head(text: str) -> Head:
    """The head of a config's text.

    >>> head("# Birds\\n# and bees.\\n#\\n#   A=b guie train configs/x.yaml     (some minutes)\\n#\\n# More.\\na: 1\\n")
    Head(title='Birds and bees.', commands=['guie train configs/x.yaml'])
    """
    lines = text.splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    lines = [line.removeprefix("#") for line in lines[:end]]
    blank = next((number for number, line in enumerate(lines) if not line.strip()), len(lines))
    indented = [line[line.index("guie ") :] for line in lines if line.startswith("   ") and "guie " in line]
    return Head(" ".join(line.strip() for line in lines[:blank]), [line.split("   ")[0].strip() for line in indented])
