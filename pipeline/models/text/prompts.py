"""Prompt templates and class names of zero-shot classification."""

import csv
import re
from pathlib import Path

from pipeline.errors import BadInput

# The 80 templates that CLIP's authors chose for ImageNet (Radford et al. 2021; published with the model).
IMAGENET_TEMPLATES = Path(__file__).with_name("imagenet_templates.txt").read_text(encoding="utf-8").splitlines()
TEMPLATES = {"80": IMAGENET_TEMPLATES, "one": ["a photo of a {}."]}


def templates(wanted: str) -> list[str]:
    """Templates by name, or from a file with one template a line; BadInput for a line without exactly one {}.

    >>> len(templates("80")), templates("one")
    (80, ['a photo of a {}.'])
    """
    if wanted in TEMPLATES:
        return TEMPLATES[wanted]
    path = Path(wanted)
    if not path.is_file():
        raise BadInput(f"templates: expected {', '.join(TEMPLATES)} or a file, {wanted!r} does not exist")
    lines = [line.strip() for line in _read(path).splitlines() if line.strip()]
    if not lines:
        raise BadInput(f"{path}: expected one template a line, the file is empty")
    for number, line in enumerate(lines, 1):
        if line.count("{}") != 1:
            raise BadInput(f"{path}: template {number} needs exactly one {{}} for the class: {line[:80]!r}")
    return lines


def fill(template: str, name: str) -> str:
    """A template with the class's name in it; braces in a name stay what they are.

    >>> fill("a photo of a {}.", "set {x}")
    'a photo of a set {x}.'
    """
    before, _, after = template.partition("{}")
    return before + name + after


def spoken(name: str) -> str:
    """A class's name as a layout gives it → as it is spoken.

    >>> spoken("001.Black_footed_Albatross"), spoken("goldfish, Carassius auratus")
    ('Black footed Albatross', 'goldfish')
    """
    plain = re.sub(r"^\d+\.", "", name.split(",")[0]).replace("_", " ")
    return " ".join(plain.split()) or name


def class_names(path: Path, classes: list[str]) -> list[str]:
    """The names of `classes` from a file, a CSV with the columns `class` and `name`, or one name a line, in order.

    Raises BadInput: no such file, a class without a name, another number of lines than classes.
    """
    if not path.is_file():
        raise BadInput(f"class_names: expected a file, {path} does not exist")
    lines = _read(path).splitlines()
    header = next(csv.reader(lines[:1]), [])
    if {"class", "name"} <= set(header):
        named = {row["class"]: (row["name"] or "").strip() for row in csv.DictReader(lines)}
        missing = [each for each in classes if not named.get(each)]
        if missing:
            raise BadInput(f"{path}: {len(missing)} of {len(classes)} classes have no name, such as {missing[0]!r}")
        return [named[each] for each in classes]
    names = [line.strip() for line in lines if line.strip()]
    if len(names) != len(classes):
        expected = (
            f"{len(classes)} names, one a line in the order of the classes, or a CSV with the columns class and name"
        )
        raise BadInput(f"{path}: expected {expected}; the file has {len(names)} lines")
    return names


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: expected UTF-8 ({error.reason} at byte {error.start})") from None
