"""Counts the tests of faults by kind: the marker `faults(kind)`, the fixture `tried`, the table of `make faults`."""

from collections import Counter
from collections.abc import Callable
from itertools import chain

import pytest

from pipeline.console import table

KIND, TRIED = "faults", "tried"  # keys of user_properties, which travel from xdist's workers to the table


def pytest_itemcollected(item: pytest.Item) -> None:
    marker = item.get_closest_marker("faults")
    if marker is None:
        return
    if len(marker.args) != 1 or not isinstance(marker.args[0], str) or marker.kwargs:
        raise pytest.UsageError(f'{item.nodeid}: expected faults("KIND"), got faults{marker.args}')
    item.user_properties.append((KIND, marker.args[0]))


@pytest.fixture
def tried(record_property) -> Callable[[int], None]:
    """`tried(n)`: this test has tried n cases more; a test that never says so counts as one.

    Of a test that fails all its cases count as failed, for nobody saw which others would have held.
    """
    return lambda n: record_property(TRIED, n)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [
        each
        for each in chain.from_iterable(terminalreporter.stats.values())
        if isinstance(each, pytest.TestReport) and KIND in dict(each.user_properties)
    ]
    tests = {each.nodeid: each for each in reports if each.when == "call"}
    tests |= {each.nodeid: each for each in reports if each.when != "call" and each.outcome != "passed"}
    if not tests:
        return
    counts = {outcome: Counter[str]() for outcome in ("passed", "failed", "skipped")}
    for each in tests.values():
        cases = sum(value for key, value in each.user_properties if key == TRIED) or 1
        counts[each.outcome][dict(each.user_properties)[KIND]] += cases
    held, failed, skipped = counts.values()
    rows = [[kind, held[kind] + failed[kind], held[kind], failed[kind]] for kind in sorted(held | failed)]
    terminalreporter.write_sep("=", "faults")
    terminalreporter.write_line(table(["kind", "tried", "held", "failed"], rows))
    left = f", {skipped.total()} skipped" if skipped else ""
    terminalreporter.write_line(f"faults: {held.total():,} of {held.total() + failed.total():,} held{left}")
