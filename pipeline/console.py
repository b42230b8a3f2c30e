"""What the commands show: tables (Rich) and progress (tqdm)."""

import io
import sys
import time
from collections.abc import Sequence
from typing import Any

SECONDS_BETWEEN_LINES = 5.0  # of a log; a terminal is redrawn ten times a second


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], left: int = 1) -> str:
    """Rows under a header, as text. Whoever formats a number's digits gives it as text.

    >>> print(table(["set", "images"], [["cub200", 2500], ["all", "12,000"]]))
    set     images
    cub200    2500
    all     12,000

    Args:
        left: columns from the left that are aligned left; the others are aligned right.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="", show_edge=False)
    for place, name in enumerate(header):
        drawn.add_column(Text(name), justify="left" if place < left else "right", no_wrap=True)
    for row in rows:
        drawn.add_row(*(Text(str(cell)) for cell in row))
    out = io.StringIO()
    # In a notebook Rich would show the table itself and leave the text empty.
    Console(file=out, width=10_000, color_system=None, legacy_windows=False, force_jupyter=False).print(drawn)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n"))


class Progress:
    """Done of total, rate and ETA on stderr: a bar in a terminal, a line every few seconds in a log.

    Args:
        what: the work, such as `tfrecords`. total, done: in units; `done` was there before this run.
    """

    def __init__(self, what: str, total: int, unit: str, done: int = 0):
        from tqdm import tqdm

        live = sys.stderr.isatty()
        shape = "{desc}: {n:,} of {total:,}{unit}, {rate_noinv_fmt}, ETA {remaining}{postfix}"
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
            bar_format=None if live else shape,
        )

    def add(self, count: int, note: str = "") -> None:
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        done = self._bar.n + count >= (self._bar.total or 0)
        if done:
            self._bar.mininterval = 0.0  # the end is always shown
        self._bar.update(count)
        if done:
            self._bar.close()

    def restart(self, done: int) -> None:
        """Counts from `done` on: an upload that broke off goes on from what the server holds."""
        self._bar.initial = self._bar.n = self._bar.last_print_n = done  # `reset` would print at once
        self._bar.start_t = self._bar.last_print_t = time.time()

    @property
    def rate(self) -> float:
        """Units a second, lately."""
        return self._bar.format_dict["rate"] or (
            (self._bar.n - self._bar.initial) / max(self._bar.format_dict["elapsed"], 1e-9)
        )


class _Log:
    """stderr where nobody watches: a line each time the bar is drawn anew, in place of carriage returns."""

    drawn = ""

    def write(self, text: str) -> None:
        if text.strip() not in ("", self.drawn):
            self.drawn = text.strip()
            print(self.drawn, file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()
