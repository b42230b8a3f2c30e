"""The keys of `guie zero-shot CONFIG`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import MISSING

from pipeline.config import ImageSource, ImageTextModel, key

STEPS = ("data-prep", "evaluate")


@dataclass(frozen=True)
class ZeroShot:
    """A whole zero-shot classification: what `guie zero-shot CONFIG` reads."""

    name: str = ""  # empty: the config file's name
    run_dir: str = ""  # empty: runs/<name>
    data_root: str = "${oc.env:GUIE_DATA,''}"  # folder that relative data paths start from
    source: ImageSource = field(default_factory=lambda: ImageSource(name="images"))  # images that are classified
    models: list[ImageTextModel] = MISSING  # each gets a row of the table
    step: str = key("all", one_of=(*STEPS, "all"))  # all: both
    templates: str = "80"  # 80 | one | a file with one template a line
    class_names: str = ""  # a file; empty: the layout's own names
    first: int = key(0, least=0)  # images; 0: all
    # Which are the first; hashed: spread over the classes
    order: str = key("listed", one_of=("listed", "hashed"))
    fit: str = key("auto", one_of=("squash", "crop", "auto"))  # auto: as trained, CLIP crop, SigLIP squash
    batch_size: int = key(32, least=1)  # images embedded together
    images_per_file: int = key(256, least=1)  # in each file of prepared images
    threads: int = key(0, least=0)  # 0: one a core

    def rules(self) -> Iterator[tuple[str, str]]:
        if not self.models:
            yield "models", "expected at least one, such as [{encoder: {name: clip_vit_b_32}}]"
        names = [file_name(model.title) for model in self.models]
        if len(set(names)) < len(names):
            yield "models", f"two have the same name in the table, give each a label: {', '.join(names)}"


def file_name(title: str) -> str:
    """A model's title as part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", title)
