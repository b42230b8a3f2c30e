"""Imports of commands without the chatter of the libraries below them."""

import importlib
import os
import sys
import warnings

from pipeline.allocator import keep_freed_memory
from pipeline.attached import tpu_devices


def import_quietly(module: str):
    """Imports a module without the lines that TensorFlow's C++ start-up writes to stderr at every log level.

    Set TF_CPP_MIN_LOG_LEVEL=0 to see them.
    """
    if not module.startswith("tfrecords"):  # whose processes stay small
        keep_freed_memory()
    # TensorFlow itself has oneDNN on from AVX512-VNNI on alone; without, a MobileNet's step takes twice as long.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if not tpu_devices():
        # TensorFlow for TPUs asks Google's metadata server at import, for five minutes where there is none.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0":
        return importlib.import_module(module)
    # Of tensorflow-hub; setuptools is pinned.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        imported = importlib.import_module(module)
        if "tensorflow" in sys.modules:
            # Looks for drivers, and says which are missing.
            sys.modules["tensorflow"].config.list_physical_devices()
        return imported
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
