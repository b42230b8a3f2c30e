"""YAML and dotted overrides → frozen dataclasses: the keys, their ranges, and how a file is read."""

from pipeline.config.keys import check, key
from pipeline.config.loading import load, resolve_data_path, to_yaml
from pipeline.config.placed import below, load_from, moved_to, published, seeds_of
from pipeline.config.schema import (
    SPLITS,
    Devices,
    Embedder,
    Encoder,
    Export,
    ImageSource,
    ImageTextModel,
    Lda,
    Records,
    Run,
    Score,
    Source,
    Split,
    Submit,
    Sweep,
)
from pipeline.config.training import Augment, Keep, Loss, Optimizer, Phase, Sampling, Teachers, Train
