"""Done-marks: how a stage knows that what it made is what it would make now, and says what changed if it is not.

A mark is a JSON file: `keys` (config key → value), `inputs` (name → what was read), `made` (name → what was written).
Files are known by `quick`, a digest of their sizes and times, and by `content`, a digest of their bytes. Equal
`quick` is taken as equal; else the bytes are compared, and where they are equal the mark gets the new `quick`.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline import files
from pipeline.guards.masked import shown
from pipeline.reading import READS, File, side_by_side

VERSION = 1  # of a mark's form
NEVER = "not done yet"
MEND = "choose another run_dir, or `guie run … --redo` removes what is stale and does it anew"
NAMED = 3  # reasons that a line names


class Input(Protocol):
    """What a stage depends on. `quick` and `content` are digests, "" where it is not known or not there.

    `may_go`: what is gone since cannot be compared, is not needed for what was made of it, and is no change.
    """

    @property
    def may_go(self) -> bool: ...

    def quick(self) -> str: ...

    def content(self) -> str: ...


@dataclass(frozen=True)
class Digest:
    """What is known by its content already."""

    digest: str
    may_go: bool = False

    def quick(self) -> str:
        return self.digest

    def content(self) -> str:
        return self.digest


@dataclass(frozen=True)
class Files:
    """Files under names that are the same wherever they lie."""

    named: Sequence[tuple[str, File]]
    beside: str = ""  # what else counts, such as the order in which images are listed
    may_go: bool = False

    @classmethod
    def below(cls, path: Path, may_go: bool = False) -> "Files":
        """A file, or every file of a folder; a file's own name does not count."""
        if not path.is_dir():
            return cls([("", path)], may_go=may_go)
        found = sorted(each for each in path.rglob("*") if each.is_file())
        return cls([(each.relative_to(path).as_posix(), each) for each in found], may_go=may_go)

    def quick(self) -> str:
        """ "" where a file is behind a URL: only its bytes tell."""
        if not all(isinstance(path, Path) for _, path in self.named):
            return ""
        names = [name for name, _ in self.named]
        return files.fingerprint([names, self.beside, stat_digest(str(path) for _, path in self.named)])

    def content(self) -> str:
        paths = [path for _, path in self.named]
        piece = 1 + len(paths) // (4 * READS)  # a task for each of many small files costs time and memory
        found = side_by_side(_content, paths, piece)
        if not any(found):
            return ""
        return of_contents(zip((name for name, _ in self.named), found, strict=True), self.beside)


def of_contents(named: Iterable[tuple[str, str]], beside: str = "") -> str:
    """`Files.content` of (name, SHA-256 of the file)."""
    return files.fingerprint([list(named), beside])


def stat_digest(paths: Iterable[str]) -> str:
    """16 hex digits of the files' sizes and times, in order; each path is looked at once.

    The time of the last change to the inode tells of a file that was written and given its old time again.
    """
    found: dict[str, bytes] = {}
    hasher = hashlib.sha256()
    for path in paths:
        if path not in found:
            try:
                facts = os.stat(path)
                numbers: tuple[int, ...] = (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
            except (OSError, ValueError):  # ValueError: a zero byte in a name of a table
                numbers = ()
            found[path] = repr(numbers).encode()
        hasher.update(found[path])
    return hasher.hexdigest()[:16]


def flat(section: Any, prefix: str) -> dict[str, Any]:
    """Dotted key → value of a dataclass, a list of them or a mapping; secrets as they may be written."""
    if dataclasses.is_dataclass(section) and not isinstance(section, type):
        section = dataclasses.asdict(section)
    rows: Iterable[tuple[Any, Any]] = ()
    if isinstance(section, Mapping):
        rows = section.items()
    elif isinstance(section, list) and any(isinstance(each, Mapping | list) for each in section):
        rows = enumerate(section)
    else:
        return {prefix: _written(section)}
    return {
        key: value
        for name, each in rows
        for key, value in flat(each, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def _written(value: Any) -> Any:
    """A value as a file may hold it; of one that the environment gave, its reference and a digest of it."""
    held = shown(value)
    return held if held == value else [held, files.fingerprint(value)]


def known(now: Input) -> dict[str, str]:
    """What a mark holds of an input. The stat comes first: what changes while it is read differs the next time."""
    return {"quick": now.quick(), "content": now.content()}


def same(then: dict[str, str], now: Input) -> bool:
    """Whether an input is what a mark holds of it; renews the mark's `quick` where only that differs."""
    quick = now.quick()
    if quick and quick == then.get("quick"):
        return True
    content = now.content()
    if content != then.get("content"):
        return now.may_go and not content
    then["quick"] = quick
    return True


def differences(then: Mapping[str, Any], keys: Mapping[str, Any], inputs: Mapping[str, Input]) -> list[str]:
    """What of a mark's keys and inputs is not as it is now, each as a few words."""
    if then.get("version") != VERSION or not all(isinstance(then.get(part), dict) for part in ("keys", "inputs")):
        return ["its mark is damaged or of another version of guie"]
    found = changed_keys(then["keys"], keys)
    held = then["inputs"]
    for name in [*inputs, *(each for each in held if each not in inputs)]:
        if name not in inputs or name not in held or not same(held[name], inputs[name]):
            found.append(f"{name} changed")
    return found


def changed_keys(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`records.cap_per_class was 7, is 4`, of every key that differs."""
    found = []
    for key in [*now, *(each for each in then if each not in now)]:
        before, after = (_shown(values, key) for values in (then, now))
        if before != after:
            found.append(f"{key} was {before}, is {after}")
    return found


def said(reasons: Sequence[str]) -> str:
    """The first reasons, as part of a line."""
    more = len(reasons) - NAMED
    return "; ".join(reasons[:NAMED]) + (f"; {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Stage:
    """What a stage makes in `folder`, of what; and the mark that says that it is done."""

    name: str
    folder: Path
    keys: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Input] = field(default_factory=dict)
    place: str = ".marks"  # the folder of the mark, in `folder`

    @property
    def path(self) -> Path:
        return self.folder / self.place / f"{self.name}.json"

    def read(self) -> dict[str, Any] | None:
        """The mark; {} where it is damaged, or names what is not in this folder; None where there is none."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            return found if _is_mark(found) else {}
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return {}

    def reasons(self, renew: bool = True) -> list[str]:
        """Why the stage is not done; empty where it is. With `renew` the mark is written where only stats differ."""
        then = self.read()
        if then is None:
            return [NEVER]
        before = json.dumps(then)
        found = differences(then, self.keys, self.inputs) + self.damaged(then)
        if renew and json.dumps(then) != before and not found:
            with contextlib.suppress(OSError):  # a folder that is only looked at
                files.write_json(self.path, then)
        return found

    def damaged(self, then: Mapping[str, Any]) -> list[str]:
        """What of that which a mark says was made is not there, or is not what was made."""
        if not then.get("finished") or not isinstance(then.get("made"), dict):
            return ["it was not finished"]
        found = []
        for name, held in then["made"].items():
            path = self.folder / name
            if not path.exists():
                found.append(f"{name} is missing")
            elif not same(held, Files.below(path)):
                found.append(f"{name} changed")
        return found

    def is_done(self) -> bool:
        """Whether the stage is done; says in one line what changed where it was."""
        found = self.reasons()
        if found and found != [NEVER]:
            print(f"{self.name.replace('_', ' ')}: {said(found)}: done again", flush=True)
        return not found

    def begin(self, makes: Sequence[str]) -> dict[str, Any]:
        """Call it before anything is read: the mark says what is read now, and that nothing is finished.

        What was made before and is not among `makes` is removed.
        """
        before = (self.read() or {}).get("made") or {}
        for name in before.keys() - set(makes):
            files.remove(self.folder / name)
        mark = self.begun(makes)
        files.write_json(self.path, mark)
        return mark

    def begun(self, makes: Sequence[str]) -> dict[str, Any]:
        """A mark of what is read now and of nothing finished, not written yet."""
        return {
            "version": VERSION,
            "finished": False,
            "keys": dict(self.keys),
            "inputs": {name: known(each) for name, each in self.inputs.items()},
            "made": {name: {} for name in makes},
        }

    def finish(self, mark: dict[str, Any]) -> None:
        """The mark that `begin` gave, with what was made."""
        made = {name: known(Files.below(self.folder / name)) for name in mark["made"]}
        files.write_json(self.path, {**mark, "finished": True, "made": made})

    def drop(self) -> None:
        """Removes what the stage made, then its mark: the config asks for it no more."""
        for name in (self.read() or {}).get("made") or {}:
            files.remove(self.folder / name)
        self.path.unlink(missing_ok=True)


def _is_mark(found: Any) -> bool:
    """A run folder may be somebody else's: what a mark says was made is removed, so it must lie within."""
    if not isinstance(found, dict) or not isinstance(found.get("keys"), dict):
        return False
    parts = [found.get("inputs"), found.get("made")]
    if not all(isinstance(part, dict) and all(isinstance(held, dict) for held in part.values()) for part in parts):
        return False
    paths = [Path(name) for name in found["made"]]
    return not any(path.is_absolute() or ".." in path.parts or path == Path() for path in paths)


def _content(path: File) -> str:
    """ "" where the file is not there."""
    if not isinstance(path, Path):
        return files.identity(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return ""


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False, default=str) if key in values else "not there"
