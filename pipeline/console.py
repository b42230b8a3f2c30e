"""What the commands show: tables (Rich) and progress (tqdm)."""

import io
import sys
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Any, Literal

SECONDS_BETWEEN_LINES = 5.0  # of a log; a terminal is redrawn ten times a second
CURSOR_UP = "\x1b[A"
WINDOW_SECONDS = 30.0  # that rate and ETA are of


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], left: int = 1, width: int | None = None) -> str:
    """Rows under a header, as text. Whoever formats a number's digits gives it as text.

    >>> print(table(["set", "images"], [["cub200", 2500], ["all", "12,000"]]))
    set     images
    cub200    2500
    all     12,000

    Args:
        left: columns from the left that are aligned left; the others are aligned right.
        width: characters of a line, longer cells but the first are wrapped; None: a row is a line.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="", show_edge=False)
    for place, name in enumerate(header):
        whole = width is None or place == 0
        widest = None if whole or width is None or place == len(header) - 1 else width // 5
        side: Literal["left", "right"] = "left" if place < left else "right"
        drawn.add_column(Text(name), justify=side, no_wrap=whole, overflow="fold", max_width=widest)
    for row in rows:
        drawn.add_row(*(Text(str(cell)) for cell in row))
    out = io.StringIO()
    # In a notebook Rich would show the table itself and leave the text empty.
    options = {"color_system": None, "legacy_windows": False, "force_jupyter": False}
    Console(file=out, width=width or 10_000, **options).print(drawn)  # type: ignore[arg-type]
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n"))


class Progress:
    """Done of total, rate and ETA on stderr: a bar in a terminal, a line every few seconds in a log.

    Args:
        what: the work, such as `tfrecords`. total, done: in units; `done` was there before this run.
    """

    def __init__(self, what: str, total: int, unit: str, done: int = 0):
        from tqdm import tqdm

        live = sys.stderr.isatty()
        self._unit, self._note, self._window = unit, "", _Window(done)
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=what,
            unit=f" {unit}",
            file=None if live else _Log(),
            leave=live,
            dynamic_ncols=live,
            mininterval=0.1 if live else SECONDS_BETWEEN_LINES,
            delay=0 if live else SECONDS_BETWEEN_LINES,
            bar_format=("{l_bar}{bar}| " if live else "{desc}: ") + "{n:,} of {total:,}{unit}{postfix}",
        )

    def add(self, count: int, note: str = "", timed: bool = True) -> None:
        """Counts `count` more units. `timed=False`: their seconds are no measure of the rate, as where is compiled."""
        self._note = note or self._note
        now = int(self._bar.n) + count
        self._window.add(now, timed)
        total = self._bar.total or 0
        eta = self._bar.format_interval((total - now) / self.rate) if self.rate else "?"
        rate = f"{self.rate:,.1f}" if self.rate else "?"
        texts = [f"{rate} {self._unit}/s", f"ETA {eta}", *filter(None, [self._note])]
        self._bar.set_postfix_str(", ".join(texts), refresh=False)
        if now >= total:
            self._bar.mininterval = 0.0  # the end is always shown
        self._bar.update(count)
        if now >= total:
            self._bar.close()

    def restart(self, done: int) -> None:
        """Counts from `done` on: an upload that broke off goes on from what the server holds."""
        self._bar.n = self._bar.last_print_n = done  # `reset` would print at once
        self._window = _Window(done)

    @property
    def rate(self) -> float:
        """Units a second over the last WINDOW_SECONDS; 0 where nothing was timed yet."""
        return self._window.rate


class _Window:
    """The rate of the last WINDOW_SECONDS, or of the last addition where that took longer.

    tqdm's own smoothing weighs by lines, not by seconds: a first line of a minute's compiling outweighs ten others.
    """

    def __init__(self, done: int):
        self.points = deque([(monotonic(), done)])  # when so many units were done, oldest first
        self.rate = 0.0

    def add(self, done: int, timed: bool) -> None:
        now, points = monotonic(), self.points
        if not timed:
            points.clear()
        elif now > points[0][0]:
            while len(points) > 1 and now - points[1][0] >= WINDOW_SECONDS:
                points.popleft()
            began, before = points[0]
            self.rate = (done - before) / (now - began)
        if not points or now - points[-1][0] >= WINDOW_SECONDS / 60:  # a thousand additions a second are one point
            points.append((now, done))


class _Log:
    """stderr where nobody watches: a line each time the bar is drawn anew, in place of carriage returns."""

    drawn = ""

    def write(self, text: str) -> None:
        line = text.replace(CURSOR_UP, "").strip()  # of a bar within another one
        if line not in ("", self.drawn):
            self.drawn = line
            print(self.drawn, file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()
