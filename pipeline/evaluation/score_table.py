"""The score table of metrics.json: one row a domain and the whole, one column an embedding. No TensorFlow."""

from collections.abc import Callable
from typing import Any

from pipeline import console
from pipeline.retrieval import intervals

WIDTH = 120  # columns of a terminal; a wider table breaks its headers at the underscores
UNSEEN_ROW, WHOLE_ROW = "unseen classes, one index", "all, one index"
TRAINED_ROW = "trained sources, one index"  # in its place where not all of their classes are known to be unseen
# Rows that training shall not fall behind, as a sentence names them; docs/ablation.md has what helped.
OWN = {"raw_features": "its encoder's raw features", "untrained": "its untrained self"}
HELPS = "try fewer epochs, a lower encoder_rate_factor, keep.features, init lda or half_whitened, or more classes"

Table = tuple[list[str], list[list[str]]]


def header_and_rows(result: dict[str, Any]) -> Table:
    """The table that `guie score` prints and `guie report` shows.

    Several domains have the whole as their last row. Where some were left out of training, the others are first, then
    their classes in one index, then those left out.
    """

    def cells(scores: dict[str, Any]) -> list[str]:
        return [
            f"{scores['queries']:,}",
            f"{scores['index']:,}",
            intervals.text(scores["mP@5"], scores.get("interval")),
            *(f"{value:.4f}" for value in scores["references"].values()),
        ]

    return ["mP@5", "queries", "index", "embedder", *result["references"]], _rows(result, cells)


def differences(result: dict[str, Any], word: Callable[[intervals.Interval], str] | None = None) -> Table | None:
    """How far the embedder is ahead of each reference on the same queries; None without a reference.

    `word`: says what an interval settles, after its number.
    """
    if not result.get("differences"):  # a metrics.json of an earlier version has none
        return None

    def cells(scores: dict[str, Any]) -> list[str]:
        ahead = scores["differences"].values()
        texts = [(intervals.text(each["mean"], each["interval"], "+.3f"), each["interval"]) for each in ahead]
        return [f"{text} {word(bounds)}" if word else text for text, bounds in texts]

    return ["embedder minus", *result["differences"]], _rows(result, cells)


def headline(result: dict[str, Any]) -> str:
    """mP@5 with its interval, and what is to be said of it; `result`: of metrics.json, or of `solution.score`."""
    said = f"mP@5 {intervals.text(result['mP@5'], result.get('interval'))}"
    caveat = _caveat(_whole(result))
    return f"{said} ({caveat})" if caveat else said


def notes(result: dict[str, Any], behind: bool = True) -> list[str]:
    """What the numbers do not say of themselves: too few classes or queries, classes trained on, nothing gained.

    `behind`: whether to say what the embedder is below.
    """
    caveats = {"": _caveat(_whole(result))} if result.get("index_classes") == 1 else {}
    if len(result["domains"]) > 1:
        caveats |= {f"{name}: ": _caveat(each) for name, each in result["domains"].items()}
    found = [f"warning: {name}{caveat}" for name, caveat in caveats.items() if caveat]
    if trained := result.get("classes_trained_on"):
        found.append(f"{trained:,} of {result['classes']:,} scored classes were trained on: no score on unseen classes")
    ahead = result.get("differences", {})
    above = [name for name in OWN if name in ahead and ahead[name]["interval"][1] < 0] if behind else []
    if above:
        by = {name: intervals.text(-ahead[name]["mean"], ahead[name]["interval"], ".3f") for name in above}
        names = " and ".join(f"{OWN[name]} by {by[name]}" for name in above)
        found.append(f"warning: the embedder is below {names}: {HELPS}")
    return found


def text(result: dict[str, Any]) -> str:
    """Both tables, what is to be said of them, and how many images were left out."""
    parts = [_drawn(header_and_rows(result))]
    if (ahead := differences(result)) is not None:
        over = f"queries and {len(result['seeds'])} seeds" if "seeds" in result else "queries"
        note = f"±: half the width of the 95 % interval over {over}; a difference is taken query by query"
        parts += ["", _drawn(ahead), note]
    parts += notes(result)
    if rejects := result["rejects"]:
        parts.append(f"{len(rejects)} image(s) left out, the first: {rejects[0]}")
    return "\n".join(parts)


def _rows(result: dict[str, Any], cells: Callable[[dict[str, Any]], list[str]]) -> list[list[str]]:
    domains = result["domains"]
    trained = {name: each for name, each in domains.items() if not each.get("left_out")}
    rows = [[name, *cells(each)] for name, each in trained.items()]
    if "unseen" in result:
        title = UNSEEN_ROW if result.get("classes_trained_on") == 0 else TRAINED_ROW
        rows.append([title, *cells(result["unseen"])])
    rows += [[f"{name} (left out)", *cells(each)] for name, each in domains.items() if name not in trained]
    if len(domains) > 1:
        sizes = {key: sum(each[key] for each in domains.values()) for key in ("queries", "index")}
        rows.append([WHOLE_ROW, *cells({**result, **sizes})])
    return rows


def _whole(result: dict[str, Any]) -> dict[str, Any]:
    return {"queries": sum(each["queries"] for each in result.get("domains", {}).values()), **result}


def _caveat(scores: dict[str, Any]) -> str:
    classes = scores.get("classes", intervals.FEWEST_CLASSES)  # not known of a solution, nor in an earlier metrics.json
    return intervals.caveat(classes, scores["queries"], scores.get("index_classes") == 1)


def _drawn(table: Table) -> str:
    header, rows = table
    drawn = console.table(header, rows)
    if max(map(len, drawn.splitlines())) > WIDTH:
        drawn = console.table([name.replace("_", "_\n") for name in header], rows)
    return drawn
