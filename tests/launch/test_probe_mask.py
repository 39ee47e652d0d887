"""The probe of the mask: what it prints, from names, folders and info files."""

import pytest

from launch import probe_mask

SIDS = ("<a_1><b_5>", "<a_1><b_6>", "<a_2><b_5>")


def lines_of(base_model, sids=SIDS, end=999):
    return list(probe_mask.report(base_model, end, sids))


@pytest.mark.parametrize(("name", "index"), [("Qwen2.5", 3), ("gpt2", 4), ("Llama-3", 3)])
def test_a_name_decides_the_cut_and_the_trie_agrees(name, index):
    lines = lines_of(name)
    assert f"prefix index: {index}" in lines
    dropped = next(line for line in lines if line.startswith("leading BOS"))
    assert dropped == (
        "leading BOS: dropped: 1 '<bos>'"
        if index == 3 and name[0] == "L"
        else "leading BOS: none dropped"
    )
    assert not any(line.startswith("warning") for line in lines)
    steps = [line for line in lines if line.startswith("step")]
    assert len(steps) == 4  # two codes, newline, end
    assert steps[0].count(",") == index - 1
    allowed = [line for line in lines if line.startswith("  allowed")]
    assert [line.count("'") // 2 for line in allowed] == [2, 2, 1, 1]
    assert "999 '<end>'" in allowed[-1]
    assert lines[-1].startswith("kernels.trie: 4 levels, allows the same tokens")
    assert lines == lines_of(name)


def test_a_folders_tokeniser_is_read_and_a_marker_of_another_length_is_told(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["#", "R", "e", "s", "p", "o", "n", ":", "\n", " ", "<", ">", "_"]
    words += list("abcd123456789")
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    lines = lines_of(str(tmp_path))
    assert f"tokeniser: {tmp_path / 'tokenizer.json'}" in lines
    marker = len("### Response:\n")
    assert any(f"the marker alone has {marker} tokens" in line for line in lines)
    assert lines[-1].startswith("kernels.trie: not compared: an answer has 23 tokens")
    short = lines_of(str(tmp_path), ("1", "12", "3"))
    assert short[-1].startswith("kernels.trie: 15 levels, allows the same tokens")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokenizer"):
        lines_of(str(tmp_path))


def test_an_info_files_sids_are_read_once_each_and_mistakes_are_named(tmp_path):
    path = tmp_path / "info.txt"
    path.write_text("<a_1><b_2>\tO\u2028ne\t0\n<a_1><b_3>\tTwo\t1\n<a_1><b_2>\tThree\t2\n\n")
    assert probe_mask.read_info(path) == ["<a_1><b_2>", "<a_1><b_3>"]
    path.write_text("<a_1><b_2>\tOne\t0\n\tTwo\t1\n")
    with pytest.raises(ValueError, match=r"info\.txt: line 2: "):
        probe_mask.read_info(path)
    path.write_text("")
    with pytest.raises(ValueError, match="the file is empty"):
        probe_mask.read_info(path)
    path.write_bytes(b"<a_1>\xff")
    with pytest.raises(ValueError, match=r"info\.txt: not a text file: .*position 5"):
        probe_mask.read_info(path)
    with pytest.raises(ValueError, match=r"--info_file=.*: there is no such file"):
        probe_mask.read_info(tmp_path / "nowhere")
