"""The comparison page on a tiny generated world, and RQ-VAE's way through make_sids and append."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from launch import compare_sids, make_sids, prepare
from launch.sweep.results import RECORD, RESULTS, write_lines
from launch.wiring import append, catalogue, program, sid
from minirec import files
from minirec.sids import SidTable
from minirec.sids.latent_codebooks import LatentCodebooks, load_codebooks
from pipelines.prepared import Prepared

RQ_VAE = {
    "hidden_widths": (16,),
    "latent_dim": 8,
    "num_steps": 300,
    "batch_size": 64,
}


def job_of(workdir, **changes):
    config = program.load_config_module("quickstart").get_config("smoke")
    config.sids.codebook_sizes = (8, 8)
    config.sids.dim = 8
    config.sids.rq_vae.update(RQ_VAE)
    config.update_from_flattened_dict(changes)
    return program.Job(config, workdir, workdir / "runs" / "none")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    prepare.main(job_of(folder))
    return folder


@pytest.fixture(scope="module")
def given(workdir):
    """An index of random SIDs for the catalogue; it says nothing of the items."""
    raw = Prepared.load(job_of(workdir).prepared).raw_item_ids
    codes = np.random.default_rng(0).integers(0, 8, (len(raw), 2))
    path = workdir / "given.index.json"
    SidTable(raw, codes, (8, 8)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def comparison(workdir, given):
    changes = {"sids.path": given, "sids.vectors": "cooccurrence"}
    return compare_sids.run_comparison(job_of(workdir, **changes))


def result(run, fields, ndcg, split="valid"):
    metrics = {"hr@10": 0.5, "ndcg@10": ndcg}
    return (run, split), {
        **{"run": run, "split": split, "fields": fields, "commit": None},
        **{"uncommitted_changes": None, "users": 9, "metrics": {"model": {"item": metrics}}},
        "intervals": {"model": {"item": {name: [0.1, 0.9] for name in metrics}}},
    }


def test_models_of_a_sweep_belong_to_the_quantisers_whose_settings_they_change(tmp_path):
    kmeans, balanced = {"sids.source": "rq_kmeans"}, {"sids.balance": 1.0}
    lines = [
        result("a", kmeans, 0.25),
        result("b", kmeans, 0.75),
        result("c", kmeans, 0.9, split="test"),
        result("d", kmeans | {"model.width": 8}, 0.9),
        result("e", kmeans | balanced, 0.125),
        result("f", {"sids.source": "rq_vae", "sids.balance": 0.0}, 0.25),
    ]
    job = job_of(tmp_path)
    with pytest.raises(ValueError, match="is missing; expected the folder of a sweep"):
        compare_sids.trained_ndcg(job, tmp_path, ["rq_kmeans"])
    write_lines(tmp_path / RESULTS, dict(lines))
    files.write_sealed(tmp_path / RECORD, {"config": job.config.to_dict()})
    names = ["rq_vae", "rq_kmeans", "rq_kmeans_balanced"]
    found = compare_sids.trained_ndcg(job, tmp_path, names)
    # What a quantiser's settings name is the default here, and said by no line.
    assert found == {"rq_kmeans": 0.5, "rq_kmeans_balanced": 0.125, "rq_vae": 0.25}
    with pytest.raises(ValueError, match=r"no run on validation users .* such as .*gradient"):
        compare_sids.trained_ndcg(job, tmp_path, ["rq_vae_gradient"])
    with pytest.raises(ValueError, match=r"config.data.k_core is .* there and 9 here"):
        compare_sids.trained_ndcg(job_of(tmp_path, **{"data.k_core": 9}), tmp_path, names)
    with pytest.raises(ValueError, match="no run on validation users"):
        compare_sids.trained_ndcg(job_of(tmp_path, **{"sids.dim": 9}), tmp_path, names)


def test_all_quantisers_stand_side_by_side_in_one_page(workdir, comparison):
    names = ["given", "rq_kmeans", "rq_kmeans_balanced", "rq_vae", "rq_vae_gradient"]
    folder = job_of(workdir).sids / "compare"
    content = json.loads((folder / "compare.json").read_text())
    assert list(content["quantisers"]) == names
    for entry in content["quantisers"].values():
        assert len(entry["levels"]) == 2
        for level in entry["levels"]:
            assert {"relative_error", "used", "perplexity", "items_sharing_prefix"} <= set(level)
            assert np.isfinite(level["information"]["bits"])
    page = (folder / "index.html").read_text()
    assert not re.search(r"(src|href)=.?https?:", page)
    assert page.count("<svg") == 6
    assert "NaN" not in page
    tags = []

    class Balanced(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "wbr", "br", "link", "path", "use", "rect"):
                tags.append(tag)

        def handle_endtag(self, tag):
            if tag not in ("path", "use", "rect"):
                assert tags.pop() == tag

    Balanced().feed(page)
    assert not tags


def test_quantisers_of_the_vectors_beat_random_sids_in_what_they_keep(comparison):
    scores = dict(comparison.quantisers)
    random = scores.pop("given")
    for name, one in scores.items():
        assert one.relative_error[-1] < 0.8 * random.relative_error[-1], name
        assert one.information[0].bits > random.information[0].bits + 0.1, name
    top = [level["largest_share"] for level in scores["rq_kmeans_balanced"].report["levels"]]
    share = np.ceil(comparison.num_items / 8) / comparison.num_items
    assert max(top) <= share + 1e-9


def test_nothing_of_validation_or_test_and_no_held_out_transition_is_looked_at(
    workdir, monkeypatch
):
    seen = {}
    make_vectors = make_sids.item_vectors

    def spy(prepared, config, seed, training):
        seen["training"] = training
        return make_vectors(prepared, config, seed, training)

    def refuse(*_):
        raise AssertionError("held-out views were read")

    monkeypatch.setattr(make_sids, "item_vectors", spy)
    monkeypatch.setattr(Prepared, "views", refuse)
    compare_sids.run_comparison(job_of(workdir), ["rq_kmeans"])
    item, offsets = Prepared.load(job_of(workdir).prepared).training_items()
    length = np.diff(offsets)
    left = np.diff(seen["training"][1])
    np.testing.assert_array_equal(left, length - (length >= 3))
    for row in np.flatnonzero(length >= 3)[:5]:
        start = seen["training"][1][row]
        kept = seen["training"][0][start : start + left[row]]
        np.testing.assert_array_equal(kept, item[offsets[row] : offsets[row + 1] - 1])


def test_wrong_input_is_an_error_before_any_work(workdir, given, monkeypatch):
    def refuse(*_):
        raise AssertionError("work has begun")

    monkeypatch.setattr(make_sids, "item_vectors", refuse)
    for changes, names, message in (
        ({}, ["rq_means"], "'rq_means' is not known"),
        ({}, ["rq_vae", "rq_vae"], "'rq_vae' occurs twice"),
        ({}, ["given"], "config.sids.path is empty"),
        ({"sids.rq_vae.latent_dim": 0}, [], r"config\.sids\.rq_vae\.latent_dim=0: must be a whole"),
        ({"sids.codebook_sizes": (8, 0)}, [], r"config\.sids\.codebook_sizes=\(8, 0\)"),
        ({"sids.path": given + "x"}, [], r"config\.sids\.path"),
    ):
        with pytest.raises(ValueError, match=message):
            compare_sids.run_comparison(job_of(workdir, **changes), names)
    short = json.loads(Path(given).read_text())
    short.popitem()
    (workdir / "short.json").write_text(json.dumps(short))
    with pytest.raises(ValueError, match=r"short\.json"):
        compare_sids.run_comparison(job_of(workdir, **{"sids.path": str(workdir / "short.json")}))


@pytest.mark.parametrize("policy", ["extra_level", "spare_capacity"])
def test_rq_vae_makes_sids_keeps_its_encoder_and_appends_new_items(workdir, tmp_path, policy):
    changes = {
        "sids.source": "rq_vae",
        "sids.collisions": policy,
        "sids.codebook_sizes": (32, 32),
    }
    job = job_of(tmp_path, **changes)
    (tmp_path / "prepared").symlink_to(job_of(workdir).prepared)
    make_sids.make(job)
    quantiser, about, _ = load_codebooks(job.sids / catalogue.CODEBOOKS)
    assert isinstance(quantiser, LatentCodebooks)
    assert about["source"].startswith("rq_vae on ")
    prepared = catalogue.load_prepared(job)
    vectors, _ = make_sids.item_vectors(prepared, job.config.sids, job.config.seed)
    table = sid.load_catalogue(prepared, job.sids).table
    made = quantiser.encode(vectors)
    same = (table.codes[:, :2] == made).all(axis=1).mean()
    assert same == 1 if policy == "extra_level" else same > 0.3

    path = tmp_path / "new.jsonl"
    line = {"raw_item_id": "new", "title": "New", "text": prepared.items["text"][3]}
    line |= {"colour": "Red", "price": 3}
    path.write_text(json.dumps(line) + "\n")
    added = append.append_items(job, prepared, path, None)
    sids = np.concatenate([table.codes, added.codes])
    assert len(np.unique(sids, axis=0)) == len(sids)

    # And it goes on from there: the vectors are the same, so most SIDs stay.
    if policy == "extra_level":
        start = str(job.sids / catalogue.CODEBOOKS)
        again = {"sids.start": start, "sids.rq_vae.learning_rate": 1e-4}
        table = make_sids.make_table(prepared, job_of(tmp_path, **changes, **again).config.sids, 1)
        assert (table.table.codes[:, 0] == made[:, 0]).mean() > 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "rq_means"}, r"config\.sids\.source='rq_means': use one of"),
        ({"source": "rq_vae", "balance": 2.0}, r"balance=2\.0: only source 'rq_kmeans'"),
        ({"source": "rq_kmeans", "start": "x.npz"}, r"start='x\.npz': only source 'rq_vae'"),
        ({"source": "rq_vae", "start": "x.npz"}, r"start='x\.npz': x\.npz: no such file"),
        ({"source": "rq_vae", "rq_vae.estimator": "none"}, r"config\.sids\.rq_vae\.estimator"),
    ],
)
def test_wrong_settings_are_named_before_any_work(workdir, monkeypatch, changes, message):
    monkeypatch.setattr(make_sids, "item_vectors", None)
    job = job_of(workdir, **{f"sids.{name}": value for name, value in changes.items()})
    with pytest.raises(ValueError, match=message):
        make_sids.make(job)
