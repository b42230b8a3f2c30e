"""COMMAND  guie similar: the images most similar to one.

guie similar train  CONFIG [KEY=VALUE …]             triplet loss, set after set → run_dir/embedder.npz, mAP@k
guie similar search CONFIG [IMAGE …] [KEY=VALUE …]   top 5 of the index for each image (or each of `queries`)

Methods: `embedder` (trained by `train`), `features` (the encoder's), `classify` (classify first, then the nearest
features within the likeliest classes). With crop.detector every picture is cropped to its main object first.
`search` writes a picture a query, similar.html with all of them, neighbours.csv and, for labelled queries, mAP@1, 3
and 5 in metrics.json.
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline import files
from pipeline.config import to_yaml
from pipeline.data.sources import check_shared_names
from pipeline.errors import BadInput
from pipeline.similar.config import Similar
from pipeline.similar.search import search
from pipeline.similar.train import train


@dataclass(frozen=True)
class Command:
    action: str
    config: Similar
    images: list[str]


def main(command: Command) -> None:
    config = command.config
    if command.action == "search":
        if not config.index:
            raise BadInput("index: expected at least one source of images to search in, such as {layout: folder, …}")
        check_shared_names(config.index, config.queries)
    for path in command.images:
        if not Path(path).is_file():
            raise BadInput(f"expected an image file, {path} does not exist")
    files.write_text(Path(config.run_dir) / "config.yaml", to_yaml(config))
    print(f"similar {command.action}: {config.encoder.name} → {config.run_dir}", flush=True)
    if command.action == "train":
        train(config)
    else:
        search(config, command.images)
