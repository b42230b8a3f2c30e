"""Runs side by side: which scored the same queries, how far one is ahead of another, which queries changed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline import files, marks
from pipeline.config import Run, load_from
from pipeline.errors import BadInput
from pipeline.evaluation import precisions, score_table, scored
from pipeline.evaluation.precisions import EMBEDDER, UNSEEN, WHOLE
from pipeline.evaluation.scored import Scored
from pipeline.pages import verdict
from pipeline.retrieval import intervals
from pipeline.stages import depends

Query = tuple[str, str, str]  # domain, key, class: images of another set may have the same keys
APART = ("name", "run_dir")  # keys of a config in which any two runs differ


@dataclass(frozen=True)
class Side:
    """A run, as far as its folder tells of it."""

    name: str
    folder: Path
    result: dict[str, Any]  # metrics.json
    values: dict[str, np.ndarray]  # group of `precisions` → float64 [Q], means over seeds; empty: not kept
    images: Scored | None  # of the first seed; None: not kept
    config: Run | None
    outdated: str = ""  # how the config is not that of the scores, as part of a line

    def queries(self, group: str) -> list[Query] | None:
        """The queries of a group, in the order of their values; None where they are not known."""
        if self.images is None or group not in self.values:
            return None
        rows = self.images.rows(scored.QUERY).tolist()
        found = [(self.images.domains[row], self.images.keys[row], self.images.classes[row]) for row in rows]
        if group.startswith(prefix := precisions.of_domain("")):
            found = [each for each in found if each[0] == group.removeprefix(prefix)]
        if group == UNSEEN:
            found = [each for each in found if not self.result["domains"][each[0]].get("left_out")]
        return found if len(found) == len(self.values[group]) else None


class Difference(NamedTuple):
    """How far a run is ahead of another one."""

    mean: float
    bounds: tuple[float, float]  # 95 % interval
    paired: bool  # over the same queries, one by one

    @property
    def word(self) -> str:
        return verdict.word(self.bounds)


def open_run(folder: Path, name: str) -> Side:
    """Raises BadInput where the folder holds no metrics.json, or a damaged file."""
    if not (folder / "metrics.json").is_file():
        raise BadInput(f"expected a run that was scored, {folder} holds no metrics.json: `guie run` writes it")
    result = files.read_json(folder / "metrics.json")
    if not isinstance(result, dict) or not {"mP@5", "domains"} <= result.keys():
        raise BadInput(f"{folder / 'metrics.json'}: expected the scores of `guie run`, with mP@5 and domains")
    parts = [folder / f"seed-{seed}" for seed in result.get("seeds", {})] or [folder]
    images = scored.read(parts[0] / scored.FOLDER) if (parts[0] / scored.FOLDER).is_dir() else None
    config = _config(folder)
    return Side(name, folder, result, _values(parts), images, config, _outdated(config))


def names(folders: list[Path]) -> list[str]:
    """What runs are called: their folders' names, or the paths where two are called alike."""
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def groups(sides: list[Side]) -> dict[str, str]:
    """Group of `precisions` → the name of its row, in the order of the score table; of any of the runs."""
    found: dict[str, str] = {}
    for side in sides:
        found |= {precisions.of_domain(name): name for name in side.result["domains"]}
    if any(UNSEEN in side.result for side in sides):
        found[UNSEEN] = score_table.UNSEEN_ROW
    if len(found) > 1:
        found[WHOLE] = score_table.WHOLE_ROW
    return found


def of_group(side: Side, group: str) -> dict[str, Any] | None:
    """The scores of a group in metrics.json; None where the run has no such group."""
    if group == WHOLE:
        return side.result
    if group == UNSEEN:
        return side.result.get(UNSEEN)
    return side.result["domains"].get(group.removeprefix(precisions.of_domain("")))


def difference(first: Side, other: Side, group: str) -> Difference | None:
    """How far `other` is ahead of `first`; None where one of them lacks the group, or an interval."""
    one, two = of_group(first, group), of_group(other, group)
    if one is None or two is None:
        return None
    queries = first.queries(group)
    if queries is not None and queries == other.queries(group):
        ours, theirs = first.values[group], other.values[group]
        return Difference(float(theirs.mean() - ours.mean()), intervals.paired(theirs, ours), True)
    if not one.get("interval") or not two.get("interval"):  # of an earlier version
        return None
    mean = two["mP@5"] - one["mP@5"]
    half = float(np.hypot(*((high - low) / 2 for low, high in (one["interval"], two["interval"]))))  # independent
    return Difference(mean, (mean - half, mean + half), False)


def changed(first: Side, other: Side, most: int) -> tuple[list[int], list[int], np.ndarray]:
    """Positions of the queries that gained most and that lost most, and every query's change, float64 [Q].

    Empty where the runs did not score the same queries.
    """
    queries = first.queries(WHOLE)
    if queries is None or queries != other.queries(WHOLE):
        return [], [], np.zeros(0)
    change = np.round(other.values[WHOLE] - first.values[WHOLE], 9)
    order = np.argsort(-change, kind="stable")
    gained = [at for at in order.tolist() if change[at] > 0][:most]
    lost = [at for at in order[::-1].tolist() if change[at] < 0][:most]
    return gained, lost, change


def keys_that_differ(sides: list[Side]) -> list[list[str]]:
    """Rows: a key of the configs and its value in each run; without configs no rows."""
    configs = [side.config for side in sides]
    if not all(configs):
        return []
    flats = [marks.flat(each, "") for each in configs]
    keys = dict.fromkeys(key for flat in flats for key in flat)
    rows = [[key, *(_text(flat[key]) if key in flat else "–" for flat in flats)] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1 and row[0] not in APART]


def _values(parts: list[Path]) -> dict[str, np.ndarray]:
    paths = [part / "precisions.npz" for part in parts]
    if not all(path.is_file() for path in paths):
        return {}
    try:
        found = precisions.stack([precisions.read(path) for path in paths])
        return {group: rows[EMBEDDER].mean(axis=0) for group, rows in found.items()}
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{paths[0]}: expected the precisions of `guie run` ({type(error).__name__})") from None


def _config(folder: Path) -> Run | None:
    try:
        return load_from(folder)
    except BadInput:  # of an earlier version, or moved without it
        return None


def _outdated(config: Run | None) -> str:
    try:
        return marks.said(depends.keys_since_score(config)) if config else ""
    except BadInput:  # of images that are gone since
        return ""


def _text(value: Any) -> str:
    return "–" if value is None else str(value)
