import json

import numpy as np
import pytest

from minirec import files
from minirec.sids import SidTable, SidVocab

TABLE = SidTable(["0", "1", "2"], np.array([[5, 0], [2, 9], [5, 3]]), (8, 16))
SHUFFLED = ("<pad>", "<bos>", "<b_9>", "<a_5>", "<eos>", "<b_0>", "<a_2>", "<b_3>")


def test_codes_that_occur_get_tokens_by_level_then_code():
    vocab = SidVocab.from_table(TABLE)
    assert vocab.token_strings == ("<pad>", "<bos>", "<a_2>", "<a_5>", "<b_0>", "<b_3>", "<b_9>")
    assert (vocab.size, vocab.num_levels, vocab.PAD, vocab.BOS) == (7, 2, 0, 1)
    assert vocab.encode(TABLE.codes).tolist() == [[3, 4], [2, 6], [3, 5]]
    assert vocab.encode(TABLE.codes).dtype == np.int32


def test_a_given_order_is_honoured():
    vocab = SidVocab.from_token_strings(SHUFFLED)
    assert vocab.encode(TABLE.codes).tolist() == [[3, 5], [6, 2], [3, 7]]
    assert vocab.level_of_token.tolist() == [-1, -1, 1, 0, -1, 1, 0, 1]
    assert vocab.code_of_token.tolist() == [-1, -1, 9, 5, -1, 0, 2, 3]


@pytest.mark.parametrize(
    "vocab", [SidVocab.from_table(TABLE), SidVocab.from_token_strings(SHUFFLED)]
)
@pytest.mark.parametrize("shape", [(2,), (0, 2), (3, 4, 2)])
def test_decode_inverts_encode_for_any_leading_axes(vocab, shape):
    rows = np.random.default_rng(0).integers(0, 3, shape[:-1])
    codes = TABLE.codes[rows]
    assert codes.shape == shape
    assert np.array_equal(vocab.decode(vocab.encode(codes)), codes)


def test_save_and_load_give_the_same_vocabulary(tmp_path):
    SidVocab.from_token_strings(SHUFFLED).save(tmp_path / "vocab.json")
    assert SidVocab.load(tmp_path / "vocab.json").token_strings == SHUFFLED


@pytest.mark.parametrize("code", [-1, 3, 6, 1000])
def test_a_code_without_token_is_an_error_that_names_it(code):
    with pytest.raises(ValueError, match=rf"codes\[1, 0\]: code {code} of level 0 has no token"):
        SidVocab.from_table(TABLE).encode(np.array([[5, 0], [code, 0]]))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([0, 4], r"tokens\[0\]: token 0 \('<pad>'\) is not a code of level 0"),
        ([3, 1], r"tokens\[1\]: token 1 \('<bos>'\) is not a code of level 1"),
        ([4, 3], r"token 4 \('<b_0>'\) is not a code of level 0"),
        ([3, 7], r"token 7 \(outside \[0, 7\)\)"),
        ([-1, 4], r"token -1 \(outside"),
    ],
)
def test_a_token_that_is_no_code_of_its_level_is_an_error(tokens, message):
    with pytest.raises(ValueError, match=message):
        SidVocab.from_table(TABLE).decode(np.array(tokens))


@pytest.mark.parametrize("method", ["encode", "decode"])
def test_arrays_of_the_wrong_kind_are_refused(method):
    translate = getattr(SidVocab.from_table(TABLE), method)
    with pytest.raises(ValueError, match=r"shape \[3\]; the last axis must have the 2 levels"):
        translate(np.array([1, 2, 3]))
    with pytest.raises(ValueError, match="shape"):
        translate(np.int32(1))
    with pytest.raises(ValueError, match="expected integers"):
        translate(np.array([1.0, 2.0]))


@pytest.mark.parametrize(
    ("strings", "message"),
    [
        (["<bos>", "<pad>", "<a_1>"], "tokens 0 and 1 are"),
        ([], "tokens 0 and 1 are"),
        (["<pad>", "<bos>"], "no token stands for a code"),
        (["<pad>", "<bos>", "<a_1>", "<a_1>"], "token 3: '<a_1>' is token 2 already"),
        (["<pad>", "<bos>", "<a_1>", "<pad>"], "token 3: '<pad>' is token 0 already"),
        (["<pad>", "<bos>", "<a_1>", "<a_x>"], "token 3: '<a_x>' is neither"),
        (
            ["<pad>", "<bos>", "<a_1>", 7],
            r"(token 3: 7 is neither|tokens\[3\] is 7; expected text)",
        ),
        (["<pad>", "<bos>", "<a_1>", "<c_1>"], "no token of level 1 .*'<b_CODE>'"),
    ],
)
def test_a_broken_vocabulary_is_refused_and_its_file_named(tmp_path, strings, message):
    with pytest.raises(ValueError, match=message):
        SidVocab.from_token_strings(strings)
    path = tmp_path / "vocab.json"
    files.write_sealed(path, {"tokens": strings})
    with pytest.raises(ValueError, match=rf"vocab\.json: .*{message}"):
        SidVocab.load(path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"tokens": "<pad>"}', "nonsense"])
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path, text):
    path = tmp_path / "vocab.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"vocab\.json"):
        SidVocab.load(path)
    if text.startswith("{"):
        files.write_sealed(path, json.loads(text))
        with pytest.raises(ValueError, match=r"vocab\.json.*tokens"):
            SidVocab.load(path)


def test_the_real_beauty_sids_have_965_codes(real_data):
    table = SidTable.load(real_data / "amazon_beauty" / "Beauty.index.json")
    vocab = SidVocab.from_table(table)
    assert vocab.size == 2 + 197 + 256 * 3
    assert np.array_equal(vocab.decode(vocab.encode(table.codes)), table.codes)
