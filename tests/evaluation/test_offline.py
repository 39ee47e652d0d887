"""Metrics of predictions files, against figures worked out by hand and the report's own."""

import json
import math

import numpy as np
import pytest

from minirec.evaluation import metrics_at, sid_ranks
from minirec.evaluation.offline import offline_metrics, read_catalogue_sids
from minirec.evaluation.predictions import write_predictions
from minirec.sids import sid_string

CATALOGUE = frozenset(f"<a_{code}><b_0>" for code in range(20))


def sids(*codes):
    return [f"<a_{code}><b_0>" for code in codes]


def measure(rows, **options):
    return offline_metrics(rows, CATALOGUE, where="p.json", **options)


def test_the_figures_of_three_users_are_those_worked_out_by_hand():
    result = measure(
        [
            {"predict": sids(3, 1, 2, 4, 5), "output": sids(3)[0]},
            {"predict": sids(1, 2, 3, 4, 5), "output": sids(4)[0]},
            {"predict": sids(1, 2, 3, 4, 5), "output": sids(9)[0]},
        ]
    )
    at_rank_3 = math.log(2) / math.log(5)
    assert result.metrics == pytest.approx(
        {
            "hr@1": 1 / 3,
            "ndcg@1": 1 / 3,
            "hr@3": 1 / 3,
            "ndcg@3": 1 / 3,
            "hr@5": 2 / 3,
            "ndcg@5": (1 + at_rank_3) / 3,
        }
    )
    assert (result.users, result.candidates, result.invalid) == (3, 5, 0)


@pytest.mark.parametrize("candidates", [1, 2, 9, 10, 49, 50, 60])
def test_k_goes_up_to_the_candidates_of_the_first_row(candidates):
    rows = [{"predict": sids(*[1] * candidates), "output": sids(0)[0]}]
    measured = [name for name in measure(rows).metrics if name.startswith("hr@")]
    assert measured == [f"hr@{k}" for k in (1, 3, 5, 10, 20, 50) if k <= candidates]


@pytest.mark.parametrize(
    "spelled",
    [
        "<a_3><b_0>",
        "<a_3><b_0>\n",
        '"<a_3><b_0>"',
        ' "<a_3><b_0>\n"\n',
        ["<a_3>", "<b_0>"],
        ["<a_3>", "<b_0>\n"],
    ],
)
def test_a_sid_may_be_text_with_quotes_and_line_ends_or_tokens(spelled):
    for output in (spelled, [spelled] if isinstance(spelled, str) else spelled):
        result = measure(
            [{"predict": [spelled], "output": sids(3)[0]}, {"predict": sids(3), "output": output}]
        )
        assert result.metrics["hr@1"] == 1
        assert result.invalid == 0


def test_a_repeated_prediction_keeps_its_place_as_in_minionerec():
    result = measure([{"predict": sids(1, 1, 1, 2, 3), "output": sids(2)[0]}])
    assert result.metrics["hr@3"] == 0
    assert result.metrics["ndcg@5"] == pytest.approx(1 / math.log2(5))


def test_predictions_outside_the_catalogue_are_counted_before_and_behind_the_target():
    result = measure(
        [
            {"predict": [*sids(77, 1, 78), "", *sids(2)], "output": sids(1)[0]},
            {"predict": [*sids(1, 2, 3), "<a_1>", "no SID"], "output": sids(99)[0]},
        ]
    )
    assert result.invalid == 5
    assert result.invalid_before_target == 3
    assert result.unknown_targets == 1


def test_a_written_file_has_the_figures_of_the_report(tmp_path):
    generator = np.random.default_rng(0)
    num_users, num_beams = 200, 20
    codes = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), -1).reshape(-1, 2)
    ranked = np.stack(
        [codes[generator.permutation(len(codes))[:num_beams]] for _ in range(num_users)]
    )
    target = codes[generator.integers(len(codes), size=num_users)]
    ranked[5, 12:] = -1  # dead beams
    write_predictions(tmp_path / "predictions.json", ranked, target)
    sids_file = {str(item): sid_string(sid) for item, sid in enumerate(codes)}
    (tmp_path / "sids.json").write_text(json.dumps(sids_file))
    result = offline_metrics(
        json.loads((tmp_path / "predictions.json").read_text()),
        read_catalogue_sids(tmp_path / "sids.json"),
        where="predictions.json",
        allow_short=True,
    )
    assert result.metrics == metrics_at(sid_ranks(ranked, target), [1, 3, 5, 10, 20])
    assert 0 < result.metrics["hr@20"] < 1
    assert result.invalid == 0


GOOD = {"predict": sids(1, 2), "output": sids(1)[0]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"predict": []}, "p.json: holds an object; expected a list of rows"),
        ([], "p.json: the list is empty"),
        ([{"predict": [], "output": sids(1)[0]}], "p.json: row 0 has no predictions"),
        (
            [GOOD, {"predict": sids(1), "output": sids(1)[0]}],
            "row 1 has 1 predictions, row 0 has 2",
        ),
        ([GOOD, [1]], "p.json: row 1 is a list"),
        ([GOOD, {"predict": sids(1, 2)}], "p.json: row 1 has no 'output'"),
        ([GOOD, {"output": sids(1)[0]}], "p.json: row 1 has no 'predict'"),
        ([GOOD, {"predict": "<a_1><b_0>", "output": ""}], "row 1: 'predict' is text"),
        ([GOOD, {"predict": [*sids(1), 7], "output": sids(1)[0]}], r"row 1: 'predict'\[1\] is 7"),
        ([GOOD, {"predict": [*sids(1), None], "output": sids(1)[0]}], r"'predict'\[1\] is null"),
        ([GOOD, {"predict": [*sids(1), []], "output": sids(1)[0]}], r"'predict'\[1\] is \[\]"),
        ([GOOD, {"predict": sids(1, 2), "output": "\n"}], "row 1: 'output' is empty"),
        ([GOOD, {"predict": sids(1, 2), "output": []}], "row 1: 'output' has 0 answers"),
        ([GOOD, {"predict": sids(1, 2), "output": sids(1, 2)}], "row 1: 'output' has 2 answers"),
        ([GOOD, {"predict": sids(1, 2), "output": ["<a_1>", "<a_2>"]}], "'output' has 2 answers"),
        ([{"predict": [], "output": sids(1)[0]}, GOOD], "p.json: row 0 has no predictions"),
        ([{"predict": sids(1), "output": "<c_5>"}], "no target is in the catalogue of 20 SIDs"),
    ],
)
def test_a_bad_file_is_an_error_that_names_the_row(rows, message):
    with pytest.raises(ValueError, match=message):
        measure(rows)


def test_rows_may_differ_where_that_is_said():
    result = measure([GOOD, {"predict": sids(1), "output": sids(1)[0]}], allow_short=True)
    assert result.metrics["hr@1"] == 1


def test_a_catalogue_is_read_from_an_info_file_and_from_sids_json(tmp_path):
    info = tmp_path / "info.txt"
    info.write_text("<a_1><b_2>\tA title\twith a tab\t0\n<a_1><b_3>\tAnother\t1\n")
    sids_json = tmp_path / "sids.json"
    sids_json.write_text(json.dumps({"x": ["<a_1>", "<b_2>"], "y": ["<a_1>", "<b_3>"]}))
    assert read_catalogue_sids(info) == read_catalogue_sids(sids_json)
    assert read_catalogue_sids(info) == {"<a_1><b_2>", "<a_1><b_3>"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("info.txt", b"", "info.txt: holds no items"),
        ("info.txt", b"<a_1>\tx\t0\n<a_2> x 1\n", "info.txt: line 2: .*SID<TAB>title"),
        ("info.txt", b"\tx\t0\n", "info.txt: line 1"),
        ("info.txt", b"\xff\xfe", "info.txt: not a text file"),
        ("sids.json", b"{}", "sids.json: holds no items"),
        ("sids.json", b"[1]", r"sids.json: holds \[1\]; expected an object"),
        ("sids.json", b'{"x": 3}', "sids.json: item 'x': SID is 3"),
        ("sids.json", b'{"x": ', "sids.json: not a JSON file"),
    ],
)
def test_a_bad_catalogue_is_an_error_that_names_the_line(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_catalogue_sids(tmp_path / name)
