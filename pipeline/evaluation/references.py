"""The rows that a run's score stands beside: the same encoder's raw features, their PCA, and the untrained embedder."""

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import Run
from pipeline.data.batches import open_records
from pipeline.data.preprocessing import prepare
from pipeline.errors import BadInput
from pipeline.models import embedder
from pipeline.retrieval.vectors import unit_length
from pipeline.training import feature_cache, pca


class References:
    """Embeds the scored images once with the encoder as it was before training.

    `untrained` is the starting embedder, head included; `raw_features` the encoder's output at unit length; `pca`
    that output's first `embedding_dim` principal components (named pca<D>), fitted on the training images where the
    run kept their features, else on the index.
    """

    def __init__(self, run: Run):
        self.run = run
        self.start = embedder.build(run)
        self._principal: tuple[np.ndarray, np.ndarray] | None = None  # mean and axes
        self._forward = tf.function(self._features, reduce_retracing=True)  # images come in many sizes

    def encode(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 [b, H, W, 3] → {"features": float32 [b, width]}."""
        if set(self.run.score.references) <= {"raw_pixels"}:
            return {}
        return {"features": self._forward(tf.constant(images)).numpy()}

    def finish(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Row name → [N, D], of all scored images; replaces `features` by the rows that the config asks for.

        Call it for the index first: what is called later is projected on the same principal components.
        """
        found = rows.pop("features", None)
        wanted = self.run.score.references
        if "raw_pixels" not in wanted:
            rows.pop("raw_pixels", None)
        if found is None:
            return rows
        if "untrained" in wanted:
            rows["untrained"] = self.start.head(found).numpy()
        if "raw_features" in wanted:
            rows["raw_features"] = unit_length(found)
        if "pca" in wanted:
            width = self.run.embedder.embedding_dim
            if self._principal is None:
                trained = self._training_features()
                self._principal = pca.axes(found if trained is None else trained, width)
            mean, axes = self._principal
            rows[f"pca{width}"] = unit_length((unit_length(found) - mean) @ axes)
        return rows

    def _features(self, images):
        return tf.cast(
            self.start.encoder.model(prepare(images, self.start.preprocess), training=False), tf.float32
        )

    def _training_features(self) -> np.ndarray | None:
        try:
            records = open_records(self.run.in_run_dir(self.run.train.records))
        except BadInput:  # a run that trained on shards that are gone since
            return None
        cache = feature_cache.open_cache(self.run, self.start.encoder, keras.config.dtype_policy().name)
        return None if cache.missing([records.digest]) else cache.get([records.digest])["features"][0]
