"""Hugging Face folders: the round trip, what is copied along, and parts of tensors."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minirec.files import read_json, write_json
from minirec.models import SidDecoderConfig
from minirec.models.hf import load_checkpoint, read_config, save_checkpoint
from minirec.models.hf.safetensors_file import SafetensorsReader
from tests.models.hf_small import (
    INDEX,
    QWEN2,
    QWEN3,
    WEIGHTS,
    arrays_of,
    bits,
    contents,
    make,
    rewrite,
)

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures" / "hf"


@pytest.mark.parametrize("trunk", [QWEN2, QWEN3], ids=["qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "several files"])
def test_the_round_trip_is_bit_exact(trunk, dtype, tied, sharded, tmp_path):
    trunk = dataclasses.replace(trunk, param_dtype=dtype)
    model = make(trunk, tied)
    limit = 1000 if sharded else 10**9
    save_checkpoint(model, tmp_path / "saved", max_file_bytes=limit)
    files = sorted((tmp_path / "saved").glob("*.safetensors"))
    assert (len(files) > 3) == sharded == (tmp_path / "saved" / INDEX).exists()
    assert read_config(tmp_path / "saved") == model.config
    loaded = load_checkpoint(tmp_path / "saved")
    assert loaded.config == model.config
    assert bits(loaded) == bits(model)
    save_checkpoint(loaded, tmp_path / "again", max_file_bytes=limit)
    for file in sorted((tmp_path / "saved").iterdir()):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


@pytest.mark.parametrize("name", ["qwen2_tied", "qwen2_untied", "qwen3_tied", "qwen3_untied"])
def test_what_transformers_wrote_is_written_back_as_it_was(name, tmp_path):
    folder = FIXTURES / name
    save_checkpoint(load_checkpoint(folder), tmp_path / "saved", like=folder)
    assert contents(tmp_path / "saved") == contents(folder)
    assert read_json(tmp_path / "saved" / "config.json") == read_json(folder / "config.json")
    for file in ("generation_config.json",):
        assert (tmp_path / "saved" / file).read_bytes() == (folder / file).read_bytes()


def test_files_of_a_sharded_checkpoint_hold_no_more_than_asked_or_one_tensor(tmp_path):
    model = make(QWEN2)
    save_checkpoint(model, tmp_path / "saved", max_file_bytes=2000)
    index = read_json(tmp_path / "saved" / INDEX)
    sizes = []
    for file in sorted((tmp_path / "saved").glob("*.safetensors")):
        with SafetensorsReader(file) as reader:
            inside = [tensor.stop - tensor.start for tensor in reader.tensors.values()]
            assert all(index["weight_map"][name] == file.name for name in reader.tensors)
        assert sum(inside) <= 2000 or len(inside) == 1
        sizes += inside
    parameters = sum(array.nbytes for array in jax.tree.leaves(nnx.state(model)))
    assert sum(sizes) == parameters == index["metadata"]["total_size"]


def test_the_library_safetensors_reads_what_is_written(tmp_path):
    library = pytest.importorskip("safetensors.numpy", reason="needs the extra `lm`")
    model = make(QWEN3, tied=False)
    save_checkpoint(model, tmp_path / "saved")
    found = library.load_file(tmp_path / "saved" / WEIGHTS)
    np.testing.assert_array_equal(found["lm_head.weight"], model.head[...])
    query = np.asarray(model.trunk.blocks.attention.query[...])[1]
    np.testing.assert_array_equal(
        found["model.layers.1.self_attn.q_proj.weight"], query.reshape(16, 24).T
    )


def test_options_of_the_trunk_and_dtypes_are_the_callers(tmp_path):
    model = make(QWEN3)
    save_checkpoint(model, tmp_path / "saved")
    loaded = load_checkpoint(
        tmp_path / "saved",
        dtype="bfloat16",
        param_dtype="bfloat16",
        remat=True,
        scan_unroll=2,
        dropout=0.1,
    )
    trunk = dataclasses.replace(
        QWEN3, dtype="bfloat16", param_dtype="bfloat16", remat=True, scan_unroll=2, dropout=0.1
    )
    assert loaded.config.trunk == trunk
    for (path, ours), (_, theirs) in zip(
        nnx.to_flat_state(nnx.state(loaded)), nnx.to_flat_state(nnx.state(model)), strict=True
    ):
        rounded = np.asarray(theirs[...].astype(jnp.bfloat16))
        np.testing.assert_array_equal(np.asarray(ours[...]), rounded, err_msg=str(path))


def test_a_tied_head_that_stands_in_the_file_as_well_is_read_once(tmp_path):
    save_checkpoint(make(QWEN2), tmp_path / "saved")
    file = tmp_path / "saved" / WEIGHTS
    tensors = arrays_of(file)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    rewrite(file, tensors)
    assert load_checkpoint(tmp_path / "saved").head is None
    tensors["lm_head.weight"] = tensors["lm_head.weight"].copy()
    tensors["lm_head.weight"][3, 5] += 1
    rewrite(file, tensors)
    with pytest.raises(ValueError, match=r"model.safetensors: tensor 'lm_head.weight' differs"):
        load_checkpoint(tmp_path / "saved")


# Saving.


def test_another_folder_gives_the_tokenizer_and_the_fields_the_decoder_has_none_for(tmp_path):
    source, grown = tmp_path / "source", tmp_path / "grown"
    save_checkpoint(make(QWEN2), source)
    for name in ("tokenizer.json", "merges.txt", "chat_template.jinja", "README.md", "x.bin"):
        (source / name).write_text(f"this is {name}")
    fields = read_json(source / "config.json") | {"eos_token_id": [7, 9], "rope_theta": None}
    fields |= {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}, "dtype": "float32"}
    write_json(source / "config.json", fields)
    trunk = dataclasses.replace(QWEN2, param_dtype="bfloat16")
    save_checkpoint(make(trunk, tied=False, vocab_size=15), grown, like=source)
    names = {path.name for path in grown.iterdir()}
    assert names == {"tokenizer.json", "merges.txt", "chat_template.jinja", "config.json", WEIGHTS}
    assert (grown / "tokenizer.json").read_text() == "this is tokenizer.json"
    changed = {"dtype": "bfloat16", "torch_dtype": "bfloat16", "vocab_size": 15}
    changed |= {"tie_word_embeddings": False}
    assert read_json(grown / "config.json") == fields | changed
    assert load_checkpoint(grown).config == SidDecoderConfig(trunk, 15, tie_embeddings=False)


def test_a_folder_of_another_shape_gives_nothing(tmp_path):
    save_checkpoint(make(QWEN2), tmp_path / "source")
    other = make(dataclasses.replace(QWEN2, mlp_width=32))
    with pytest.raises(ValueError, match=r"config.json: mlp_width=24, but the model has 32"):
        save_checkpoint(other, tmp_path / "saved", like=tmp_path / "source")
    assert not (tmp_path / "saved").exists()


def test_a_folder_that_is_not_empty_is_replaced_only_where_asked(tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    save_checkpoint(make(QWEN2), folder)
    (folder / "old.txt").write_text("old")
    with pytest.raises(ValueError, match=r"saved: is there already; overwrite=True"):
        save_checkpoint(make(QWEN3), folder)
    save_checkpoint(make(QWEN3), folder, overwrite=True)
    assert read_config(folder).trunk == QWEN3
    assert not (folder / "old.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    folder = tmp_path / "saved"
    save_checkpoint(make(QWEN2), folder)
    before = contents(folder)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minirec.models.hf.save.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(make(QWEN2, vocab_size=12), folder, overwrite=True)
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_what_no_checkpoint_of_the_families_can_hold_is_refused(tmp_path):
    neither = make(dataclasses.replace(QWEN2, qkv_bias=False))
    with pytest.raises(ValueError, match="qkv_bias=False, qk_norm=False: Qwen2 has the bias"):
        save_checkpoint(neither, tmp_path / "saved")
    with pytest.raises(
        ValueError, match="model_type='qwen3': the model's config is that of 'qwen2'"
    ):
        save_checkpoint(make(QWEN2), tmp_path / "saved", model_type="qwen3")
    adapted = make(QWEN2)
    adapted.trunk.blocks.mlp.adapter = nnx.Param(jnp.zeros(3))
    with pytest.raises(ValueError, match=r"mlp.adapter: a Hugging Face checkpoint has no tensor"):
        save_checkpoint(adapted, tmp_path / "saved")
    mixed = make(QWEN2)
    mixed.trunk.norm.scale.set_value(mixed.trunk.norm.scale[...].astype(jnp.bfloat16))
    with pytest.raises(ValueError, match=r"trunk.norm.scale: dtype bfloat16, but the embedding"):
        save_checkpoint(mixed, tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_a_part_of_a_matrix_is_read_without_its_neighbours(tmp_path):
    matrix = np.arange(60, dtype=np.float32).reshape(6, 10)
    vector = np.arange(7).astype(jnp.bfloat16)
    rewrite(tmp_path / WEIGHTS, {"vector": vector, "matrix": matrix})
    with SafetensorsReader(tmp_path / WEIGHTS) as reader:
        np.testing.assert_array_equal(
            reader.read("matrix", slice(1, 4), slice(2, 9)), matrix[1:4, 2:9]
        )
        np.testing.assert_array_equal(reader.read("vector", slice(2, 5)), vector[2:5])
        counted = CountingFile(reader._file)
        reader._file = counted
        reader.read("matrix", slice(1, 4), slice(2, 9))
        assert counted.bytes == 3 * 7 * 4


class CountingFile:
    """A file that counts the bytes that are read from it."""

    def __init__(self, file):
        self.file, self.bytes = file, 0
        self.seek, self.close = file.seek, file.close

    def readinto(self, buffer):
        count = self.file.readinto(buffer)
        self.bytes += count
        return count
