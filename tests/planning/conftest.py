"""The records and the encoder that tests of training share."""

from tests.training.conftest import tiny

__all__ = ["tiny"]
