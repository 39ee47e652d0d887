"""The benchmark program's flags, and the picture of its sweeps."""

import json

import pytest
from absl import flags
from absl.testing import flagsaver

from launch.bench import __main__ as bench
from launch.bench import plot
from launch.wiring import program


@pytest.fixture
def parsed():
    """Flags at their defaults, whatever other tests parsed."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["bench"])
    with flagsaver.flagsaver():
        yield


def point(sweep, value, implementation="xla", level=1):
    return {
        "sweep": sweep,
        "value": value,
        "implementation": implementation,
        "level": level,
        "microseconds": 10.0 * value,
        "device": "cpu",
    }


@pytest.mark.usefixtures("parsed")
def test_rows_are_printed_with_the_machine(monkeypatch, capsys):
    monkeypatch.setitem(bench.BENCHMARKS, "trie", lambda: iter([{"benchmark": "trie", "x": 1}]))
    with flagsaver.flagsaver(only=["trie"]):
        bench.main()
    row = json.loads(capsys.readouterr().out)
    assert row["x"] == 1
    assert "cores" in row["machine"]


@pytest.mark.usefixtures("parsed")
def test_the_number_of_sids_reaches_trie_and_decode(monkeypatch):
    asked = []
    for module in (bench.kernels.bench.trie, bench.kernels.bench.decode):
        monkeypatch.setattr(
            module, "run", lambda num_sids, **sizes: iter([asked.append((num_sids, sizes)) or {}])
        )
    with flagsaver.flagsaver(only=["trie", "decode"], num_sids=77, large_sids=99):
        bench.main()
    with flagsaver.flagsaver(only=["trie"], num_sids=5, large_sids=0):
        bench.main()
    wide = {"vocab": 8192, "levels": 3}
    large = (99, {"repeats": 1})
    assert asked == [(77, {}), (77, wide), large, (77, {}), (5, {}), (5, wide)]


@pytest.mark.usefixtures("parsed")
def test_the_sizes_of_the_logs_and_their_folder_reach_prepare(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(bench.prepare, "run", lambda *given: iter([asked.append(given) or {}]))
    with flagsaver.flagsaver(only=["prepare"], num_rows=7, large_rows=0, bench_dir=str(tmp_path)):
        bench.main()
    assert asked == [(7, 0, str(tmp_path))]


@pytest.mark.usefixtures("parsed")
def test_the_sizes_of_the_logs_and_their_folder_reach_prepare_spark(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        bench.prepare_spark, "run", lambda *given: iter([asked.append(given) or {}])
    )
    with flagsaver.flagsaver(only=["prepare_spark"], spark_rows=[7, 9], bench_dir=str(tmp_path)):
        bench.main()
    assert asked == [([7, 9], str(tmp_path))]


@pytest.mark.usefixtures("parsed")
def test_plot_sweeps_up_to_the_largest_catalogue_and_draws(monkeypatch, tmp_path, capsys):
    asked = []

    def run(max_sids):
        asked.append(max_sids)
        yield point("num_sids", 10_000)

    monkeypatch.setattr(bench.kernels.bench.sweep, "run", run)
    with flagsaver.flagsaver(plot=str(tmp_path), plot_max_sids=20_000):
        bench.main()
    assert asked == [20_000]
    assert json.loads(capsys.readouterr().out)["sweep"] == "num_sids"
    assert (tmp_path / "beam_step.svg").stat().st_size > 1_000


@pytest.mark.usefixtures("parsed")
@pytest.mark.parametrize("name", ["scale", "serving"])
def test_plot_draws_the_rows_of_the_one_benchmark_that_is_asked_for(
    monkeypatch, tmp_path, capsys, name
):
    drawn = []
    monkeypatch.setitem(bench.BENCHMARKS, name, lambda: iter([{"x": 1}, {"x": 2}]))
    monkeypatch.setattr(
        getattr(bench, name), "draw", lambda rows, folder: drawn.append((rows, folder)) or ["a.svg"]
    )
    with flagsaver.flagsaver(plot=str(tmp_path), only=[name]):
        bench.main()
    assert drawn == [([{"x": 1}, {"x": 2}], tmp_path)]
    said = capsys.readouterr()
    assert [json.loads(line)["x"] for line in said.out.splitlines()] == [1, 2]
    assert said.err == "a.svg\n"


@pytest.mark.usefixtures("parsed")
def test_plot_beside_another_benchmark_is_an_error():
    with (
        flagsaver.flagsaver(plot="x", only=["trie"]),
        pytest.raises(program.UsageError, match="--plot draws beam_step"),
    ):
        bench.main()


def test_the_picture_names_its_lines_and_points(tmp_path):
    rows = [
        point(sweep, value, implementation, level)
        for sweep in ("num_sids", "vocab", "beams", "children")
        for value in (1_000, 2_048, 20_000_000)
        for implementation in ("xla", "static")
        for level in (1, 2)
    ]
    svg, png = plot.draw(rows, tmp_path / "new")
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text()
    for words in ("beam_step, xla", "STATIC, exact", "20M", "2048", "1k", "Vocabulary V"):
        assert f"<!-- {words} -->" in text
