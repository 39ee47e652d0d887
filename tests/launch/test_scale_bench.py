"""The benchmark of growth: its log, what a row says, and the picture."""

import polars as pl

from launch.bench import scale


def test_every_item_has_events_and_a_title(tmp_path):
    assert scale.write_log(tmp_path / "log", 300) == 4500
    events = pl.read_parquet(tmp_path / "log" / "events.parquet")
    items = pl.read_parquet(tmp_path / "log" / "items.parquet")
    assert len(events) == 4500
    assert events["time"].is_sorted()
    assert events.group_by("item").len()["len"].min() >= 2
    assert events["item"].n_unique() == len(items) == 300
    assert items["title"].str.len_chars().min() > 10
    # The same again.
    scale.write_log(tmp_path / "again", 300)
    assert events.equals(pl.read_parquet(tmp_path / "again" / "events.parquet"))


def test_growth_is_beside_the_first_size_and_is_drawn(tmp_path, monkeypatch):
    asked = []

    def measure(place, num_items, num_users):
        asked.append((place, num_users))
        return {name: num_items * (1.0 + place_in / 8) for place_in, name in enumerate(scale.COSTS)}

    monkeypatch.setattr(scale, "_measure", measure)
    rows = list(scale.run([1_000, 4_000], num_users=7, folder=str(tmp_path)))
    assert asked == [(tmp_path / "scale_1000", 7), (tmp_path / "scale_4000", 7)]
    assert rows[0]["growth"] == dict.fromkeys(scale.COSTS, 1.0)
    assert rows[1]["growth"] == dict.fromkeys(scale.COSTS, 4.0)
    assert rows[1]["num_items"] == 4_000
    svg, png = scale.draw(rows, tmp_path / "plot")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert all(f"<!-- {name} -->" in svg.read_text() for name in scale.COSTS)


def test_what_a_program_held_is_written_down_by_the_program_itself(tmp_path):
    told = scale._child(tmp_path, "launch.train", "--config=quickstart", "--print_config")
    assert told["gigabytes"] > 0.01
