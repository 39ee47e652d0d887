"""Hugging Face folders: the round trip, what is copied along, and what each mistake is told."""

import dataclasses
import json
import pathlib
import shutil
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minirec.files import read_json, write_json
from minirec.models import SidDecoder, SidDecoderConfig, TrunkConfig
from minirec.models.hf import load_checkpoint, read_config, save_checkpoint
from minirec.models.hf.folder import TensorFolder
from minirec.models.hf.safetensors_file import SafetensorsReader, write_safetensors

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures" / "hf"
QWEN2 = TrunkConfig(
    num_layers=2,
    width=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    mlp_width=24,
    qkv_bias=True,
    rope_theta=1e6,
)
QWEN3 = dataclasses.replace(QWEN2, qkv_bias=False, qk_norm=True, head_dim=6, norm_eps=1e-5)
INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"


def make(trunk, tied=True, vocab_size=11):
    model = SidDecoder(SidDecoderConfig(trunk, vocab_size, tied), rngs=nnx.Rngs(0))
    for path, variable in nnx.to_flat_state(nnx.state(model)):  # No two parameters are alike.
        random = np.random.default_rng(zlib.crc32(str(path).encode()))
        values = random.standard_normal(variable.shape)
        variable[...] = jnp.asarray(values, variable.dtype)
    return model


def bits(model):
    """Every parameter's bytes, type, shape and axis names, by path."""
    return {
        path: (
            np.asarray(variable.get_value()).tobytes(),
            variable.dtype,
            variable.shape,
            variable.get_metadata()["out_sharding"],
        )
        for path, variable in nnx.to_flat_state(nnx.state(model))
    }


def contents(folder):
    """Every tensor's bytes, type and shape, by name."""
    with TensorFolder(folder) as tensors:
        return {
            name: (
                tensors.read(name, slice(None)).tobytes(),
                tensors.info(name).dtype,
                tensors.info(name).shape,
            )
            for name in tensors.names()
        }


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


# Mistakes in config.json.


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """One folder of each family."""
    root = tmp_path_factory.mktemp("saved")
    for name, trunk in (("qwen2", QWEN2), ("qwen3", QWEN3)):
        save_checkpoint(make(trunk), root / name)
    return root


def config_with(saved, tmp_path, family, change):
    folder = tmp_path / "changed"
    shutil.copytree(saved / family, folder)
    fields = read_json(folder / "config.json")
    for name, value in change.items():
        if value is KeyError:
            del fields[name]
        else:
            fields[name] = value
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("qwen2", {"model_type": "llama"}, "model_type='llama': must be one of qwen2, qwen3"),
        ("qwen2", {"model_type": KeyError}, "model_type is missing: must be one of"),
        (
            "qwen2",
            {"architectures": ["Qwen2ForSequenceClassification"]},
            r"architectures=\['Qwen2ForSequenceClassification'\]: must be \['Qwen2ForCausalLM'\]",
        ),
        ("qwen3", {"model_type": "qwen2"}, r"architectures=\['Qwen3ForCausalLM'\]: must be"),
        ("qwen2", {"hidden_size": KeyError}, "hidden_size is missing: must be a positive integer"),
        ("qwen2", {"vocab_size": 11.0}, "vocab_size=11.0: must be a positive integer"),
        ("qwen2", {"num_hidden_layers": 0}, "num_hidden_layers=0: must be a positive integer"),
        ("qwen2", {"num_attention_heads": 3}, "num_attention_heads=3: must divide hidden_size=16"),
        ("qwen3", {"num_key_value_heads": 3}, "num_kv_heads=3 must divide num_heads=4"),
        ("qwen3", {"num_key_value_heads": KeyError}, "num_key_value_heads is missing"),
        ("qwen3", {"head_dim": 5}, "head_dim=5 must be even"),
        ("qwen2", {"hidden_act": "gelu"}, "hidden_act='gelu': must be 'silu'"),
        ("qwen2", {"rms_norm_eps": 0}, "rms_norm_eps=0: must be a positive number"),
        ("qwen2", {"rope_theta": -1.0}, "rope_theta=-1.0: must be a positive number"),
        (
            "qwen2",
            {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            r"rope_scaling=\{'type': 'yarn', 'factor': 4.0\}: rotary scaling 'yarn' is not",
        ),
        (
            "qwen3",
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e6}},
            "rotary scaling 'linear' is not supported",
        ),
        (
            "qwen3",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
            "'rope_theta': 1000000.0, 'rope_parameters.rope_theta': 500000.0.*same number",
        ),
        (
            "qwen3",
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
            "rope_parameters=.*: must be one object, the same for every layer",
        ),
        ("qwen3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5: must be 1"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
            "use_sliding_window=True: a sliding window is in use from layer max_window_layers=1",
        ),
        (
            "qwen2",
            {"layer_types": ["full_attention", "sliding_attention"]},
            "layer_types=.*: must be 'full_attention' for all 2 layers",
        ),
        ("qwen3", {"attention_bias": True}, "attention_bias=True: must be false"),
        ("qwen3", {"quantization_config": {"bits": 4}}, "quantization_config=.*: quantised"),
        ("qwen3", {"tie_word_embeddings": "yes"}, "tie_word_embeddings='yes': must be true or"),
    ],
)
def test_another_computation_is_an_error_that_names_file_field_and_value(
    saved, tmp_path, family, change, message
):
    folder = config_with(saved, tmp_path, family, change)
    with pytest.raises(ValueError, match=rf"changed/config.json: .*{message}"):
        read_config(folder)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("family", "change", "expected"),
    [
        # transformers 5 keeps the rotary base here, earlier ones beside the other fields.
        (
            "qwen3",
            {"rope_theta": KeyError, "rope_parameters": {"rope_theta": 5e5}},
            {"rope_theta": 5e5},
        ),
        ("qwen2", {"rope_theta": KeyError}, {"rope_theta": 1e4}),
        ("qwen2", {"rope_scaling": None, "rope_theta": 5e5}, {"rope_theta": 5e5}),
        ("qwen2", {"rms_norm_eps": KeyError}, {"norm_eps": 1e-6}),
        ("qwen3", {"head_dim": KeyError}, {"head_dim": 128}),
        ("qwen2", {"num_key_value_heads": None}, {"num_kv_heads": 4}),
        # A window that no layer uses.
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}, {}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": None}, {}),
        ("qwen3", {"layer_types": ["full_attention"] * 2, "use_sliding_window": True}, {}),
        ("qwen3", {"torch_dtype": KeyError, "dtype": "bfloat16"}, {"param_dtype": "bfloat16"}),
    ],
)
def test_fields_mean_what_transformers_takes_them_for(saved, tmp_path, family, change, expected):
    folder = config_with(saved, tmp_path, family, change)
    trunk = QWEN2 if family == "qwen2" else QWEN3
    assert read_config(folder).trunk == dataclasses.replace(trunk, **expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no such file"), ("[1]", "holds list, not an object"), ("{", "not a JSON file")],
)
def test_a_config_that_is_none_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"config.json: {message}"):
        load_checkpoint(tmp_path)


# Mistakes in the tensors.


def arrays_of(file):
    with SafetensorsReader(file) as reader:
        return {name: reader.read(name, slice(None)) for name in reader.tensors}


def rewrite(file, tensors):
    header = {name: (array.dtype, array.shape) for name, array in tensors.items()}
    write_safetensors(file, header, tensors.values())


QUERY = "model.layers.1.self_attn.q_proj.weight"


def without(tensors):
    del tensors[QUERY]


def with_another(tensors):
    tensors["model.layers.2.mlp.up_proj.weight"] = np.zeros((2, 2), np.float32)


def turned(tensors):
    tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"].T


def halved(tensors):
    tensors[QUERY] = tensors[QUERY].astype(jnp.bfloat16)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without, rf"tensors are missing: {QUERY}; config.json asks for 26 tensors"),
        (
            with_another,
            r"model.safetensors: tensors have no place in the model: model.layers.2.mlp.up_proj",
        ),
        (
            turned,
            r"model.safetensors: tensor 'model.layers.0.mlp.up_proj.weight': shape \[16, 24\]; "
            r"config.json asks for \[24, 16\]",
        ),
        (
            halved,
            rf"model.safetensors: tensor '{QUERY}': dtype BF16, but 'model.embed_tokens.weight' "
            "has F32; param_dtype says",
        ),
    ],
)
def test_tensors_that_are_not_the_configs_are_named(saved, tmp_path, damage, message):
    folder = config_with(saved, tmp_path, "qwen2", {})
    tensors = arrays_of(folder / WEIGHTS)
    damage(tensors)
    rewrite(folder / WEIGHTS, tensors)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(folder)


def test_mixed_types_load_where_one_is_asked_for(saved, tmp_path):
    folder = config_with(saved, tmp_path, "qwen2", {})
    tensors = arrays_of(folder / WEIGHTS)
    halved(tensors)
    rewrite(folder / WEIGHTS, tensors)
    model = load_checkpoint(folder, param_dtype="float32")
    query = np.asarray(model.trunk.blocks.attention.query[...])[1]
    np.testing.assert_array_equal(query.reshape(16, 16).T, tensors[QUERY].astype(np.float32))


def header_of(file):
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def with_header(file, header, data):
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize("kept", [0, 5, 100, -1, -1000], ids=lambda kept: f"to {kept}")
def test_a_truncated_file_is_named(saved, tmp_path, kept):
    folder = config_with(saved, tmp_path, "qwen3", {})
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model.safetensors: .*truncated"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"dtype": "F16", "shape": [32, 16]},
            f"tensor '{QUERY}': dtype F16; must be one of F32, BF16",
        ),
        ({"dtype": "F12"}, f"tensor '{QUERY}': dtype 'F12' is unknown"),
        ({"shape": [16, 15]}, rf"tensor '{QUERY}': shape \[16, 15\] of F32 takes 960 bytes"),
        ({"shape": [16, -16]}, f"tensor '{QUERY}': the header says"),
        ({"data_offsets": None}, f"tensor '{QUERY}': the header says"),
        ({"data_offsets": [0, 1024]}, "begins at byte .* tensors must lie end to end"),
    ],
)
def test_a_header_that_contradicts_itself_is_named(saved, tmp_path, change, message):
    folder = config_with(saved, tmp_path, "qwen2", {})
    header, data = header_of(folder / WEIGHTS)
    header[QUERY] |= change
    with_header(folder / WEIGHTS, header, data)
    with pytest.raises(ValueError, match=rf"model.safetensors: .*({message})"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\x05" + bytes(7) + b"[1,2]", "the header is list, not an object"),
        (b"\x04" + bytes(7) + b"{nil", "the header is not JSON"),
        (b"\x11" + bytes(7) + b'{"a":{},"a":null}', "the header is not JSON: a name stands there"),
        (b"\x02" + bytes(7) + b"{}rest", "14 bytes, of which its header explains 10"),
    ],
)
def test_a_file_of_another_format_is_named(saved, tmp_path, raw, message):
    folder = config_with(saved, tmp_path, "qwen2", {})
    (folder / WEIGHTS).write_bytes(raw)
    with pytest.raises(ValueError, match=rf"model.safetensors: {message}"):
        load_checkpoint(folder)


# Mistakes in the index.


def drop_a_file(folder, index):
    (folder / index["weight_map"][QUERY]).unlink()


def leave_a_tensor_out(folder, index):
    del index["weight_map"][QUERY]


def point_elsewhere(folder, index):
    index["weight_map"][QUERY] = index["weight_map"]["model.embed_tokens.weight"]


def point_outside(folder, index):
    index["weight_map"][QUERY] = "../model.safetensors"


def empty(folder, index):
    index["weight_map"] = {}


def both(folder, index):
    (folder / WEIGHTS).write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_a_file, rf"{INDEX}: tensor 'model.layers.*': its file 'model-.*' is missing"),
        (leave_a_tensor_out, rf"tensor '{QUERY}': {INDEX} gives it the file None"),
        (point_elsewhere, rf"{INDEX}: tensor '{QUERY}' is not in 'model-00001-of-.*', where it"),
        (point_outside, rf"{INDEX}: tensor '{QUERY}': '../model.safetensors' must be the name"),
        (empty, rf"{INDEX}: weight_map=\{{\}}: must give each tensor's file"),
        (both, r"holds both model.safetensors and model.safetensors.index.json; one must go"),
    ],
)
def test_an_index_that_does_not_fit_the_files_is_named(tmp_path, damage, message):
    folder = tmp_path / "saved"
    save_checkpoint(make(QWEN2), folder, max_file_bytes=3000)
    index = read_json(folder / INDEX)
    damage(folder, index)
    write_json(folder / INDEX, index)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(folder)


def test_a_folder_without_tensors_says_what_it_has(saved, tmp_path):
    folder = config_with(saved, tmp_path, "qwen2", {})
    (folder / WEIGHTS).rename(folder / "part-1.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"neither .*; part-1.safetensors need an index; pytorch_model.bin are not"
    ):
        load_checkpoint(folder)


# Parts of tensors.


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
