"""The head and the losses keep float32 where the hardware would multiply in less: seen in what XLA compiles."""

import re

import numpy as np
import tensorflow as tf

from pipeline import config
from pipeline.training import class_centers, devices


def products(dtype: tf.DType) -> list[str]:
    """The matrix products, in HLO, of ArcFace's loss and gradients after a projection of features of `dtype`."""
    found = devices.connect(config.Devices())
    with found.strategy.scope():
        centers = class_centers.build(12, 1, 8, 0, False, found.strategy)
    kernel = tf.Variable(np.ones((16, 8)), dtype=dtype)

    @tf.function(jit_compile=True)
    def gradients(features, labels):
        with tf.GradientTape() as tape:
            embeddings = tf.math.l2_normalize(tf.cast(features @ kernel, tf.float32), axis=-1)
            each = centers.losses(embeddings, labels, config.Loss(), 0.3, True)
        return tape.gradient(each, [kernel, centers.variable.value])

    hlo = gradients.experimental_get_compiler_ir(tf.ones((4, 16), dtype), tf.range(4))(stage="hlo")
    return [line for line in hlo.splitlines() if re.search(r"= \S+ dot\(", line)]


def test_products_in_float32_ask_for_the_highest_precision():
    found = products(tf.float32)
    assert len(found) >= 4  # projection, cosines, and the gradients of both
    assert all("operand_precision={highest,highest}" in line for line in found), found


def test_products_in_bfloat16_stay_so():
    found = [line for line in products(tf.bfloat16) if re.search(r"= bf16\S* dot\(", line)]
    assert found and not [line for line in found if "f32" in line.partition(" dot(")[2].partition(")")[0]]


if __name__ == "__main__":
    print(*products(tf.float32), *products(tf.bfloat16), sep="\n")
