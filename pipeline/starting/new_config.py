"""COMMAND new: a short config to start from → NAME.yaml."""

from pathlib import Path

from pipeline.config import loading, packaged
from pipeline.errors import BadInput

TEMPLATE = """\
# My own images: a small pretrained encoder, and a head of 64 numbers trained on its features.
#
#   guie run {path}
#   guie config show {path}        every key, its default and what it is
#
# To set: `root` below. The weights are fetched once; without a network name a file or an encoder of your own.
data_root: .  # relative roots start in the current folder
records:
  sources:
    - {{layout: folder, name: mine, root: PATH/TO/IMAGES}}  # a folder a class, with its images inside
  split: {{by: class, train: 0.7, validation: 0.0, test: 0.3}}  # whole classes: those of test are never trained on
  image_size_px: 224

encoder:
  name: mobilenet_v3_small  # or clip_vit_b_32, dinov2_small, keras_file:MY.keras …
  weights: preset  # or none (random), file:WEIGHTS, open_clip:TAG

embedder: {{init: lda, dropout: 0.0}}

train:
  loss: {{name: arcface, scale: 16.0, margin_radians: 0.1}}
  optimizer: {{name: adamw, weight_decay: 0.0}}
  phases:
    - {{name: head, trainable: head, epochs: 8, batch_size: 128, learning_rate: 3.0e-3, average_from: 0.5}}

export: {{flip_average: true}}
"""


def write(name: Path, source: str | None = None) -> Path:
    """Writes NAME.yaml, the template or a copy of the config `source`, and returns its path.

    Raises BadInput: a name that is none, a file of that name, no such folder, no such config, or one that is no YAML.
    """
    if name.name in ("", "..") or not str(name).isprintable():
        raise BadInput(f"expected the name of a config to write, such as birds, got {str(name)!r}")
    path = name if name.suffix in (".yaml", ".yml") else name.with_name(f"{name.name}.yaml")
    text = TEMPLATE.format(path=path)
    if source:
        loading.given(packaged.find(source), [])  # refuses what is no YAML
        text = packaged.find(source).read_text(encoding="utf-8")
    if not path.parent.is_dir():
        raise BadInput(f"expected a folder, {path.parent} does not exist")
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise BadInput(f"{path} exists and is left as it is: choose another name") from None
    return path
