"""Pages by Jinja2, one template a page in `templates/`: every value is escaped, a missing one is an error.

How a page writes numbers stands here once: scores have four digits (`intervals.text`), counts commas, shares per cent.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

from pipeline.retrieval import intervals

if TYPE_CHECKING:
    from jinja2 import Environment

score = intervals.text


def render(template: str, **values: Any) -> str:
    """A template's whole page, such as `report.html`. Only `markupsafe.Markup` goes in unescaped.

    Templates have `count`, `share`, `precision`, `distance`, `duration` and `megabytes` as filters.
    """
    return _environment().get_template(template).render(values)


def count(number: float) -> str:
    """
    >>> count(1200), count(3.0)
    ('1,200', '3')
    """
    return f"{number:,.0f}"


def share(part: float) -> str:
    """
    >>> share(0.6632)
    '66.3%'
    """
    return f"{part:.1%}"


def precision(value: float) -> str:
    """
    >>> precision(0.6), precision(1 / 3)
    ('0.60', '0.33')
    """
    return f"{value:.2f}"


def distance(value: float) -> str:
    """
    >>> distance(0.53172)
    '0.532'
    """
    return f"{value:.3f}"


def duration(seconds: float) -> str:
    """
    >>> duration(0.42), duration(9.4), duration(200), duration(7500)
    ('0.4 s', '9.4 s', '3 min 20 s', '2 h 05 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def rate(per_second: float) -> str:
    """
    >>> rate(12345.6), rate(0.44)
    ('12,346', '0.4')
    """
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.1f}"


def megabytes(size: float) -> str:
    """
    >>> megabytes(812.3), megabytes(3400)
    ('812 MB', '3.4 GB')
    """
    return f"{size:,.0f} MB" if size < 1000 else f"{size / 1000:,.1f} GB"


def short(text: str, most: int, from_end: bool = False) -> str:
    """
    >>> short("American alligator, Alligator mississipiensis", 20), short("train/a/b/0123.jpg", 9, from_end=True)
    ('American alligator,…', '…0123.jpg')
    """
    if len(text) <= most:
        return text
    return "…" + text[1 - most :] if from_end else text[: most - 1].rstrip() + "…"


def milliseconds(value: float) -> str:
    """
    >>> milliseconds(12.34), milliseconds(1234.5)
    ('12.3', '1,234.5')
    """
    return f"{value:,.1f}"


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from pipeline.pages import charts

    loader = PackageLoader("pipeline.pages")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    for each in (count, share, precision, distance, duration, megabytes, charts.themed):
        made.filters[each.__name__] = each
    return made
