"""Imports of stages without the chatter of the libraries below them."""

import importlib
import os
import sys
import warnings


def import_quietly(module: str):
    """Imports a stage without the lines that TensorFlow's C++ start-up writes to stderr, levels or not.

    Set TF_CPP_MIN_LOG_LEVEL=0 to see them.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0":
        return importlib.import_module(module)
    warnings.filterwarnings(
        "ignore", message="pkg_resources is deprecated"
    )  # tensorflow-hub; setuptools is pinned
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        stage = importlib.import_module(module)
        if "tensorflow" in sys.modules:
            sys.modules[
                "tensorflow"
            ].config.list_physical_devices()  # looks for drivers, and says what it lacks
        return stage
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
