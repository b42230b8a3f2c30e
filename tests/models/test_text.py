"""Tokens are open_clip's, SigLIP's rows are padded in full, text towers are repeatable, bad input is named."""

import gzip
import io
import json

import numpy as np
import pytest
import sentencepiece

from pipeline.errors import BadInput
from pipeline.models.text import encoder as text_encoder
from pipeline.models.text import tokenizers
from pipeline.models.weights import files
from tests.models import logits_against_open_clip as logits

NASTY = {
    "empty": "",
    "white space only": " \t\n ",
    "plain": "a photo of a cat",
    "punctuation": "Hello, World!! --- ... (and) [so] #on @x_y",
    "contractions": "don't YOU'LL we've I'M they'd 'tis",
    "emoji": "😀👩‍👩‍👧 🇩🇪 🏳️‍🌈 ok",
    "right to left": "שלום עולם مرحبا بالعالم",
    "tabs": "tab\tnew\nline\r\n  double\u00a0hard\u2028separator",
    "quotes": "\"quotes\" 'single' “curly” ‘x’ «guillemets»",
    "HTML": "&amp;lt;b&gt; fish &amp; chips &quot;",
    "case": "İstanbul STRASSE ß ǅ",
    "numbers": "0123 4.5e6 ½ Ⅷ ² ①",
    "Chinese": "中文字符 日本語",
    "composed": "e\u0301 é ﬁ",
    "broken encoding": "naïve cafÃ© schÃ¶n",
    "control": "\x00\x01ctrl\u200bzero",
    "control tokens": "<|endoftext|> x <|startoftext|>",
    "one long word": "a" * 500,
    "10,000 words": "word " * 10_000,
    "Hindi, Thai": "नमस्ते ไทย",
}
NARROW = {"hidden_dim": 32, "num_layers": 2, "num_heads": 2, "intermediate_dim": 64}


@pytest.fixture(scope="session")
def sentencepiece_model(tmp_path_factory):
    """A SentencePiece model with SigLIP's special pieces, learnt from a few words."""
    target = io.BytesIO()
    words = tokenizers.canonical("A photo of the cat dog bird car house tree red green blue small on grass").split()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(words[i:] + words[:i]) for i in range(len(words))]),
        model_writer=target,
        vocab_size=60,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.spm"
    path.write_bytes(target.getvalue())
    return path


@pytest.fixture(scope="module")
def open_clip():
    pytest.importorskip("torch", reason="needs the extra clip")
    return files.import_open_clip()


@pytest.fixture(scope="module")
def clip_tokenizer():
    return tokenizers.clip(77)


def siglip_tower(vocabulary, name="siglip_base_patch16_224", **sizes):
    sizes = {**NARROW, "vocabulary_size": 64, "projection_dim": 32, **sizes}
    return text_encoder.build(name, vocabulary=str(vocabulary), architecture=sizes)


def test_tokens_equal_open_clip_for_nasty_texts(clip_tokenizer, open_clip):
    peer = open_clip.tokenizer.SimpleTokenizer()
    expected = peer(list(NASTY.values())).numpy()
    came = clip_tokenizer(list(NASTY.values()))
    assert came.dtype == np.int32 and came.shape == (len(NASTY), 77)
    wrong = [name for name, a, b in zip(NASTY, came, expected, strict=True) if a.tolist() != b.tolist()]
    assert not wrong


def test_cut_text_keeps_its_end_token(clip_tokenizer):
    row = clip_tokenizer([NASTY["10,000 words"]])[0]
    assert row[0] == clip_tokenizer.start and row[-1] == clip_tokenizer.end
    assert clip_tokenizer.end not in row[:-1]


def test_control_tokens_in_a_text_do_not_control(clip_tokenizer):
    ids = clip_tokenizer.ids(["<|endoftext|> a <|startoftext|>"])[0]
    assert clip_tokenizer.end not in ids and clip_tokenizer.start not in ids


def test_clip_vocabulary_of_a_preset_folder_gives_the_same_tokens(clip_tokenizer, tmp_path):
    pieces, merges = tokenizers._clip_vocabulary(tokenizers._open_clip_file())
    (tmp_path / "vocabulary.json").write_text(json.dumps(pieces))
    (tmp_path / "merges.txt").write_text("\n".join(merges) + "\n")
    texts = ["a photo of a cat", NASTY["emoji"], NASTY["contractions"]]
    assert (tokenizers.clip(77, str(tmp_path))(texts) == clip_tokenizer(texts)).all()


@pytest.mark.parametrize(
    ("vocabulary", "merges"),
    [(b'{"a": 0, "b"', b"a b\n"), (b"[1, 2]", b"a b\n"), (b"null", b"a b\n"), (b'{"\xff": 0}', b"a b\n"),
     (b'{"a": "0"}', b""), (b'{"a": 0}', b"a b c\n"), (b"[" * 100_000, b"a b\n")],
)  # fmt: skip
@pytest.mark.faults("damaged weights")
def test_damaged_vocabulary_folder_is_named(tmp_path, vocabulary, merges):
    (tmp_path / "vocabulary.json").write_bytes(vocabulary)
    (tmp_path / "merges.txt").write_bytes(merges)
    with pytest.raises(BadInput, match="they are damaged") as raised:
        tokenizers.clip(77, str(tmp_path))
    assert "\n" not in str(raised.value)


def test_vocabulary_folder_of_the_other_family_is_named(sentencepiece_model, tmp_path):
    with pytest.raises(BadInput, match=r"expected vocabulary\.json with"):
        tokenizers.clip(77, str(sentencepiece_model.parent))
    (tmp_path / "vocabulary.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(BadInput, match=r"vocabulary\.spm"):
        tokenizers.siglip(16, str(tmp_path))


def test_siglip_rows_are_pieces_end_and_full_padding(sentencepiece_model):
    peer = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model))
    for first_generation, pad in ((True, 1), (False, 0)):
        tokenizer = tokenizers.siglip(16, str(sentencepiece_model), pad_with_end=first_generation)
        for given in NASTY.values():
            expected = [*peer.encode(tokenizers.canonical(given))[:15], 1]
            expected += [pad] * (16 - len(expected))
            assert tokenizer([given])[0].tolist() == expected


def test_siglip_lower_cases_and_drops_punctuation(sentencepiece_model):
    tokenizer = tokenizers.siglip(64, str(sentencepiece_model))
    rows = tokenizer(["A photo of the CAT!", "a photo of the cat", "a_photo -of- the: 'cat'"])
    assert (rows[0] == rows[1]).all() and (rows[0] == rows[2]).all()


@pytest.mark.parametrize(
    ("name", "length"),
    [("siglip_base_patch16_224", 64), ("siglip_so400m_patch14_224", 16), ("siglip2_base_patch16_224", 64)],
)
def test_siglip_rows_have_the_length_of_the_model(sentencepiece_model, name, length):
    tower = siglip_tower(sentencepiece_model, name)
    rows = tower.tokenize(["a cat", "a photo of the red dog " * 40])
    assert rows.shape == (2, length)
    assert rows[0, -1] == (0 if name.startswith("siglip2") else 1)


def test_metaclip2_rows_are_start_shifted_pieces_end_and_padding(tmp_path):
    """XLM-V's ids are SentencePiece's plus one, with <s>, <pad>, </s> and <unk> as 0 … 3 (fairseq's numbering)."""
    target, sentence = io.BytesIO(), "A photo of the cat dog bird car house tree red green blue small on grass"
    words = sentence.split()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(words[i:] + words[:i]) for i in range(len(words))]), model_writer=target,
        vocab_size=60, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "vocabulary.spm").write_bytes(target.getvalue())
    peer = sentencepiece.SentencePieceProcessor(model_proto=target.getvalue())
    for vocabulary in (tmp_path / "vocabulary.spm", tmp_path):
        tokenizer = tokenizers.xlm_v(16, str(vocabulary))
        for given in NASTY.values():
            text = " ".join(tokenizers.mend(given).split())  # case and punctuation stay
            pieces = [3 if piece == 0 else piece + 1 for piece in peer.encode(text)]
            expected = [0, *pieces[:14], 2]
            assert tokenizer([given])[0].tolist() == expected + [1] * (16 - len(expected))
    with pytest.raises(BadInput, match="MetaCLIP 2 needs a vocabulary"):
        tokenizers.xlm_v(16)


def test_padding_siglip_to_the_longest_text_would_give_other_embeddings(sentencepiece_model):
    """What the fixed padding guards against: the same weights, rows filled to the longest text only."""
    texts = ["a photo of the cat", "a photo of the dog", "a red house", "the green car"]
    right = siglip_tower(sentencepiece_model)
    rows = right.tokenize(texts)
    longest = max(len(ids) for ids in right.tokenizer.ids(texts)) + 1
    assert longest < 64
    short = siglip_tower(sentencepiece_model, sequence_length=longest)
    for target, source in zip(short.model.weights, right.model.weights, strict=True):
        values = source.numpy()
        target.assign(values[:, :longest] if "position_ids" in source.path else values[: target.shape[0]])

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    whole, cut = unit(right.model(rows).numpy()), unit(short.model(rows[:, :longest]).numpy())
    assert (whole * cut).sum(axis=1).max() < 0.9  # every text moved
    for row in (rows[:, :longest], rows[:, :32]):
        with pytest.raises(ValueError, match="shape"):
            right.model(row)  # so the tower takes rows of no other length


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_logits_equal_open_clip_with_shared_random_weights(family, open_clip, sentencepiece_model, tmp_path):
    pairs = {"clip": logits.narrow_clip, "siglip": lambda m: logits.narrow_siglip(m, sentencepiece_model)}
    ours, theirs = logits.compare(*pairs[family](open_clip), tmp_path)
    assert np.ptp(theirs) > 0.1  # the logits tell images and texts apart
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_towers_depend_on_the_seed_alone(family, sentencepiece_model):
    sizes = {**NARROW, "vocabulary_size": 64, "projection_dim": 24, "sequence_length": 8, "activation": "gelu"}
    ids = np.arange(16, dtype=np.int32).reshape(2, 8)
    first, again, other = (text_encoder.build_tower(family, sizes, seed)(ids).numpy() for seed in (3, 3, 4))
    assert first.shape == (2, 24) and first.dtype == np.float32
    assert (first == again).all() and np.abs(first - other).max() > 1e-3


def test_clip_embedding_does_not_depend_on_what_follows_the_end_token():
    sizes = {**NARROW, "vocabulary_size": 64, "projection_dim": 24, "sequence_length": 8, "activation": "gelu"}
    tower = text_encoder.build_tower("clip", sizes)
    ids = np.array([[62, 5, 6, 63, 0, 0, 0, 0], [62, 5, 6, 63, 9, 8, 7, 6]], np.int32)
    first, second = tower(ids).numpy()
    np.testing.assert_allclose(first, second, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "dinov2_base"}, "no text tower"),
        ({"name": "clip_vit_b_23"}, "nearest"),
        ({"name": "siglip_base_patch16_224"}, "SentencePiece"),
        ({"name": "clip_tiny", "vocabulary": "/none/here"}, "does not exist"),
        ({"name": "clip_tiny", "architecture": {"heads": 3}}, "no 'heads'"),
        ({"name": "clip_tiny", "architecture": {"num_heads": 3}}, "text_architecture"),
        ({"name": "clip_tiny", "architecture": {"vocabulary_size": 100}}, "49,408 pieces"),
    ],
)
def test_unusable_requests_are_bad_input(arguments, message):
    with pytest.raises(BadInput, match=message):
        text_encoder.build(**arguments)


def test_files_that_are_no_vocabulary_are_bad_input(tmp_path):
    (tmp_path / "text.txt").write_text("not a vocabulary")
    with gzip.open(tmp_path / "short.gz", "wt") as file:
        file.write("#version\na b\n")
    (tmp_path / "folder").mkdir()
    for name in ("text.txt", "short.gz", "folder"):
        with pytest.raises(BadInput):
            tokenizers.clip(77, str(tmp_path / name))
        with pytest.raises(BadInput):
            tokenizers.siglip(64, str(tmp_path / name))
