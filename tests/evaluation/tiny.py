"""A tiny embedder, tiny images, and `guie` as a function."""

import zipfile

import numpy as np
import tensorflow as tf
from PIL import Image

from pipeline import cli


class MeanColour(tf.Module):
    """The smallest embedder that keeps the contract: mean colour of the four quarters, at unit length."""

    def __init__(self, width=12, output="embedding_norm"):
        self.scale = tf.Variable(tf.eye(12)[:, :width] if width <= 12 else tf.ones([12, width]))
        self.output = output

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def embed(self, images):
        quarters = tf.reshape(tf.image.resize(tf.cast(images, tf.float32), [2, 2], method="area"), [-1, 12])
        return {self.output: tf.math.l2_normalize((quarters + 1.0) @ self.scale, axis=-1)}


def save(module, folder):
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.embed})
    return folder


def jpeg(path, colour, size=(32, 24), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(sum(map(ord, str(path.name)))).integers(-20, 20, (size[1], size[0], 3))
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).convert(mode).save(path)


def run(capsys, *arguments):
    code = cli.main([str(each) for each in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def write(path, content):
    path.write_bytes(content)
    return path


def zipped(path, entries):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path
