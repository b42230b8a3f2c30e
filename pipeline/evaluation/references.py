"""References of a run's score: the encoder's features before training, and what is made of them without guie's head."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import Run
from pipeline.data import host_resize
from pipeline.data.batches import damage_is_bad_input, open_records
from pipeline.data.preprocessing import normalize
from pipeline.data.records import RecordSet
from pipeline.errors import BadInput
from pipeline.evaluation import pml_arcface
from pipeline.models import embedder
from pipeline.retrieval.vectors import unit_length
from pipeline.training import feature_cache, starts

Projection = tuple[np.ndarray, np.ndarray]  # kernel [W, D] and bias [D] for features at unit length
# Rows that are fitted on features; the embedding's width stands in the names of the first two.
PROJECTED = {"pca": "pca{}", "half_whitened": "half_whitened{}", "pml_arcface": "pml_arcface"}


class References:
    """Encodes the scored images once, with the encoder as it was before training, at its own size alone.

    Rows: `untrained` is the embedder at the start, head included. `raw_features` is the encoder's output at unit
    length. `pca<D>` is that output's first D = `embedding_dim` principal components, `half_whitened<D>` the same with
    each divided by its eigenvalue to the power 0.25, `pml_arcface` a head trained by pytorch-metric-learning. They are
    fitted on the encoder's features of the training images; where those are gone, the components on the index.
    """

    def __init__(self, run: Run):
        self.run = run
        self.start = embedder.build(run)
        self._projections: dict[str, Projection] | None = None
        self.needs_features = not set(run.score.references) <= {"raw_pixels"}
        self._forward = tf.function(self._features, reduce_retracing=True)  # the last batch is smaller

    def resize(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] → float32 [S, S, 3] in 0…255, for `encode`."""
        return host_resize.resize(image, self.start.preprocess)

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """float32 [b, S, S, 3] in 0…255 → the encoder's features, float32 [b, width]: row `features` of `finish`."""
        return self._forward(tf.constant(pixels)).numpy()

    def finish(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Replaces `features` by the rows that the config asks for.

        Call it for the index first: later calls project alike. `rows`: row name → float32 [N, D], of all scored images.
        """
        found = rows.pop("features", None)
        wanted = self.run.score.references
        if "raw_pixels" not in wanted:
            rows.pop("raw_pixels", None)
        if found is None:
            return rows
        if "untrained" in wanted:
            rows["untrained"] = self.start.head(found).numpy()
        unit = unit_length(found)
        if "raw_features" in wanted:
            rows["raw_features"] = unit
        if self._projections is None:
            self._projections = self._fitted(found)
        for name, (kernel, bias) in self._projections.items():
            rows[PROJECTED[name].format(kernel.shape[1])] = unit_length(unit @ kernel + bias)
        return rows

    def _features(self, pixels):
        return tf.cast(self.start.encoder.model(normalize(pixels, self.start.preprocess), training=False), tf.float32)

    def _fitted(self, index_features: np.ndarray) -> dict[str, Projection]:
        """The projections that the config asks for, in the order of PROJECTED; a line on what cannot be had."""
        wanted = [name for name in PROJECTED if name in self.run.score.references]
        if not wanted:
            return {}
        width, found = self.run.embedder.embedding_dim, {}
        trained = self._training_features()
        for name in wanted:
            try:
                if name == "pml_arcface":
                    if trained is None:
                        raise BadInput("pml_arcface is trained on the records of train.records, which are gone")
                    print(f"score: trains {name} on {len(trained[1]):,} features", flush=True)
                    found[name] = pml_arcface.fit(*trained, width, self.run.train.loss, self.run.train.seed)
                else:
                    mean, axes = starts.principal(name, index_features if trained is None else trained[0], width)
                    found[name] = axes, -mean @ axes
            except BadInput as error:
                print(f"score: without the row {name}: {error}", flush=True)
        return found

    def _training_features(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(float32 [N, width], classes int64 [N]) of the training records; None where they are gone."""
        try:
            records = open_records(self.run.in_run_dir(self.run.train.records))
        except BadInput:  # a run that trained on shards that are gone since
            return None
        cache = feature_cache.open_cache(self.run, self.start.encoder, keras.config.dtype_policy().name)
        if cache.missing([records.digest]):
            cache.put([records.digest], features=self._encoded(records)[None])
        classes = np.unique(records.labels, return_inverse=True)[1]
        return cache.get([records.digest])["features"][0], classes.astype(np.int64)

    @damage_is_bad_input()
    def _encoded(self, records: RecordSet) -> np.ndarray:
        strategy: Any = tf.distribute.OneDeviceStrategy("/gpu:0" if tf.config.list_logical_devices("GPU") else "/cpu:0")
        encoder = self.start.encoder
        return feature_cache.Encoding(strategy, encoder.model, encoder.preprocess, False).of(records, "train")
