"""Documents to passages: nothing is lost silently, nothing held out is trained on."""

import gzip
import itertools
import json

import numpy as np
import pytest
import zstandard

from pipelines.text.corpus.config import CorpusConfig
from pipelines.text.corpus.cutting import cut
from pipelines.text.corpus.headings import sections
from pipelines.text.corpus.near_duplicates import MinHash, NearDuplicates
from pipelines.text.corpus.prepare import prepare_corpus
from pipelines.text.passages import EVAL, TRAIN, read_manifest, read_passages

WORDS = ("river", "stone", "copper", "lantern", "orchard", "violin", "harbour", "meadow", "pepper")


def prose(rng, sentences):
    return " ".join(
        f"{' '.join(rng.choice(WORDS, 9))} {rng.integers(10**6)}.".capitalize()
        for _ in range(sentences)
    )


def written(folder, records, name="crawl.jsonl"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def config(folder, **changes):
    fields = {"folder": str(folder), "files": ("*",), "eval_ratio": 0.2}
    fields |= {"drop_sections": ("references",), "drop_phrases": ("retrieved from",)}
    return CorpusConfig(**fields | changes)


def both(folder):
    return list(read_passages(folder / TRAIN)), list(read_passages(folder / EVAL))


@pytest.fixture(scope="module")
def crawl():
    """Records of all three shapes, with what the rules leave out among them."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(40):
        texts = [
            *(prose(rng, 1), prose(rng, 6), prose(rng, 40), "A  b \n\n\n\n" + prose(rng, 5) + " "),
            prose(rng, 4) + '\nRetrieved from "elsewhere"\n' + prose(rng, 4),
            "HOME NEWS SPORT WEATHER " * 12,
        ]
        path = [{"title": f"Title {number}"}]
        chunks = [
            {"text": text, "chunk_id": place, "section_path": path}
            for place, text in enumerate(texts)
        ]
        chunks.append(
            {
                "text": prose(rng, 5),
                "section_path": [*path, {"title": "References"}, {"title": "x"}],
            }
        )
        shapes = (
            {"url": f"u/{number}", "chunks": chunks},
            {"metadata": {"url": f"u/{number}"}, "title": f"T {number}", "text": "\n".join(texts)},
            {"source_url": f"u/{number}", "body_text": "\n".join(texts)},
        )
        records.append(shapes[number % 3])
    return records


def num_letters(records):
    return sum(
        len(record.get("text", record.get("body_text", "")))
        + sum(len(chunk["text"]) for chunk in record.get("chunks", ()))
        for record in records
    )


def check_letters(manifest):
    letters = manifest["characters"]
    assert letters["in"] == letters["train"] + letters["eval"] + sum(letters["left_out"].values())


@pytest.fixture(scope="module")
def prepared(crawl, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    source = written(folder / "in", crawl)
    return folder, prepare_corpus(config(source), folder / "text")


def test_every_letter_goes_out_or_is_left_out_for_a_reason(prepared, crawl):
    folder, manifest = prepared
    assert manifest == read_manifest(folder / "text")
    assert manifest["characters"]["in"] == num_letters(crawl)
    check_letters(manifest)
    for name, passages in zip((TRAIN, EVAL), both(folder / "text"), strict=True):
        part = name.removesuffix(".jsonl")
        assert manifest["characters"][part] == sum(len(passage.text) for passage in passages)
        assert manifest["counts"][part]["passages"] == len(passages)
    left_out = manifest["counts"]["left_out"]
    assert {"section", "phrase", "upper_case", "short"} <= {r for r, n in left_out.items() if n}


def test_no_document_lies_on_both_sides_and_its_passages_stay_in_order(prepared):
    train, held_out = both(prepared[0] / "text")
    assert not {p.source_url for p in train} & {p.source_url for p in held_out}
    for passages in (train, held_out):
        ids = [p.chunk_id for p in passages]
        urls = [p.source_url for p in passages]
        starts = [place for place, number in enumerate(ids) if number == 0]
        assert len(starts) == len(set(urls))
        assert all(a + 1 == b for a, b in itertools.pairwise(ids) if b)


def test_the_same_config_gives_the_same_files_and_another_seed_others(prepared, tmp_path):
    folder, manifest = prepared
    again = prepare_corpus(config(folder / "in"), tmp_path / "again")
    assert again["files"] == manifest["files"]
    other = prepare_corpus(config(folder / "in", seed=14), tmp_path / "other")
    assert other["files"] != manifest["files"]
    check_letters(other)


def test_what_is_almost_an_evaluation_passage_is_not_trained_on(tmp_path):
    rng = np.random.default_rng(1)
    held, own = prose(rng, 12), prose(rng, 12)
    edited = held.replace("river", "brook", 1).upper()  # Case is no difference.
    given = [("a", prose(rng, 12)), ("b", edited), ("c", own)]
    source = written(tmp_path / "in", [{"url": url, "text": text} for url, text in given])
    # A document of both sides is for evaluation alone.
    given = [("d", held), ("a", prose(rng, 12))]
    written(source, [{"url": url, "text": text} for url, text in given], "held.jsonl")
    changes = {"files": ("crawl.jsonl",), "eval_files": ("held.jsonl",), "max_upper_share": 1.0}
    manifest = prepare_corpus(config(source, **changes), tmp_path / "text")
    train, held_out = both(tmp_path / "text")
    assert [(p.source_url, p.text) for p in train] == [("c", own)]
    assert {p.source_url for p in held_out} == {"a", "d"}
    left_out = manifest["counts"]["left_out"]
    assert (left_out["near_duplicate"], left_out["evaluation_document"]) == (1, 1)
    check_letters(manifest)
    prepare_corpus(config(source, near_duplicate=0.0, **changes), tmp_path / "text")
    assert {p.source_url for p in both(tmp_path / "text")[0]} == {"b", "c"}


@pytest.mark.parametrize("near_duplicate", [0.0, 0.8])
def test_a_document_is_not_trained_on_under_another_name(tmp_path, near_duplicate):
    rng = np.random.default_rng(5)
    texts = [f" = Title {number} =\n{prose(rng, 20)}\n" for number in range(4)]
    (tmp_path / "train.txt").write_text("".join(texts[:3]))
    (tmp_path / "test.txt").write_text("".join(texts[2:]))
    settings = config(
        tmp_path, files=("train.txt",), eval_files=("test.txt",), headings="wiki",
        near_duplicate=near_duplicate,
    )  # fmt: skip
    manifest = prepare_corpus(settings, tmp_path / "text")
    train, held_out = both(tmp_path / "text")
    assert {one.section_path[0] for one in train} == {"Title 0", "Title 1"}
    assert {one.section_path[0] for one in held_out} == {"Title 2", "Title 3"}
    assert manifest["counts"]["left_out"]["same_document"] > 0
    check_letters(manifest)


def test_what_shares_little_is_no_copy():
    rng = np.random.default_rng(2)
    hashes = MinHash()
    texts = [prose(rng, 10) for _ in range(20)]
    signatures = np.stack([hashes.signature(text) for text in texts])
    found = NearDuplicates(signatures, 0.7)
    assert all(found.has(signature) for signature in signatures)
    assert not any(found.has(hashes.signature(prose(rng, 10))) for _ in range(20))
    for short in ("", "a", "日本"):
        assert hashes.signature(short).shape == (64,)
    # A quarter of the sentences are others: some .6 of all shingles are the same.
    text = ". ".join(texts[0].split(". ")[:-3]) + prose(rng, 3)
    share = (hashes.signature(text) == signatures[0]).mean()
    assert 0.3 < share < 0.7


WIKI = " \n = One = \n \n Some text . \n\n = = Part = = \n More = text . \n = Two = \n Last . \n"


def test_wiki_text_is_kept_letter_by_letter(tmp_path):
    (tmp_path / "a.txt").write_text(WIKI)
    others = WIKI.replace(".", ";")  # Copies of what is held out would be left out.
    (tmp_path / "b.txt").write_text(others * 30)
    keep = {"headings": "wiki", "keep_headings": True, "whitespace": "keep", "min_chars": 0}
    asked = config(tmp_path, files=("b.txt",), eval_files=("a.txt",), max_chars=30, **keep)
    manifest = prepare_corpus(
        CorpusConfig(**vars(asked) | {"shuffle": False, "near_duplicate": 0.0}), tmp_path / "text"
    )
    train, held_out = both(tmp_path / "text")
    assert "".join(passage.text for passage in held_out) == WIKI
    assert "".join(passage.text for passage in train) == others * 30
    assert {p.section_path for p in held_out} == {("One",), ("One", "Part"), ("Two",)}
    assert (manifest["counts"]["train"]["documents"], len({p.title for p in train})) == (60, 2)
    assert max(len(p.text) for p in train) <= 30


def test_headings_of_markdown_are_those_outside_of_code():
    text = "# A\nx\n## B #\n```\n# no\n```\n### C\n# D\ny\n#no\n"
    found = [
        (s.path, s.text) for s in sections(text.splitlines(keepends=True), "markdown", keep=False)
    ]
    assert found == [
        (("A",), "x\n"),
        (("A", "B"), "```\n# no\n```\n"),
        (("A", "B", "C"), ""),
        (("D",), "y\n#no\n"),
    ]


def test_a_heading_of_many_blanks_takes_no_time():
    line = "# a" + " " * 50_000 + "b ##\n"  # What tries all ways to part it would never end.
    (section,) = sections([line, "x\n"], "markdown", keep=False)
    assert section.path[0].split() == ["a", "b"]


@pytest.mark.parametrize("most", [20, 47, 400])
def test_long_texts_are_cut_where_a_sentence_ends(most):
    rng = np.random.default_rng(most)
    text = (
        prose(rng, 8) + "\n" + "ー。".join("漢字" * n for n in range(9)) + "x" * 90 + prose(rng, 3)
    )
    pieces = list(cut(text, 10, most))
    assert "".join(pieces) == text
    assert all(10 <= len(piece) <= most for piece in pieces)
    if most == 400:
        assert sum(piece.rstrip()[-1] in ".。" for piece in pieces) >= len(pieces) - 1


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_compressed_files_hold_the_same(prepared, crawl, tmp_path, pack):
    folder, manifest = prepared
    (tmp_path / "in").mkdir()
    data = (folder / "in" / "crawl.jsonl").read_bytes()
    suffix = "gz" if pack is gzip.compress else "zst"
    (tmp_path / "in" / f"crawl.jsonl.{suffix}").write_bytes(pack(data))
    assert prepare_corpus(config(tmp_path / "in"), tmp_path / "t")["files"] == manifest["files"]


def test_a_limit_takes_the_first_of_the_order(prepared, tmp_path):
    folder, manifest = prepared
    limited = prepare_corpus(config(folder / "in", max_chunks=50), tmp_path / "text")
    train, held_out = both(tmp_path / "text")
    assert (len(train), len(held_out)) == (40, 10)
    assert train == both(folder / "text")[0][:40]
    check_letters(limited)
    assert limited["characters"]["in"] == manifest["characters"]["in"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"crawl\.jsonl, line 2: Expecting"),
        ("[1]", "is a list, and must be an object with a text"),
        ('{"url": "u", "body": "x"}', "has the fields 'url', 'body'; it needs a text"),
        ('{"text": 3}', "text is '3'; it must be a text"),
        ('{"chunks": [{"section_path": []}]}', r"chunks\[0\]\.text is missing"),
        ('{"text": "\\ud800"}', "text holds half of a surrogate pair"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path, line, message):
    good = [json.dumps({"url": str(n), "text": f"Some words {n}. " * 30}) for n in range(9)]
    (tmp_path / "crawl.jsonl").write_text("\n".join([good[0], line, *good[1:]]))
    with pytest.raises(ValueError, match=f"{message}.*on_bad_rows='skip'"):
        prepare_corpus(config(tmp_path), tmp_path / "text")
    assert not (tmp_path / "text").exists()
    asked = config(tmp_path, files=("crawl.jsonl",), on_bad_rows="skip", near_duplicate=0.0)
    manifest = prepare_corpus(asked, tmp_path / "text")
    assert manifest["counts"]["bad_rows"] == 1
    check_letters(manifest)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": ()}, r"config\.corpus\.files=\(\): name"),
        ({"files": ("no*",)}, r"'no\*' names no file in"),
        ({"max_chars": 300}, r"max_chars=300: must be at least 400, twice min_chars"),
        ({"headings": "html"}, r"headings='html': must be one of none, wiki"),
        ({"eval_files": ("crawl.jsonl",)}, "is one of config.corpus.files, too"),
        ({"require_keyword": "nowhere"}, "no document does either"),
        ({"require_keyword": "sport"}, r"left out with \(upper_case: 40\)"),
        ({"require_keyword": "river", "include_keyword": "zzz"}, "no passage is left"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(prepared, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        prepare_corpus(config(prepared[0] / "in", **changes), tmp_path / "text")
    assert not list(tmp_path.iterdir())


def test_one_document_alone_cannot_be_split(tmp_path):
    (tmp_path / "one.md").write_text("# Title\n" + "Some words. " * 60)
    with pytest.raises(ValueError, match=r"all passages are of one document.*eval_files"):
        prepare_corpus(config(tmp_path), tmp_path / "text")
