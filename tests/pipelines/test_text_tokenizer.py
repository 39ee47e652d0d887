"""Tokenizers: SID tokens get ids of their own, files round-trip, mistakes are named."""

import json
import sys

import numpy as np
import pytest
import tokenizers

from minirec.sids import SidTable
from pipelines.text.answers import answer_tokens, sid_names, sid_tuples
from pipelines.text.tokenizer import TextTokenizer
from pipelines.text.train_tokenizer import train_tokenizer
from tests.pipelines.text_data import plain_tokenizer, sid_table, titles, tokenizer

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ROWS = 400  # of the checkpoint's embedding: some are padding


@pytest.fixture
def checkpoint(tmp_path):
    """A folder as Qwen's: specials after the words, an end that two files name differently."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.normalizer = tokenizers.normalizers.NFC()
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(titles(), trainer)
    made.add_special_tokens(list(SPECIALS))
    made.save(str(tmp_path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": {"content": "<|endoftext|>", "special": True},
        "chat_template": "{{ messages }}",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    ids = {"eos_token_id": [301, 300], "bos_token_id": 300, "vocab_size": ROWS}
    (tmp_path / "config.json").write_text(json.dumps(ids))
    return tmp_path


def test_a_checkpoints_folder_says_what_ends_and_pads_and_that_nothing_begins(checkpoint):
    loaded = TextTokenizer.load(checkpoint)
    assert (loaded.size, loaded.bos_token_id) == (303, None)
    assert (loaded.eos_token_id, loaded.pad_token_id) == (302, 300)
    assert loaded.encode("Grey Glue<|im_end|>")[-1] == 302
    assert loaded.decode([*loaded.encode("Grey Glue, Ø 9 mm"), 302]) == "Grey Glue, Ø 9 mm"


def test_sid_tokens_take_the_next_free_ids_in_the_order_of_their_spelling(checkpoint):
    loaded = TextTokenizer.load(checkpoint)
    made = loaded.with_sid_tokens(["<b_2>", "<a_10>", "<a_9>", "<b_2>"])
    assert made.added == ("<a_10>", "<a_9>", "<b_2>")
    assert made.added_ids.tolist() == [303, 304, 305]
    assert made.size == 306 <= ROWS  # what was a padding row of the embedding
    assert made.encode("x<a_10><b_2>\n<a_9>")[1:3] == [303, 305]
    assert made.decode([304, 302]) == "<a_9>"
    assert loaded.size == 303
    assert loaded.encode("<a_9>") != [304]


def test_a_sid_token_that_is_there_keeps_its_id(checkpoint):
    first = TextTokenizer.load(checkpoint).with_sid_tokens(["<b_0>"])
    more = first.with_sid_tokens(["<a_0>", "<b_0>"])
    assert more.added == ("<b_0>", "<a_0>")
    assert more.ids(["<b_0>", "<a_0>"]).tolist() == [303, 304]
    first.save(checkpoint)
    again = TextTokenizer.load(checkpoint).with_sid_tokens(["<a_0>", "<b_0>"])
    assert again.added == ("<a_0>",)
    assert again.ids(["<b_0>", "<a_0>"]).tolist() == [303, 304]


def test_a_sid_token_among_the_models_own_words_keeps_its_id_and_becomes_one(checkpoint):
    path = checkpoint / "tokenizer.json"
    value = json.loads(path.read_text())
    value["model"]["vocab"]["<c_7>"] = value["model"]["vocab"].pop("(")
    path.write_text(json.dumps(value))
    loaded = TextTokenizer.load(checkpoint)
    made = loaded.with_sid_tokens(["<c_7>", "<c_8>"])
    assert made.added == ("<c_8>",)
    assert made.ids(["<c_7>"]) == loaded.ids(["<c_7>"])
    assert made.encode("<c_7>") == loaded.ids(["<c_7>"]).tolist() != loaded.encode("<c_7>")


SIDS = {"<a_0>": 303, "<b_0>": 304, "<b_1>": 305}


def as_decoder(tokens, special=False):
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    flags["special"] = special
    return {str(token): {"content": name} | flags for name, token in tokens.items()}


def change(folder, file, **fields):
    path = folder / file
    value = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(value | fields))


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": as_decoder(SIDS)}),
        # The order of a file's entries says nothing.
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": as_decoder(dict(reversed(SIDS.items())))},
        ),
        ("tokenizer_config.json", {"added_tokens_decoder": as_decoder(SIDS, special=True)}),
        ("added_tokens.json", SIDS | {"<|im_end|>": 302}),
        # Without an id in any file they follow in their order, as in transformers.
        ("special_tokens_map.json", {"additional_special_tokens": [*SPECIALS, *SIDS]}),
        ("tokenizer_config.json", {"extra_special_tokens": dict(zip("xyz", SIDS, strict=True))}),
    ],
)
def test_tokens_that_stand_in_another_file_alone_keep_their_ids(checkpoint, file, fields, tmp_path):
    change(checkpoint, file, **fields)
    loaded = TextTokenizer.load(checkpoint)
    assert loaded.size == 306
    made = loaded.with_sid_tokens([*SIDS, "<a_1>"])
    assert made.added == ("<a_1>",)
    assert made.ids([*SIDS, "<a_1>"]).tolist() == [303, 304, 305, 306]
    assert made.encode("<b_1><a_0>") == [305, 303]
    assert made.decode([305, 306]) == "<b_1><a_1>"
    assert made.eos_token_id == 302
    # As a fine-tuned folder has it: what the base's says, and the new tokenizer's files.
    made.save(checkpoint)
    again = TextTokenizer.load(checkpoint)
    assert again.with_sid_tokens([*SIDS, "<a_1>"]).added == ()
    assert again.encode("x<b_1><a_1>\n") == made.encode("x<b_1><a_1>\n")


def test_how_a_token_is_matched_is_what_the_newer_file_says(checkpoint):
    decoder = as_decoder({"<b_0>": 303})
    decoder["303"]["lstrip"] = True
    change(checkpoint, "added_tokens.json", **{"<b_0>": 303})
    change(checkpoint, "tokenizer_config.json", added_tokens_decoder=decoder)
    loaded = TextTokenizer.load(checkpoint)
    assert loaded.encode("  <b_0>") == [303]


def test_special_tokens_are_named_by_the_older_map_where_the_config_has_no_decoder(checkpoint):
    change(checkpoint, "special_tokens_map.json", eos_token="<|im_start|>")
    assert TextTokenizer.load(checkpoint).eos_token_id == 301
    change(checkpoint, "tokenizer_config.json", added_tokens_decoder={})
    assert TextTokenizer.load(checkpoint).eos_token_id == 302


@pytest.mark.parametrize(
    ("decoder", "added", "message"),
    [
        (
            {"<a_0>": 303},
            {"<a_0>": 304, "<b_0>": 303},
            r"added_tokens.json: '<a_0>': token '<a_0>' has the id 304, but 303 in "
            r".*tokenizer_config.json: added_tokens_decoder\['303'\]",
        ),
        (
            {"<a_0>": 303},
            {"<b_0>": 303},
            r"added_tokens.json.*the id 303 is that of '<b_0>', but of '<a_0>' in .*config.json",
        ),
        ({"<|im_end|>": 305}, {}, r"'<\|im_end\|>' has the id 305, but 302 in .*tokenizer.json"),
        ({"<a_0>": 301}, {}, r"id 301 is that of '<a_0>', but of '<\|im_start\|>' in .*tokenizer"),
        ({"<a_0>": 65}, {}, r"config.json: added_.*id 65 is that of '<a_0>', but of '.' in .*tok"),
        ({"e": 303}, {}, r"token 'e' has the id 303, but \d+ by tokenizer.json"),
        ({}, {"<a_0>": 310}, r"'<a_0>' has the id 310, but 303 by tokenizer.json"),
        ({}, {"<a_0>": 303, "<b_0>": 305}, r"'<b_0>' has the id 305, but 304 by tokenizer.json"),
        ({}, {"<a_0>": "303"}, r"added_tokens.json: '<a_0>': the id of '<a_0>' is '303'"),
        ({}, {"<a_0>": -1}, "is -1: must be a number >= 0"),
        ({}, {"<a_0>": True}, "is True: must be a number >= 0"),
        ({"": 303}, {}, "needs the token's spelling"),
    ],
)
def test_files_that_disagree_on_an_id_are_named(checkpoint, decoder, added, message):
    change(checkpoint, "tokenizer_config.json", added_tokens_decoder=as_decoder(decoder))
    change(checkpoint, "added_tokens.json", **added)
    with pytest.raises(ValueError, match=message):
        TextTokenizer.load(checkpoint)


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "decoder is a list"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "y"}}}, "is 'x'"),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"9" * 5000: {"content": "y"}}},
            "is '9",
        ),
        ("tokenizer_config.json", {"added_tokens_decoder": {"303": "y"}}, r"\['303'\] is 'y'"),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"303": {"content": "y", "special": "no"}}},
            "special is 'no': must be true or false",
        ),
        ("tokenizer_config.json", {"unk_token": 3}, "unk_token is 3"),
        ("special_tokens_map.json", {"additional_special_tokens": "<a>"}, "must be a list"),
        ("special_tokens_map.json", {"additional_special_tokens": [3]}, "tokens is 3"),
        ("special_tokens_map.json", {"eos_token": "<end>"}, "map.json: eos_token is '<end>'"),
    ],
)
def test_an_entry_that_states_no_token_is_named(checkpoint, file, fields, message):
    change(checkpoint, file, **fields)
    with pytest.raises(ValueError, match=message):
        TextTokenizer.load(checkpoint)


def test_ids_that_the_library_would_count_otherwise_or_give_twice_are_refused(checkpoint):
    path = checkpoint / "tokenizer.json"
    whole = json.loads(path.read_text())
    value = json.loads(path.read_text())
    value["added_tokens"][2]["id"] = 399  # it counts on: 302
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=r"added_tokens\[2\].*has the id 399, but 302 by"):
        TextTokenizer.load(checkpoint)
    whole["model"]["vocab"]["<c_7>"] = 65
    path.write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=r"tokenizer.json: the id 65 is that of '.*<c_7>'"):
        TextTokenizer.load(checkpoint)


def test_saving_and_loading_gives_the_same_tokenizer(checkpoint, tmp_path):
    made = TextTokenizer.load(checkpoint).with_sid_tokens(["<a_1>", "<b_1>"])
    made.save(tmp_path / "saved")
    loaded = TextTokenizer.load(tmp_path / "saved")
    texts = [*titles(), "<a_1><b_1>\n", "", "<|im_start|>user\n"]
    assert loaded.encode_batch(texts) == made.encode_batch(texts)
    for name in ("size", "eos_token_id", "pad_token_id", "bos_token_id"):
        assert getattr(loaded, name) == getattr(made, name)
    settings = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == "{{ messages }}"
    assert settings["added_tokens_decoder"]["303"]["content"] == "<a_1>"
    assert not settings["added_tokens_decoder"]["303"]["special"]


def test_flat_ids_are_those_of_each_text():
    texts = ["", *titles(), "<a_1>"] * 3
    ids, offsets = tokenizer().encode_flat(texts)
    each = [part.tolist() for part in np.split(ids, offsets[1:-1])]
    assert each == [tokenizer().encode(text) for text in texts]
    assert tokenizer().decode_batch(each) == texts
    assert tokenizer().encode_flat([])[1].tolist() == [0]


def test_a_title_cannot_spell_a_token():
    text = tokenizer().plain("  Tape\n<|endoftext|> of <a_1> <a_999>\t")
    assert text.startswith("Tape < | e")
    assert text.endswith("of < a _ 1 > <a_999>")
    used = tokenizer().encode(text)
    assert not set(used) & {tokenizer().eos_token_id, *tokenizer().added_ids.tolist()}


@pytest.mark.parametrize("name", ["<q_1>", "<a_01>", "a_1", "<|im_end|>", ""])
def test_a_name_that_is_no_sid_token_is_an_error(name):
    with pytest.raises(ValueError, match=r"expected something like '<a_12>'"):
        plain_tokenizer().with_sid_tokens(["<a_1>", name])


def test_a_sid_token_that_was_taken_apart_becomes_one(checkpoint):
    path = checkpoint / "tokenizer.json"
    value = json.loads(path.read_text())
    flags = {"special": False, "single_word": False, "lstrip": False, "rstrip": False}
    # The library looks for tokens that are not normalized first.
    for token, content, normalized in ((303, "<b_", False), (304, "<b_1>", True)):
        entry = {"id": token, "content": content, "normalized": normalized}
        value["added_tokens"].append(entry | flags)
    path.write_text(json.dumps(value))
    loaded = TextTokenizer.load(checkpoint)
    assert loaded.encode("<b_1>")[0] == 303
    assert loaded.with_sid_tokens(["<b_1>"]).encode("<b_1>") == [304]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("tokenizer.json", None, "tokenizer.json is missing"),
        ("tokenizer.json", "{", "tokenizer.json: not a tokenizer"),
        ("tokenizer.json", '{"model": 3}', "tokenizer.json: not a tokenizer"),
        ("tokenizer_config.json", "[1]", r"holds \[1\]; expected an object"),
        ("tokenizer_config.json", "{", "tokenizer_config.json: not a JSON file"),
        ("tokenizer_config.json", '{"eos_token": "<end>"}', "eos_token is '<end>'"),
        ("tokenizer_config.json", '{"pad_token": 3}', "pad_token is 3"),
        ("config.json", '{"eos_token_id": 9999}', "config.json: eos_token_id is 9999"),
        ("config.json", "{}", "no end token"),
    ],
)
def test_a_missing_or_broken_file_is_named(checkpoint, file, text, message):
    if file == "config.json":
        (checkpoint / "tokenizer_config.json").unlink()
    path = checkpoint / file
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        TextTokenizer.load(checkpoint)


def test_without_the_extra_the_error_says_what_to_install(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"pip install 'minirec\[lm\]'"):
        TextTokenizer.load(checkpoint)


def test_without_a_tokenizer_config_the_models_config_names_the_end(checkpoint):
    (checkpoint / "tokenizer_config.json").unlink()
    loaded = TextTokenizer.load(checkpoint)
    assert (loaded.eos_token_id, loaded.pad_token_id, loaded.bos_token_id) == (301, 301, None)


def test_a_trained_tokenizer_reads_any_text_and_the_same_titles_give_the_same():
    made, again = (train_tokenizer(order, 300) for order in (titles(), reversed(titles())))
    text = "Grey Valve, 漢字 \U0001f600\n"
    assert made.encode(text) == again.encode(text)
    assert made.decode(made.encode(text)) == text
    assert made.size == 300
    assert len(made.encode("Grey Bearing, No.")) < 10
    assert made.bos_token_id is None
    with pytest.raises(ValueError, match="vocab_size=256: must be at least 257"):
        train_tokenizer(titles(), 256)


def test_answers_are_the_sids_a_newline_and_the_end():
    table = sid_table()
    answers = answer_tokens(tokenizer(), sid_tuples(table))
    (newline,) = tokenizer().encode("\n")
    assert answers.dtype == np.int32
    assert answers.shape == (table.num_items, 5)
    assert (answers[:, 3:] == [newline, tokenizer().eos_token_id]).all()
    assert answers[7, :3].tolist() == tokenizer().ids(["<a_3>", "<b_1>", "<c_7>"]).tolist()
    with pytest.raises(ValueError, match=r"row 1.*has 4 tokens as an answer.*has 5"):
        answer_tokens(tokenizer(), [("<a_0>", "<b_0>", "<c_0>"), ("<a_0>", "<b_0>")])
    with pytest.raises(ValueError, match="'<c_63>' is not a token"):
        answer_tokens(tokenizer(), [("<a_0>", "<b_0>", "<c_63>")])
    with pytest.raises(ValueError, match="there are none"):
        answer_tokens(tokenizer(), [])


def test_the_names_of_a_table_are_those_that_occur():
    table = SidTable(["x", "y"], np.array([[10, 3], [9, 3]]), (16, 4))
    assert sid_names(table) == ["<a_10>", "<a_9>", "<b_3>"]
