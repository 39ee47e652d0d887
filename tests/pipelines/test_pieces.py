"""A text model's tokenizer: what it spells comes back, whatever the script."""

import io

import numpy as np
import pytest

from minirec import files
from pipelines.text import pieces
from pipelines.text.train_pieces import PiecesConfig, make_pieces
from pipelines.text.train_tokenizer import train_tokenizer

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


WORDS = "a line of words, and another one of them: as many pieces as there are letters"


def made(folder, text=WORDS, **changes):
    config = PiecesConfig(**{"vocab_size": 300} | changes)
    return make_pieces(config, [text] * 20, folder, "0" * 64)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_trained_tokenizer_has_the_ids_that_are_promised(tmp_path, kind):
    record = made(tmp_path / "t", kind=kind, vocab_size=288, symbols=(" <unk>", "<unk>"))
    tokenizer = pieces.load_pieces(tmp_path / "t")
    ids = (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    assert ids == (0, 1, 2, 3) == tuple(record["ids"].values())
    assert tokenizer.vocab_size == record["vocab_size"] == 288
    assert record["bytes_per_token"] > 1
    for text in (*TEXTS, WORDS):
        assert tokenizer.decode(tokenizer.encode([text])[0]) == text
    before, symbol = tokenizer.encode(["<unk> <unk>"])[0].tolist()
    assert before != symbol
    assert (
        made(tmp_path / "again", kind=kind, vocab_size=288, symbols=(" <unk>", "<unk>")) == record
    )


def test_a_vocabulary_beyond_the_corpus_is_refused_with_the_largest_there_is(tmp_path):
    with pytest.raises(ValueError, match=r"vocab_size=32000: too large .*vocab_size=\d+") as no:
        made(tmp_path / "t", vocab_size=32_000)
    largest = int(str(no.value).rpartition("vocab_size=")[2].split()[0])
    assert made(tmp_path / "t", vocab_size=largest)["vocab_size"] == largest
    letters = "".join(map(chr, range(0x4E00, 0x4E80)))
    with pytest.raises(ValueError, match=r"vocab_size=300: too small for this corpus, whose"):
        made(tmp_path / "u", letters, character_coverage=1.0)
    with pytest.raises(ValueError, match=r"vocab_size=200: must be at least 261"):
        PiecesConfig(vocab_size=200)
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_long_line_is_learnt_from_in_pieces(tmp_path):
    record = made(tmp_path / "t", " ".join([WORDS] * 40), max_sentence_length=64, vocab_size=290)
    assert record["bytes_per_token"] > 1.2


def test_a_tokenizer_that_is_there_is_taken(model, tmp_path):
    (tmp_path / "own.model").write_bytes(model)
    record = made(tmp_path / "t", kind="given", path=str(tmp_path / "own.model"))
    assert (record["vocab_size"], record["corpus"]) == (290, None)
    train_tokenizer([WORDS], 300).save(tmp_path / "hf")
    record = made(tmp_path / "j", kind="given", path=str(tmp_path / "hf"))
    tokenizer = pieces.load_pieces(tmp_path / "j")
    assert tokenizer.vocab_size == record["vocab_size"]
    assert tokenizer.decode(tokenizer.encode([WORDS])[0]) == WORDS
    with pytest.raises(ValueError, match=r"path='.*none': must be a SentencePiece \.model"):
        made(tmp_path / "k", kind="given", path=str(tmp_path / "none"))
