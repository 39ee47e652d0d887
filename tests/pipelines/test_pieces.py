"""A text model's tokenizer: what it spells comes back, whatever the script."""

import io

import numpy as np
import pytest

from minirec import files
from pipelines.text import pieces

spm = pytest.importorskip("sentencepiece", reason="needs the extra text")

TEXTS = (
    "Plain words, twice: plain words.",
    "  two  blanks \n\tand a tab\r\n",
    "日本語の文章。 中文也可以。 한국어",
    "العربية من اليمين עברית",
    "हिन्दी বাংলা ไทย ខ្មែរ ትግርኛ",
    "e\u0301 é \u200d😀👩‍🚀 \x00\x07 ﬁ Ⅷ",
    "\u2581blank of SentencePiece\u2581\u2581",
    "<s></s><unk><pad><0x41> <|unknown|>",
    "",
)


@pytest.fixture(scope="module")
def model():
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(["some words to learn from"] * 50),
        model_writer=out,
        vocab_size=290,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        pad_id=3,
        minloglevel=2,
    )
    return out.getvalue()


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_spelled_comes_back_in_every_script(model, text):
    tokenizer = pieces.SentencePieces(model)
    (ids,) = tokenizer.encode([text])
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == text
    assert not set(ids.tolist()) & {tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id}


def test_half_of_a_surrogate_pair_is_refused(model):
    with pytest.raises(ValueError, match="surrogate pair"):
        pieces.SentencePieces(model).encode(["fine", "a\ud800b"])


def test_a_folder_is_read_back_and_damage_is_noticed(model, tmp_path):
    with pytest.raises(ValueError, match=r"pieces\.json is missing: run launch\.train_tokenizer"):
        pieces.load_pieces(tmp_path)
    (tmp_path / pieces.MODEL).write_bytes(model)
    record = {
        "kind": pieces.SENTENCEPIECE,
        "config": {},
        "vocab_size": 290,
        "bytes_per_token": 2.5,
        "corpus": None,
        "files": files.checksums(tmp_path, [pieces.MODEL]),
    }
    files.write_sealed(tmp_path / pieces.RECORD, record)
    assert pieces.load_pieces(tmp_path).vocab_size == 290
    (tmp_path / pieces.MODEL).write_bytes(model + b"x")
    with pytest.raises(ValueError, match=r"tokenizer\.model: has been damaged"):
        pieces.load_pieces(tmp_path)
    with pytest.raises(ValueError, match=r"x\.model: is no SentencePiece model"):
        pieces.SentencePieces(b"nonsense", "x.model")
