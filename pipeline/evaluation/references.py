"""References of a run's score: the encoder's features before training, their PCA, and the untrained embedder."""

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
    """Encodes the scored images once, with the encoder as it was before training.

    Rows: `untrained` is the embedder at the start, head included. `raw_features` is the encoder's output at unit
    length. `pca<D>` is that output's first D = `embedding_dim` principal components, fitted on the training images
    where the run kept their features, else on the index.
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
        """Replaces `features` by the rows that the config asks for.

        Call it for the index first: later calls project on the same principal components. `rows`: row name → float32
        [N, D], of all scored images.
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
        return tf.cast(self.start.encoder.model(prepare(images, self.start.preprocess), training=False), tf.float32)

    def _training_features(self) -> np.ndarray | None:
        try:
            records = open_records(self.run.in_run_dir(self.run.train.records))
        except BadInput:  # a run that trained on shards that are gone since
            return None
        cache = feature_cache.open_cache(self.run, self.start.encoder, keras.config.dtype_policy().name)
        return None if cache.missing([records.digest]) else cache.get([records.digest])["features"][0]
