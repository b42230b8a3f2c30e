"""The wheels that a Kaggle image lacks: fetched for its Python and platform, checked, and listed for the notebook.

kaggle/images/<image>.txt is what is published of an image; kaggle/wheels/<image>.txt what guie needs beside that.
"""

import base64
import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from export import subprocesses
from pipeline.config import packaged
from pipeline.errors import BadInput
from pipeline.files import atomic_path, write_text

LISTS = packaged.folder("kaggle") / "wheels"
IMAGES = ("tpu", "gpu")  # the second is also the CPU's
PYTHON = (3, 12)
# Ubuntu 22.04 has glibc 2.35, the older of the two images.
NAMED = ("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(35, 4, -1)] + [*NAMED]
FROM_SOURCE = ("tfrecord",)  # pure Python, of which no wheel is published
BY_PIP = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json")  # written into *.dist-info by the installer
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # a zip's earliest
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def collect(images: Sequence[str], carried: Sequence[str], extra: Sequence[str], folder: Path) -> None:
    """Writes into `folder` what a notebook installs in each of `images`: wheels, and the list `wheels-<image>.txt`.

    An image that is not `carried` gets the `extra` requirements alone. Raises BadInput: pip finds no wheel, or one that
    does not fit.
    """
    with tempfile.TemporaryDirectory() as temporary:
        for requirement in extra:
            _extra(requirement, Path(temporary))
        further = sorted(Path(temporary).glob("*.whl"))
        for path in further:
            expect_fitting(path.name)
            shutil.copy(path, folder)
    lines = ["{}=={}".format(*parse_wheel_filename(path.name)[:2]) for path in further]
    for image in images:
        listed = pinned(LISTS / f"{image}.txt") if image in carried else []
        built = [line for line in listed if line.partition("==")[0] in FROM_SOURCE]
        if listed:
            _fetch([line for line in listed if line not in built], folder, f"wheels/{image}.txt")
        for line in built:
            build(line, folder)
        head = f"# What the notebook installs in Kaggle's {image} image, from beside this list."
        write_text(folder / f"wheels-{image}.txt", "\n".join([head, *listed, *lines]) + "\n")
    for path in sorted(folder.glob("*.whl")):
        expect_fitting(path.name)


def pinned(path: Path) -> list[str]:
    """The lines `name==version` of a list."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def expect_fitting(name: str) -> None:
    """Raises BadInput where a wheel's name is of another Python or platform than the images'.

    >>> expect_fitting("crc32c-2.9-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl")
    >>> expect_fitting("crc32c-2.9-cp311-cp311-manylinux2014_x86_64.whl")
    Traceback (most recent call last):
    pipeline.errors.BadInput: crc32c-2.9-cp311-cp311-manylinux2014_x86_64.whl: expected a wheel for Python 3.12 on Linux x86_64 (cp312, abi3 or py3-none-any), as Kaggle's images run it: name a version that has one
    """  # noqa: E501
    fitting: set[Tag] = {*cpython_tags(PYTHON, platforms=PLATFORMS)}
    fitting.update(compatible_tags(PYTHON, "cp312", PLATFORMS))
    try:
        fits = not fitting.isdisjoint(parse_wheel_filename(name)[3])
    except InvalidWheelFilename:
        fits = False
    if not fits:
        wanted = "a wheel for Python 3.12 on Linux x86_64 (cp312, abi3 or py3-none-any), as Kaggle's images run it"
        raise BadInput(f"{name}: expected {wanted}: name a version that has one")


def _extra(requirement: str, folder: Path) -> None:
    """One of `submit.extra_wheels`: fetched by its name; built where it is a path, or is published as source alone."""
    if os.sep not in requirement:
        try:
            return _fetch([requirement], folder, f"submit.extra_wheels: {requirement}")
        except BadInput:
            pass
    build(requirement, folder)


def _fetch(requirements: list[str], folder: Path, what: str) -> None:
    target = [word for platform in PLATFORMS for word in ("--platform", platform)]
    target += ["--python-version", ".".join(map(str, PYTHON)), "--only-binary=:all:", "--no-deps"]
    subprocesses.run(
        [*PIP, "download", "--quiet", *target, "--dest", str(folder), *requirements],
        f"{what}: pip found no wheel for Python 3.12 on Linux x86_64, or no index (submit.images=[]: guie's alone)",
    )


def build(requirement: str, folder: Path, *how: str) -> None:
    """Writes the wheel of a source into `folder`, without dependencies; the same source gives the same bytes."""
    subprocesses.run(
        [*PIP, "wheel", "--quiet", "--no-deps", *how, "--wheel-dir", str(folder), requirement],
        f"the wheel of {Path(requirement).name} cannot be built",
        {**os.environ, "SOURCE_DATE_EPOCH": "315532800"},  # a zip's earliest date: always the same bytes
    )


def repack(folder: Path, name: str = "guie") -> Path:
    """Makes the wheel of an installation again, where no checkout is; the same installation gives the same bytes.

    Raises BadInput: it is not installed, or its list of files is gone.
    """
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        found = None
    files = [each for each in (found.files or [] if found else []) if _travels(each)]
    if found is None or not any(each.suffix == ".py" for each in files):
        raise BadInput(f"packing the project needs its checkout or its wheel installed: pip install {name}'s wheel")
    (info,) = {each.parts[0] for each in files if each.parts[0].endswith(".dist-info")}
    path = folder / f"{name}-{found.version}-py3-none-any.whl"
    record = ""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in sorted(files, key=str):
            data = Path(str(each.locate())).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record += f"{each.as_posix()},sha256={digest},{len(data)}\n"
            archive.writestr(zipfile.ZipInfo(each.as_posix(), ZIP_DATE), data, zipfile.ZIP_DEFLATED)
        record += f"{info}/RECORD,,\n"
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD", ZIP_DATE), record, zipfile.ZIP_DEFLATED)
    return path


def _travels(path: metadata.PackagePath) -> bool:
    """Whether an installed file came from the wheel: no script, no bytecode, nothing of the installer's."""
    if path.parts[0] == ".." or path.parts[0] == "bin" or path.suffix == ".pyc":
        return False
    return not (path.parts[0].endswith(".dist-info") and path.name in BY_PIP)
