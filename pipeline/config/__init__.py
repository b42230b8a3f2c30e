"""YAML and dotted overrides → frozen dataclasses: the keys, their ranges, and how a file is read."""

from pipeline.config.keys import check, key
from pipeline.config.loading import load, resolve_data_path, to_yaml
from pipeline.config.placed import below
from pipeline.config.schema import (
    Augment,
    Devices,
    Embedder,
    Encoder,
    Export,
    ImageTextModel,
    Keep,
    Lda,
    Loss,
    Optimizer,
    Phase,
    Records,
    Run,
    Sampling,
    Score,
    Source,
    Split,
    Submit,
    Sweep,
    Train,
)
