"""Passages are found by their words; what no passage covers is told apart."""

import dataclasses

import numpy as np
import pytest

from minirec.recommend.index import ExactIndex
from minirec.recommend.passages.bm25 import Bm25Index, Bm25Settings
from minirec.recommend.passages.embedding import (
    TokenMeans,
    dense_index,
    mean_vector,
    token_counts,
)
from minirec.recommend.passages.fusion import reciprocal_rank
from minirec.recommend.passages.gate import Gate
from minirec.recommend.passages.measures import GateTrial, overlap_search, retrieval_measures
from minirec.recommend.passages.passage import Passage
from minirec.recommend.passages.questions import heading_questions, topic_questions
from minirec.recommend.passages.retriever import Retriever
from minirec.recommend.passages.words import content_words, stem, words

pytest.importorskip("bm25s", reason="needs the extra text")
STOP = frozenset({"the", "is", "what", "of", "how", "a", "does", "not"})
TOPICS = {
    "Lobster": ("Claws", "The lobster has two claws, and sheds its shell every summer at night."),
    "Violin": ("Making", "A violin is carved from spruce and maple, then varnished by its maker."),
    "Harbour": ("Traffic", "Ships entering the harbour are guided by pilots along the breakwater."),
    "Copper": (
        "Mining",
        "Copper was mined from open pits, then smelted in furnaces with charcoal.",
    ),
    "Tables": ("Uses", "Round tables seat guests evenly; a comfortable chair stands by each."),
    "Orchards": ("Harvest", "Apples ripen in the orchard during autumn and are pressed to cider."),
}
PASSAGES = [
    Passage(text, f"u/{title}", (title, section)) for title, (section, text) in TOPICS.items()
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "index"
    return Bm25Index.build(folder, PASSAGES, Bm25Settings(), {"x": 1})


@pytest.mark.parametrize(
    "forms",
    [
        "train trains trained training",
        "stop stops stopped stopping",
        "study studies studied studying",
        "bake bakes baked baking",
        "box boxes boxed boxing",
        "quick quickly",
        "maker makers maker's",
        "class classes",
        "city cities",
        "need needs needed",
        "日本 日本",
    ],
)
def test_the_forms_of_a_word_have_one_stem(forms):
    assert len({stem(form) for form in forms.split()}) == 1


@pytest.mark.parametrize(
    ("one", "other"), [("able", "table"), ("sing", "s"), ("is", "i"), ("red", "r")]
)
def test_other_words_have_other_stems(one, other):
    assert stem(one) != stem(other)


def test_words_of_every_script_are_found():
    assert words("Don't stop: über-Größe 3.5, 東京都 x東京") == [
        *("don't", "stop", "über", "grösse", "3", "5", "東京", "京都", "x", "東京")
    ]
    assert content_words("What is the lobster's Claw, the CLAWS?", STOP) == {
        "lobster": "lobster's",
        "claw": "Claw",
    }


def test_what_is_found_lies_on_disk_and_its_order_is_certain(index):
    assert index.search("Who carves violins?", 3).tolist() == [1]
    assert index.search("making", 3).tolist() == [1]  # A section's head.
    assert index.search("nothing here matches zzz", 3).tolist() == []
    assert index.search("", 3).tolist() == []
    # Half of the passages share "then" or "from": the shorter first, ties to the lower number.
    again = Bm25Index.load(index.passages._path.parent)
    assert again.made_with == {"x": 1}
    assert [again.passages[n] for n in range(len(again))] == PASSAGES
    for question in ("then from the lobster", "copper pits", "guests in the harbour"):
        assert again.search(question, 4).tolist() == index.search(question, 4).tolist()


def test_a_titles_weight_decides_between_equals(tmp_path):
    two = [Passage("a copper pot of tin", "u/0", ("Pots",)), Passage("a pot", "u/1", ("Copper",))]
    plain = Bm25Index.build(tmp_path / "a", two, Bm25Settings(title_weight=0), {})
    assert plain.search("copper", 2).tolist() == [0]
    heavy = Bm25Index.build(tmp_path / "b", two, Bm25Settings(title_weight=3), {})
    assert heavy.search("copper", 2).tolist() == [1, 0]
    (tmp_path / "b" / "passages.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"passages\.jsonl: has been damaged"):
        Bm25Index.load(tmp_path / "b")


@pytest.mark.parametrize(
    ("least", "ratio", "needed"),
    [(2, 0.4, [0, 1, 2, 2, 2, 2, 3, 3, 4]), (1, 0.0, [0, 1, 1, 1]), (2, 0.55, [0, 1, 2, 2, 3])],
)
def test_how_many_words_a_passage_must_hold(least, ratio, needed):
    gate = Gate(least, ratio)
    assert [gate.needed(n) for n in range(len(needed))] == needed
    assert Gate(2, 0.55).needed(100) == 55


def test_one_passage_must_hold_whole_words():
    gate = Gate(2, 0.4, STOP)
    verdict = gate.judge("How does the lobster shed its shells?", PASSAGES)
    assert verdict.covered
    assert (verdict.passage, verdict.missing) == (0, ())
    refused = gate.judge("Is a violin able to swim?", PASSAGES)
    assert (refused.covered, refused.needed) == (False, 2)
    assert set(refused.missing) == {"able", "to", "swim"}
    # "able" is in tables and comfortable; lobster and violin are of two passages.
    for question in ("able lobster", "lobster violin"):
        assert gate.substring_rule(question, PASSAGES)
        assert not gate.judge(question, PASSAGES).covered
    assert not gate.substring_rule("quantum physics", PASSAGES)
    assert not gate.judge("What is the?", PASSAGES).covered
    assert gate.judge("lobster", PASSAGES).covered
    assert gate.judge("lobster", []).passage is None


def test_lists_are_fused_by_the_reciprocals_of_ranks():
    fused = reciprocal_rank([np.array([3, 1, -1]), np.array([1, 2])], 60.0)
    assert fused == [(1, 1 / 62 + 1 / 61), (3, 1 / 61), (2, 1 / 62)]
    with pytest.raises(ValueError, match="rank_constant=-1"):
        reciprocal_rank([], -1)


def test_a_models_vectors_find_what_words_do_not(index):
    class Embedder:
        def embed(self, texts):
            return np.eye(len(PASSAGES), dtype=np.float32)[[4 for _ in texts]]

    dense = ExactIndex(np.eye(len(PASSAGES), dtype=np.float32), {})
    both = Retriever(index, dense, Embedder(), candidates=2)
    assert set(both.search("violins", 2).tolist()) == {1, 4}
    assert Retriever(index).search("violins", 2).tolist() == [1]


def test_a_models_own_embeddings_say_how_alike_texts_are():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(256, 8))
    rows[ord("b")] = rows[ord("a")] + 0.1 * rng.normal(size=8)  # Two tokens of one meaning.

    def encode(texts):
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    texts = ["a a", "b b", "x y", "", "q r s"]
    counts = token_counts(texts, encode, 256)
    assert counts.sum() == sum(map(len, texts))
    mean = mean_vector(texts, rows, counts, encode)
    means = TokenMeans(rows, counts, encode, mean)
    vectors = means.embed(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 0, 1], rtol=1e-6)
    alike = dense_index(texts, means, {}).search(means.embed(["a"]), 2)[0][0]
    assert set(alike.tolist()) == {0, 1}


def test_made_questions_are_known_and_the_measures_count_them(index):
    questions = heading_questions(PASSAGES, 4, seed=0)
    assert len(questions) == 4
    assert questions == heading_questions(PASSAGES, 4, seed=0)
    measures = retrieval_measures(index.search, questions)
    assert measures == {"recall@1": 1.0, "recall@5": 1.0, "recall@10": 1.0, "mrr": 1.0}
    second = dataclasses.replace(questions[0], answers=frozenset({99}))
    worse = retrieval_measures(index.search, [questions[0], second])
    assert (worse["recall@1"], worse["mrr"]) == (0.5, 0.5)
    overlap = overlap_search(PASSAGES, STOP, headings=False)
    assert overlap("able lobster", 3).tolist() == [0, 4]


def test_the_gates_figures_count_what_is_answered_rightly(index, tmp_path):
    gate = Gate(2, 0.4, STOP)
    known = Bm25Index.build(tmp_path / "known", PASSAGES[:4], Bm25Settings(), {})
    questions = topic_questions(PASSAGES[:4], PASSAGES[4:], 20, 0, gate.content_words)
    assert [question.covered for question in questions] == [True] * 10 + [False] * 10
    trial = GateTrial(known, questions, gate, 3)
    chosen = trial.figures(*trial.best_thresholds())
    assert chosen.f1 >= max(trial.figures(2, 0.4).f1, trial.figures(4, 0.9).f1)
    everything = trial.figures(1, 0.0)
    assert everything.recall == 1.0
    assert everything.precision == 10 / everything.answered
    with pytest.raises(ValueError, match="of 0 passages left out only 0 questions"):
        topic_questions(PASSAGES, [], 2, 0, gate.content_words)
