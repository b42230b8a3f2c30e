"""The one digest of a model's weights."""

import hashlib
from collections.abc import Iterable

import keras


def weights_digest(variables: Iterable[keras.Variable]) -> str:
    """64 hex digits of the variables' dtypes, shapes and values, in order; names do not count."""
    digest = hashlib.sha256()
    for variable in variables:
        value = variable.numpy()
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
