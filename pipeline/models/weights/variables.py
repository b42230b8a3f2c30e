"""A model's variables by name, and the one digest of its weights."""

import hashlib
import re
from collections.abc import Iterable

import keras


def float_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Path → variable; ids of positions and seeds are no weights."""
    return {v.path: v for v in model.variables if "float" in v.dtype}


def without_prefix(path: str) -> str:
    """A text variable's path without the names of the layers around KerasHub's.

    >>> without_prefix("text_tower/text_encoder/embedding/token_embedding/embeddings")
    'embedding/token_embedding/embeddings'
    """
    parts = r"embedding|encoder_block_\d+|post_layer_norm|layer_norm|head|text_projection"
    return re.sub(rf"^.*?(?=(?:{parts})/)", "", path)


def weights_digest(variables: Iterable[keras.Variable]) -> str:
    """64 hex digits of the variables' dtypes, shapes and values, in order; names do not count.

    `fingerprint.json` of an export holds it as `weights_sha256`.
    """
    digest = hashlib.sha256()
    for variable in variables:
        value = variable.numpy()
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
