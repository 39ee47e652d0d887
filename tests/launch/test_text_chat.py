"""From documents to answers by the launchers, with passages quoted; no model is trained."""

import json

import pytest

from launch import chat, prepare_qa, prepare_text, train_tokenizer, verify_question
from launch.wiring import (
    program,
    text_chat,
    text_corpus,
    text_dense,
    text_index,
    text_measures,
)
from minirec import files
from minirec.serving.chat.chat import ANSWER, QUOTATION, REFUSAL, Drawing
from tests.launch.fields import changed

pytest.importorskip("bm25s", reason="needs the extra text")
pytest.importorskip("sentencepiece", reason="needs the extra text")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """The project's own documents as passages and pieces."""
    folder = tmp_path_factory.mktemp("docs")
    config = program.load_config_module("text_quickstart").get_config("smoke")
    config.chat.model = False
    config.retrieval.questions = 20
    job = program.Job(config, folder, folder / "runs" / "x")
    prepare_text.main(job)
    train_tokenizer.main(job)
    return job


def test_a_step_again_keeps_what_lies_there_and_another_config_asks_for_overwrite(job, capsys):
    before = (text_corpus.text_folder(job) / "train.jsonl").stat().st_mtime_ns
    prepare_text.main(job)
    train_tokenizer.main(job)
    said = capsys.readouterr().out
    assert "bytes_per_token" in said
    assert "train documents=" in said
    assert (text_corpus.text_folder(job) / "train.jsonl").stat().st_mtime_ns == before
    for step, field, value in (
        (prepare_text.main, "corpus.min_chars", 90),
        (train_tokenizer.main, "tokenizer.vocab_size", 900),
    ):
        with pytest.raises(program.UsageError, match=rf"config\.{field} is \d+ there, {value} now"):
            step(changed(job, field, value))
    with pytest.raises(program.UsageError, match=r"corpus\.seed is 13 there.*prepare_text --over"):
        text_chat.make_chat(changed(job, "corpus.seed", 3))
    with pytest.raises(program.UsageError, match=r"vocab_size is 1024 there.*train_tokenizer --o"):
        text_chat.make_chat(changed(job, "tokenizer.vocab_size", 900))
    with pytest.raises(program.UsageError, match=r"'quickstart' is of the family 'sid': launch\.c"):
        config = program.load_config_module("quickstart").get_config()
        text_corpus.require_text(program.Job(config, job.workdir, job.run), "launch.chat")


def test_another_folder_must_hold_the_same_documents(job, tmp_path, capsys):
    text_corpus.load_corpus(changed(job, "corpus.folder", str(tmp_path / "none")))
    assert "are taken as they are" in capsys.readouterr().err
    (tmp_path / "docs").mkdir()
    for name in ("a.md", "docs/b.md"):
        (tmp_path / name).write_text("# Another\n" + "words " * 90)
    with pytest.raises(program.UsageError, match=r"holds other documents than those"):
        text_corpus.load_corpus(changed(job, "corpus.folder", str(tmp_path)))


def test_a_question_is_verified_and_its_words_are_named(job, capsys):
    assert verify_question.verify(job, ["How is the beam step of a trie normalised?"])
    said = capsys.readouterr().out
    assert "covered=True" in said
    assert "best passage: " in said
    asked = ["How is the beam step of a trie normalised?", "Which glacier melts in Patagonia?"]
    assert not verify_question.verify(job, asked)
    said = capsys.readouterr().out
    assert "covered=False" in said
    assert "glacier" in said.rpartition("missing=")[2]


def test_an_index_of_other_settings_is_made_again(job, capsys):
    index = text_index.load_index(job)
    assert text_index.load_index(job).made_with == index.made_with
    assert not capsys.readouterr().err
    other = text_index.load_index(changed(job, "retrieval.title_weight", 5))
    assert other.made_with["config"]["title_weight"] == 5
    assert "made again" in capsys.readouterr().err
    text_index.load_index(job)


def test_retrieval_and_gate_are_measured(job):
    report = text_measures.measure(job)
    found = report["retrieval"]["measures"]
    assert set(found) == {"bm25", "bm25, text alone", "overlap", "overlap, text alone"}
    assert all(0 <= row["recall@1"] <= row["recall@10"] <= 1 for row in found.values())
    assert found["bm25"]["mrr"] > found["overlap, text alone"]["mrr"]
    gate = report["gate"]
    assert set(gate["measures"]) == {"chosen", "config", "substrings"}
    assert all(row["answered"] <= gate["questions"] for row in gate["measures"].values())
    assert gate["measures"]["chosen"]["recall"] > 0.5


def test_a_chat_quotes_what_it_has_read_and_refuses_the_rest(job, capsys):
    made = text_chat.make_chat(job)
    chat.converse(made, ["How is the beam step of a trie normalised?", "/sources"])
    said = capsys.readouterr().out
    assert said.startswith("Quotation [1]: “")
    assert said.count("Sources:\n[1] ") == 2
    assert made.reply("How is the beam step of a trie normalised?").kind == QUOTATION
    assert made.reply("Which glacier melts in Patagonia?").kind == REFUSAL
    with pytest.raises(program.UsageError, match=r"config\.chat\.support=2\.0: must lie"):
        text_chat.make_chat(changed(job, "chat.support", 2.0))
    with pytest.raises(program.UsageError, match=r"config\.chat: .*top_p=7"):
        text_chat.make_chat(changed(job, "chat.top_p", 7.0))


def test_questions_with_answers_become_rows_that_are_a_corpus(job, tmp_path):
    pairs = [
        {"question": "How is the beam  step of a trie\nnormalised?", "answer": "By a constant."},
        {"question": "Which glacier melts in Patagonia?", "answer": "Upsala."},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, pairs)))
    counts = prepare_qa.prepare(job, path, refuse=False)
    assert counts == {"rows": 1, "refused": 0, "left_out": 1, "held_out": 0}
    ((_, row),) = files.read_json_lines(job.workdir / "qa" / "qa.jsonl")
    assert row["text"].startswith("Passage from ")
    asked = "Question: How is the beam step of a trie normalised?\nAnswer: By a constant.\n"
    assert row["text"].endswith(f"\n\n{asked}")
    counts = prepare_qa.prepare(job, path, refuse=True)
    assert counts == {"rows": 2, "refused": 1, "left_out": 0, "held_out": 0}
    *_, (_, row) = files.read_json_lines(job.workdir / "qa" / "qa.jsonl")
    assert row["text"].endswith(f"Answer: {job.config.gate.refusal}\n")
    for line, message in (
        ("{", "line 1"),
        ('{"question": "x"}', "line 1: answer is missing"),
        ('{"question": " ", "answer": "y"}', "line 1: question is empty"),
        (json.dumps(pairs[1]), "no row is left: no passage covers one of its 1 questions"),
    ):
        path.write_text(line)
        with pytest.raises(ValueError, match=message):
            prepare_qa.prepare(job, path, refuse=False)


def test_a_trained_run_answers_and_helps_to_find(text_smoke):
    job, _ = text_smoke
    fused = changed(job, "retrieval.method", "fused")
    made = text_chat.make_chat(fused)
    assert made.settings.window == job.config.loader.row_tokens
    question = "What is the beam step?"
    found = made.retriever.search(question, 5)
    assert len(found) == 5
    assert len(made.retriever.dense.vectors) == len(made.retriever.bm25)
    again = text_dense.load_retriever(fused)
    assert again.search(question, 5).tolist() == found.tolist()
    reply = made.reply(question)
    assert reply.kind in (ANSWER, QUOTATION)  # So small a model hardly says what is so.
    assert reply.sources
    read, written = reply.tokens
    assert 0 < read <= made.settings.window - made.settings.max_new_tokens
    assert written <= made.settings.max_new_tokens
    same = [made.reply(question, drawing=Drawing(temperature=0)).tokens for _ in range(2)]
    assert same[0] == same[1]
    with pytest.raises(program.UsageError, match=r"retrieval\.method='dense': must be one of bm25"):
        text_dense.load_retriever(changed(job, "retrieval.method", "dense"))
    with pytest.raises(program.UsageError, match=r"max_new_tokens=16: must leave room"):
        text_chat.chat_settings(job, 16)
