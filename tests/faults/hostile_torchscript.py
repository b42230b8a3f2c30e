"""TorchScript that writes or reads a file when it is loaded or called; written with PyTorch, or by hand as text."""

import zipfile
from pathlib import Path

import torch


class Harmless(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = torch.nn.functional.adaptive_avg_pool2d(images.float() / 255.0, (4, 5)) + 0.1
        return torch.nn.functional.normalize(pixels.reshape(images.shape[0], -1), dim=-1)


class MapsAFile(Harmless):
    def __init__(self, target: str):
        super().__init__()
        self.target = target

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mapped = torch.from_file(self.target, shared=True, size=4)
        return torch.nn.functional.normalize(images.float().mean((2, 3)) + 1.0 + 0.0 * mapped.sum(), dim=-1)


class Saves(MapsAFile):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        torch.save(images, self.target)
        return torch.nn.functional.normalize(images.float().mean((2, 3)) + 1.0, dim=-1)


class WritesAtLoad(Harmless):
    def __init__(self, target: str):
        super().__init__()
        self.target, self.kept = target, torch.zeros(4)

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.target, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.target, self.training = state
        self.kept = torch.from_file(self.target, shared=True, size=4)


def save(module: torch.nn.Module, folder: Path) -> Path:
    folder.mkdir()
    torch.jit.script(module.eval()).save(str(folder / "saved_model.pt"))
    return folder


def rewritten(folder: Path, source: Path, old: bytes, new: bytes, pickle: bytes | None = None) -> Path:
    """A copy of a TorchScript file with other code, or with another constants.pkl."""
    folder.mkdir()
    with zipfile.ZipFile(source / "saved_model.pt") as before, zipfile.ZipFile(folder / "saved_model.pt", "w") as after:
        for entry in before.infolist():
            content = before.read(entry)
            if entry.filename.endswith(".py"):
                content = content.replace(old, new)
            if pickle and entry.filename.endswith("constants.pkl"):
                content = pickle
            after.writestr(entry.filename, content)
    return folder


def with_entry(folder: Path, source: Path, entry: str) -> Path:
    """A copy of a TorchScript file with one more entry below its folder."""
    folder.mkdir()
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(folder / "saved_model.pt", "w") as after:
        for each in before.infolist():
            after.writestr(each.filename, before.read(each))
        after.writestr(f"{before.namelist()[0].partition('/')[0]}/{entry}", "{}")
    return folder


def models(root: Path, target: Path) -> dict[str, Path]:
    """A part of the reason, with what it does → the folder of a TorchScript model that does so to `target`."""
    mapping = save(MapsAFile(str(target)), root / "mapping")
    call = b"torch.from_file(target, True, 4)"
    pickle = b"cos\nsystem\n(S'touch %b'\ntR." % str(target).encode()
    return {
        "aten::from_file (": mapping,
        "aten::save (": save(Saves(str(target)), root / "saving"),
        "aten::from_file (code/__torch__/": save(WritesAtLoad(str(target)), root / "at-load"),
        "aten::from_file (code/": rewritten(root / "method", mapping, call, b"(target).from_file(True, 4, )"),
        "aten::from_file (code": rewritten(
            root / "getattr", mapping, call, b'getattr(torch, "from_" "\\x66ile")(target, True, 4)'
        ),
        "ops.image": rewritten(root / "library", mapping, call, b"ops.image.read_file(target)"),
        "__torch__.torch.classes.dist_c10d": rewritten(
            root / "class", mapping, call, b"__torch__.torch.classes.dist_c10d.TCPStore(target)"
        ),
        "pickled os.system": rewritten(root / "pickle", mapping, call, b"torch.relu(images)", pickle),
    }
