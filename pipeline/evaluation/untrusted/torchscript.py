"""What a TorchScript file would do, read from its code and pickles: nothing is unpickled, PyTorch is not needed.

TorchScript is a language of its own whose operators are mathematics, with a few that reach files and other processes.
Those are refused by their names, wherever a name stands, since the language calls them as functions, as methods and by
getattr. Namespaces of other libraries, classes written in C++, and pickles of anything but tensors are refused whole.
"""

import ast
import io
import pickletools
import re
import struct
import tokenize
import zipfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import BadInput, reason
from pipeline.evaluation import submission_zip

# Of the operators in aten and prim, those that reach outside. `aten::from_file` with shared=True creates the file.
REACHING = frozenset({"from_file", "save", "rpc_async", "rpc_sync", "rpc_remote", "PythonOp", "IgnoredPythonOp"})
NAMESPACES = frozenset({"aten", "prim", "quantized"})  # of ops
CLASSES = frozenset({"quantized"})  # of classes written in C++
# module → the names that PyTorch's own pickles take from it
PICKLED = {
    "builtins": ("complex",),
    "collections": ("OrderedDict",),
    "torch": ("device", "per_tensor_affine", "per_channel_affine", "per_channel_affine_float_qparams"),
    "torch._utils": ("_rebuild_tensor_v2", "_rebuild_qtensor", "_rebuild_sparse_tensor", "_rebuild_parameter"),
}
# What stands below a TorchScript file's one folder. Code under another name would not be read here.
PARTS = re.compile(
    r"code/.+\.(py|debug_pkl)|[^/]+\.pkl|(data|constants|extra|\.data)/.+|version|byteorder|\.format_version"
    r"|\.storage_alignment",
    re.DOTALL,
)
IMPORTING = ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4")  # opcodes that PyTorch never writes
END, END64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q")  # of a zip's directory; as in the format's standard


def reaching(path: Path, name: str) -> tuple[list[str], int]:
    """("operator (file in the zip, line)" of what is not allowed, how many files of code were read).

    Raises BadInput: not a TorchScript file, or one that another reader of zips might read differently.
    """
    entries = submission_zip.entries_of(path, f"{name}: saved_model.pt", "TorchScript file")
    _expect_one_directory(path, name)
    names = [entry.filename.lower() for entry in entries]
    if len(set(names)) < len(names):  # PyTorch looks names up regardless of case
        raise BadInput(f"{name}: saved_model.pt holds two files of one name: refused")
    if not any("/code/" in each and each.endswith(".py") for each in names):
        raise BadInput(f"{name}: saved_model.pt is not TorchScript, it does not load: it holds no code")
    _expect_known_parts(names, name)
    found: dict[str, str] = {}
    files = 0
    with zipfile.ZipFile(path) as archive:
        for entry in entries:
            inside = entry.filename.partition("/")[2] or entry.filename
            try:
                if entry.filename.lower().endswith(".py"):
                    files += 1
                    text = archive.read(entry).decode("ascii")
                    for what, line in in_code(text):
                        hint = "; rename what is called save" if what == "aten::save" else ""
                        found.setdefault(what, f"{what} ({inside}:{line}{hint})")
                elif entry.filename.lower().endswith("pkl"):
                    for what in in_pickle(archive.read(entry)):
                        found.setdefault(what, f"{what} ({inside})")
            except (*submission_zip.DAMAGE, tokenize.TokenError, SyntaxError) as error:
                raise BadInput(f"{name}: {inside[:80]!r} of saved_model.pt cannot be read ({reason(error)})") from None
    return list(found.values()), files


def _expect_known_parts(names: list[str], name: str) -> None:
    """Raises BadInput: an entry, in lower case, that PyTorch does not write into a TorchScript file today.

    With `model.json`, PyTorch reads the file as its first versions did: the code may be in any entry.
    """
    tops = {each.partition("/")[0] for each in names}
    for each in names:
        inside = each.partition("/")[2]
        if len(tops) > 1 or (inside and not PARTS.fullmatch(inside)) or (not inside and not each.endswith("/")):
            shown = inside or each
            raise BadInput(
                f"{name}: saved_model.pt holds {shown[:80]!r}, which no TorchScript file of today does: refused"
            )


def in_code(text: str) -> Iterator[tuple[str, int]]:
    """(operator, line) of what serialised TorchScript names and may not.

    Raises:
        ValueError, SyntaxError, tokenize.TokenError: not the text that PyTorch writes.

    >>> list(in_code('y = torch.from_file("/etc/passwd", True, 16)'))
    [('aten::from_file', 1)]
    >>> list(in_code('y = ops.image.read_file("x")')), list(in_code("y = torch.relu(x)"))
    ([('ops.image', 1)], [])
    """
    if any(not character.isprintable() and character not in "\n\t" for character in text):
        raise ValueError("a control character in the code")
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    read = tokenize.generate_tokens(io.StringIO(text).readline)
    tokens = [token for token in read if token.type not in skipped]
    words = [token.string for token in tokens] + [""] * 8
    adjacent = ""  # strings side by side are one string
    for at, token in enumerate(tokens):
        line, before = token.start[0], words[at - 1] if at else ""
        if token.type == tokenize.STRING:
            if token.string[0] not in "\"'":
                raise ValueError("a string with a prefix")
            adjacent += ast.literal_eval(token.string)
            if adjacent in REACHING:
                yield f"aten::{adjacent}", line
            continue
        adjacent = ""
        if token.type not in (tokenize.NAME, tokenize.NUMBER, tokenize.OP):
            raise ValueError(f"{token.string[:20]!r} in the code")
        if token.string in REACHING:
            yield f"{'prim' if token.string.startswith(('rpc', 'Py', 'Ig')) else 'aten'}::{token.string}", line
        if before == ".":
            continue
        chain = _chain(words, at)
        if token.string == "ops" and (chain[1:2] or [""])[0] not in NAMESPACES:
            yield ".".join(chain[:2]), line
        if token.string == "torch" and len(chain) < 2:
            yield "torch by another name", line
        if token.string == "__torch__" and not _is_known_class(chain):
            yield ".".join(chain[:4]), line


def in_pickle(content: bytes) -> Iterator[str]:
    """The names that a pickle would import and PyTorch's own pickles do not; read opcode by opcode, never unpickled.

    Raises ValueError: not a pickle.
    """
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in IMPORTING:
            yield f"pickle opcode {opcode.name}"
        if opcode.name == "GLOBAL":
            module, _, imported = str(argument).partition(" ")
            of_torch = module == "torch" and imported.endswith("Storage")
            if module == "torch.jit._pickle" or of_torch or imported in PICKLED.get(module, ()):
                continue
            if module.split(".")[0] != "__torch__" or not _is_known_class([*module.split("."), imported]):
                yield f"pickled {module}.{imported}"


def _chain(words: list[str], at: int) -> list[str]:
    """The dotted name that starts at this token: ["ops", "prim", "RaiseException"]."""
    chain = [words[at]]
    while at + 2 < len(words) and words[at + 1] == "." and words[at + 2].isidentifier():
        at += 2
        chain.append(words[at])
    return chain


def _is_known_class(chain: list[str]) -> bool:
    """Whether __torch__.… names a class or function of the file itself, or one of CLASSES; not a bare namespace."""
    if chain[1:3] == ["torch", "classes"]:
        return len(chain) > 4 and chain[3] in CLASSES
    return len(chain) > 1 and chain[1:] != ["torch"]


def _expect_one_directory(path: Path, name: str) -> None:
    """Raises BadInput: the zip's directory could be found at more than one place, or the file is another kind as well.

    PyTorch reads zips by another library than Python: both must read the same files.
    """
    with path.open("rb") as file:
        start = file.read(4)
        size = file.seek(0, io.SEEK_END)
        file.seek(max(size - END.size - 20 - END64.size, 0))
        tail = file.read()
    signature, *_, length, offset, comment = END.unpack(tail[-END.size :])
    end, locator = size - END.size, tail[-END.size - 20 : -END.size]
    if locator[:4] == b"PK\x06\x07" and len(tail) == END.size + 20 + END64.size:
        end -= 20 + END64.size
        signature64, *_, length, offset = END64.unpack(tail[: END64.size])
        if signature64 != b"PK\x06\x06" or struct.unpack("<Q", locator[8:16])[0] != end:
            signature = b""
    if start != b"PK\x03\x04" or signature != b"PK\x05\x06" or comment or length + offset != end:
        raise BadInput(f"{name}: saved_model.pt is not a zip as PyTorch writes it: refused")
