"""Files made to fill the memory, or to look like what they are not."""

import gzip
import tracemalloc

import pytest
import zstandard

from pipelines import sources
from pipelines.bad_rows import BadRows
from pipelines.tables import table as sizes
from pipelines.tables.text_file import text_blocks

HEAD = b"user,item,time\n"
MEBIBYTE = 1 << 20


def zst(pieces, window_log=20, level=3):
    parameters = zstandard.ZstdCompressionParameters.from_level(level, window_log=window_log)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return b"".join([*map(stream.compress, pieces), stream.flush()])


def write(folder, name, pieces):
    pieces = list(pieces)
    data = b"".join(pieces)
    if name.endswith(".gz"):
        data = gzip.compress(data, 6, mtime=0)
    (folder / name).write_bytes(zst(pieces) if name.endswith(".zst") else data)
    return folder / name


@pytest.fixture(scope="module")
def zeros():
    """200 MiB in 7 KB."""
    return zst([HEAD, *[bytes(MEBIBYTE)] * 200])


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.csv.zst"])
def test_a_line_is_cut_short_before_it_fills_the_memory(tmp_path, name, zeros):
    if name.endswith(".zst"):
        assert len(zeros) < 10_000
        (tmp_path / name).write_bytes(zeros)
    else:
        write(tmp_path, name, [HEAD, *[bytes(MEBIBYTE)] * 40, b"\n"])
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"{name}, line 2: longer than 16 MiB"):
        list(text_blocks(str(tmp_path / name)))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # What 2 KiB of Zstandard become, twice while it is put together, and a line.
    assert most < 150 * MEBIBYTE


def test_a_line_is_as_long_as_it_is_wherever_pieces_end(tmp_path, monkeypatch):
    monkeypatch.setattr(sizes, "MAX_LINE_BYTES", 50)
    monkeypatch.setattr(sizes, "BLOCK_BYTES", 7)
    lines = [b"x" * length + b"\n" for length in (50, 1, 0, 49, 50)]
    for name in ("a.csv", "a.csv.gz", "a.csv.zst"):
        path = str(write(tmp_path, name, lines))
        assert b"".join(block.data for block in text_blocks(path)) == b"".join(lines)
        path = str(write(tmp_path, name, [*lines, b"x" * 51, b"\n", *lines]))
        with pytest.raises(ValueError, match=rf"{name}, line 6: longer"):
            list(text_blocks(path))


def test_a_window_that_would_fill_the_memory_is_an_error_that_says_so(tmp_path):
    (tmp_path / "log.csv.zst").write_bytes(zst([HEAD] * 50_000, window_log=28))
    with pytest.raises(
        ValueError, match=r"log.csv.zst: .*window of more than 128 MiB; compress it"
    ):
        list(text_blocks(str(tmp_path / "log.csv.zst")))


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        ('"' + "x" * 140_000 + '",b,1', "field_too_long", "a field of more than 131072 characters"),
        ("," * 100_000, "wrong_number_of_fields", "100001 fields instead of 3"),
        ("x" * 140_000 + ",b,1", "id_too_long", "has 140000 characters"),
    ],
)
def test_long_fields_are_bad_rows_however_they_are_written(tmp_path, text, reason, message):
    (tmp_path / "log.csv").write_bytes(HEAD + text.encode() + b"\nann,b,2\n")
    bad_rows = BadRows("skip")
    config = {"name": "csv", "folder": str(tmp_path), "interactions": "log.csv"}
    chunks = [c for part in sources.load(config).parts for c in part.chunks(bad_rows)]
    assert [row for chunk in chunks for row in chunk["user"]] == ["ann"]
    assert message in bad_rows.first[reason]
    assert len(bad_rows.first[reason]) < 400


def test_a_header_of_a_million_columns_is_an_error_and_many_are_not_all_listed(tmp_path):
    config = {"name": "csv", "folder": str(tmp_path), "interactions": "log.csv"}
    (tmp_path / "log.csv").write_bytes(b"," * 1_000_000 + b"\n")
    with pytest.raises(ValueError, match=r"log.csv, line 1: 1000001 columns stand in the header"):
        sources.load(config)
    (tmp_path / "log.csv").write_text(",".join(f"column{at}" for at in range(9000)))
    with pytest.raises(ValueError, match=r"no column 'user'.* and 8960 more; set the") as error:
        sources.load(config)
    assert len(str(error.value)) < 2000
