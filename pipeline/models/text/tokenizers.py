"""Text → token ids, by KerasHub's tokenizers, cleaned and packed as CLIP, SigLIP and MetaCLIP 2 were trained.

Vocabularies are files; nothing is fetched unless the weights are a preset's. CLIP's is `bpe_simple_vocab_16e6.txt.gz`,
which the package open_clip_torch carries (read without torch), those of SigLIP and MetaCLIP 2 (XLM-V's) are
SentencePiece models; a preset's folder has either.
"""

import gzip
import hashlib
import html
import importlib.util
import json
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ftfy
import keras_hub
import numpy as np
import sentencepiece

from pipeline.errors import BadInput, pip, reason
from pipeline.files import fingerprint

CLIP_FILE = "bpe_simple_vocab_16e6.txt.gz"
CARRIER = "open_clip_torch==3.3.0"  # setup.py's and the Makefile's; of its wheel this file alone is read here
CLIP_MERGES = 49152 - 256 - 2  # of the file's 262,145 lines; the rest was left out when CLIP was trained
START, END = "<|startoftext|>", "<|endoftext|>"
XLM_V_START, XLM_V_PAD, XLM_V_END = 0, 1, 2  # ids that are not those of XLM-V's SentencePiece model
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Tokenizer:
    """Texts → packed rows of token ids."""

    ids: Callable[[list[str]], list[list[int]]]  # texts → ids of each, neither cut nor padded, without start and end
    length: int  # tokens of a packed row, L
    start: int | None  # id put before each text; None: none
    end: int  # id that closes each text, the cut ones too
    pad: int  # id that fills the row
    vocabulary_size: int  # every id is smaller
    digest: str  # of the vocabulary; equal digests, equal ids

    @property
    def room(self) -> int:
        """Tokens of a text that fit."""
        return self.length - (self.start is not None) - 1

    def pack(self, ids: list[list[int]]) -> np.ndarray:
        """Token ids → int32 [B, L]: start, as many as fit, end, and padding up to L, never less.

        SigLIP reads its embedding at the *last* position and attends to the padding: a row padded to the longest
        text instead of to L gives another embedding, no better than chance.
        """
        rows = np.full((len(ids), self.length), self.pad, dtype=np.int32)
        first = [] if self.start is None else [self.start]
        for row, tokens in zip(rows, ids, strict=True):
            whole = [*first, *tokens[: self.room], self.end]
            row[: len(whole)] = whole
        return rows

    def __call__(self, texts: list[str]) -> np.ndarray:
        """Texts → int32 [B, L]."""
        return self.pack(self.ids(texts))


def clip(length: int, vocabulary: str = "", preset: str = "", pad_with_end: bool = False) -> Tokenizer:
    """CLIP's byte-pair encoding, rows of `length` tokens; BadInput where no vocabulary is found.

    `vocabulary` is the .txt.gz of merges, or a folder with vocabulary.json and merges.txt; "": the one of the preset
    (KerasHub's name), else open_clip's.
    """
    if vocabulary and Path(vocabulary).is_dir():
        tokenizer = _from_folder(keras_hub.tokenizers.CLIPTokenizer, vocabulary)
    elif not vocabulary and preset:
        tokenizer = _from_preset(keras_hub.tokenizers.CLIPTokenizer, preset)
    else:
        pieces, merges = _clip_vocabulary(_existing(vocabulary) if vocabulary else _open_clip_file())
        tokenizer = keras_hub.tokenizers.CLIPTokenizer(vocabulary=pieces, merges=merges)
    return Tokenizer(
        ids=lambda texts: _ids(tokenizer, map(clean_clip, texts)),
        length=length,
        start=tokenizer.start_token_id,
        end=tokenizer.end_token_id,
        pad=tokenizer.end_token_id if pad_with_end else 0,
        vocabulary_size=tokenizer.vocabulary_size(),
        digest=fingerprint([tokenizer.vocabulary, tokenizer.merges]),
    )


def siglip(length: int, vocabulary: str = "", preset: str = "", pad_with_end: bool = True) -> Tokenizer:
    """SigLIP's SentencePiece, rows of `length` tokens; BadInput where no vocabulary is found or it is of another kind.

    `vocabulary` is a SentencePiece model, or a folder that holds `vocabulary.spm`; "": the one of the preset
    (KerasHub's name). SigLIP fills rows with the end token, SigLIP 2 with 0.
    """
    if vocabulary and Path(vocabulary).is_dir():
        tokenizer = _from_folder(keras_hub.tokenizers.SigLIPTokenizer, vocabulary)
    elif preset and not vocabulary:
        tokenizer = _from_preset(keras_hub.tokenizers.SigLIPTokenizer, preset)
    else:
        path = _existing(vocabulary) if vocabulary else _no_vocabulary("SigLIP")
        tokenizer = _sentencepiece_file(keras_hub.tokenizers.SigLIPTokenizer, path)
    # KerasHub looks for the piece "</s>"; in SigLIP 2's vocabulary that is an HTML tag. The model knows its end token.
    end = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.proto).eos_id()
    if end < 0:
        raise BadInput(f"{vocabulary or preset}: this SentencePiece model has no end token, SigLIP needs one")
    return Tokenizer(
        ids=lambda texts: _ids(tokenizer, map(canonical, texts)),
        length=length,
        start=None,
        end=end,
        pad=end if pad_with_end else 0,
        vocabulary_size=tokenizer.vocabulary_size(),
        digest=hashlib.sha256(tokenizer.proto).hexdigest(),
    )


def xlm_v(length: int, vocabulary: str = "", preset: str = "", pad_with_end: bool = False) -> Tokenizer:
    """MetaCLIP 2's, XLM-V's SentencePiece, rows of `length` tokens; BadInput as `siglip`, and `vocabulary` as there."""
    kind = keras_hub.tokenizers.MetaCLIP2Tokenizer
    if vocabulary and Path(vocabulary).is_dir():
        tokenizer = _from_folder(kind, vocabulary)
    elif preset and not vocabulary:
        tokenizer = _from_preset(kind, preset)
    else:
        tokenizer = _sentencepiece_file(kind, _existing(vocabulary) if vocabulary else _no_vocabulary("MetaCLIP 2"))
    return Tokenizer(
        ids=lambda texts: _ids(tokenizer, (" ".join(mend(text).split()) for text in texts)),
        length=length,
        start=XLM_V_START,
        end=XLM_V_END,
        pad=XLM_V_END if pad_with_end else XLM_V_PAD,
        vocabulary_size=tokenizer.vocabulary_size(),
        digest=hashlib.sha256(tokenizer.proto).hexdigest(),
    )


def _ids(tokenizer: Any, texts: Iterable[str]) -> list[list[int]]:
    return [list(map(int, row)) for row in tokenizer.tokenize(list(texts))]


def expect_vocabulary(kind: str, vocabulary: str, preset: str) -> None:
    """Raises BadInput where neither file, preset nor open_clip has the vocabulary; reads none. `kind` of TOKENIZERS."""
    if vocabulary and not Path(vocabulary).is_dir():
        _existing(vocabulary)
    elif not vocabulary and not preset:
        WITHOUT_PRESET[kind]()


# catalogue.Family.tokenizer → (row length, vocabulary, preset, pad_with_end) → Tokenizer
TOKENIZERS = {"byte_pair": clip, "sentencepiece": siglip, "xlm_v": xlm_v}


def mend(text: str) -> str:
    """Undoes broken encodings and HTML entities, which web captions are full of."""
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def clean_clip(text: str) -> str:
    """As open_clip cleans: mended, white space single, lower case.

    Control tokens that stand in a text are text: spaces split them, which CLIP's pattern does there anyway.
    """
    plain = " ".join(mend(text).split()).lower()
    return plain.replace(START, "<| startoftext |>").replace(END, "<| endoftext |>")


def canonical(text: str) -> str:
    """As SigLIP's captions were: mended, lower case, no punctuation, white space single.

    >>> canonical("A photo of a  Black-footed_Albatross!")
    'a photo of a blackfooted albatross'
    """
    return " ".join(mend(text).replace("_", " ").translate(NO_PUNCTUATION).lower().split())


def byte_symbols() -> list[str]:
    """The 256 printable characters that stand for bytes in byte-pair vocabularies, in the vocabulary's order.

    Bytes that print as one character of Latin-1 stand for themselves and come first; the others follow,
    written as the characters from U+0100 on. Source: GPT-2's encoding, which CLIP took over.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printable] + [chr(0x100 + index) for index in range(256 - len(printable))]


def _clip_vocabulary(path: Path) -> tuple[dict[str, int], list[str]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            merges = file.read().split("\n")[1 : CLIP_MERGES + 1]  # the first line is a version
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: expected CLIP's {CLIP_FILE}, it is not readable as that ({reason(error)})") from None
    if len(merges) < CLIP_MERGES or any(len(merge.split()) != 2 for merge in merges):
        raise BadInput(f"{path}: expected {CLIP_MERGES:,} lines of two pieces each, as {CLIP_FILE} holds")
    symbols = byte_symbols()
    joined = ["".join(merge.split()) for merge in merges]
    pieces = [*symbols, *(symbol + "</w>" for symbol in symbols), *joined, START, END]
    return {piece: index for index, piece in enumerate(pieces)}, merges


def _open_clip_file() -> Path:
    package = importlib.util.find_spec("open_clip")  # found, not imported: that would import torch
    path = Path(package.origin).with_name(CLIP_FILE) if package and package.origin else None
    if path is None or not path.is_file():
        raise BadInput(
            f"CLIP needs its vocabulary, {CLIP_FILE}, which {CARRIER} carries: {pip()} install --no-deps {CARRIER} "
            "(1.5 MB, no torch); or vocabulary=PATH of it, or weights=preset"
        )
    return path


def _no_vocabulary(family: str) -> Path:
    what = "its SentencePiece model (vocabulary.spm of a KerasHub preset, or sentencepiece.model)"
    raise BadInput(f"{family} needs a vocabulary: expected vocabulary=PATH of {what}, or weights=preset")


WITHOUT_PRESET: dict[str, Callable[[], Path]] = {
    "byte_pair": _open_clip_file,
    "sentencepiece": partial(_no_vocabulary, "SigLIP"),
    "xlm_v": partial(_no_vocabulary, "MetaCLIP 2"),
}


def _existing(vocabulary: str) -> Path:
    if not Path(vocabulary).is_file():
        raise BadInput(f"vocabulary: expected a file or a preset's folder, {vocabulary} does not exist")
    return Path(vocabulary)


def _from_preset(tokenizer: Any, preset: str) -> keras_hub.tokenizers.Tokenizer:
    try:
        return tokenizer.from_preset(preset)
    except Exception as error:  # whatever the network, the hub's client or the files raise
        raise BadInput(
            f"vocabulary: the preset {preset} could not be fetched ({reason(error)}): it needs a connection to "
            "Kaggle Models once; without one name the file (vocabulary=PATH)"
        ) from None


def _from_folder(tokenizer: Any, folder: str) -> keras_hub.tokenizers.Tokenizer:
    """A preset's folder, or one that holds the vocabulary files themselves."""
    path = Path(folder)
    if (path / "tokenizer.json").is_file():
        return _from_preset(tokenizer, folder)
    pieces = tokenizer is keras_hub.tokenizers.CLIPTokenizer
    wanted = ("vocabulary.json", "merges.txt") if pieces else ("vocabulary.spm",)
    for parent in (path / "assets" / "tokenizer", path):
        if all((parent / name).is_file() for name in wanted):
            return _clip_files(parent) if pieces else _sentencepiece_file(tokenizer, parent / "vocabulary.spm")
    raise BadInput(f"{folder}: expected vocabulary.json with merges.txt (CLIP) or vocabulary.spm (SigLIP, MetaCLIP 2)")


def _clip_files(folder: Path) -> keras_hub.tokenizers.Tokenizer:
    try:
        merges = (folder / "merges.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
        pieces = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        if not isinstance(pieces, dict):
            raise ValueError(f"a JSON {type(pieces).__name__}, not an object")
        return keras_hub.tokenizers.CLIPTokenizer(vocabulary=pieces, merges=merges)
    except (OSError, ValueError, TypeError, RecursionError) as error:  # the last three: what JSON may hold
        raise BadInput(
            f"{folder}: expected CLIP's vocabulary.json (piece → number) and the merges.txt that belongs to it; "
            f"they are damaged ({reason(error)}): copy both again from the preset"
        ) from None


def _sentencepiece_file(tokenizer: Any, path: Path) -> keras_hub.tokenizers.Tokenizer:
    proto = path.read_bytes()
    try:
        sentencepiece.SentencePieceProcessor(model_proto=proto)
        return tokenizer(proto=proto)
    except (ValueError, RuntimeError, OSError) as error:
        raise BadInput(f"{path}: expected a SentencePiece model with <unk> and </s> ({reason(error)})") from None
