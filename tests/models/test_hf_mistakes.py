"""Mistakes in a Hugging Face folder: errors that name file, tensor or field, and value."""

import dataclasses
import json
import shutil
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from minirec.files import read_json, write_json
from minirec.models.hf import load_checkpoint, read_config, save_checkpoint
from tests.models.hf_small import INDEX, QWEN2, QWEN3, WEIGHTS, arrays_of, make, rewrite


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
        ("qwen2", {"layer_types": "full"}, "layer_types='full': must be 'full_attention' for all"),
        ("qwen3", {"model_type": ["qwen3"]}, r"model_type=\['qwen3'\]: must be one of"),
        ("qwen3", {"vocab_size": 2**31}, "vocab_size=2147483648: must be a positive integer, at"),
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
    [(None, "no such file"), ("[1]", r"holds \[1\]; expected an object"), ("{", "not a JSON file")],
)
def test_a_config_that_is_none_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"config.json: {message}"):
        load_checkpoint(tmp_path)


# Mistakes in the tensors.


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 10**9}, "config.json: num_hidden_layers=1000000000: there are only"),
        ({"num_hidden_layers": 10**9, "layer_types": ["full_attention"] * 2}, "for all 1000000000"),
        ({"vocab_size": 2**31 - 1}, r"embed_tokens.weight': shape .* asks for \[2147483647, "),
        ({"intermediate_size": 2**31 - 1}, r"shape .* config.json asks for .*2147483647"),
    ],
)
def test_sizes_are_compared_with_the_tensors_before_anything_is_made_of_them(
    saved, tmp_path, change, message
):
    folder = config_with(saved, tmp_path, "qwen2", change)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            load_checkpoint(folder)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


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
        ({"shape": [16, -16]}, rf"header: {QUERY}.shape\[1\] is -16; expected a whole number"),
        ({"shape": [16, 2**70]}, rf"header: {QUERY}.shape\[1\] is 11.*; expected a whole number"),
        ({"shape": 16}, f"header: {QUERY}.shape is 16; expected a list"),
        ({"dtype": ["F32"]}, rf"header: {QUERY}.dtype is \['F32'\]; expected text"),
        ({"data_offsets": None}, f"header: {QUERY}.data_offsets is None; expected a list"),
        ({"data_offsets": [0]}, rf"tensor '{QUERY}': data_offsets \[0\]; expected two numbers"),
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
        (b"\x05" + bytes(7) + b"[1,2]", r"the header: holds \[1, 2\]; expected an object"),
        (b"\x04" + bytes(7) + b"{nil", "the header is not JSON"),
        (
            b"\x11" + bytes(7) + b'{"a":{},"a":null}',
            "the header is not JSON: 'a' stands there twice",
        ),
        (b"\x07" + bytes(7) + b'{"a":1}', "the header: a is 1; expected an object"),
        (
            (100_000).to_bytes(8, "little") + b"[" * 100_000,
            "the header is not JSON: nested deeper than 100 levels",
        ),
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
        (empty, f"{INDEX}: weight_map is empty; it must give each tensor's file"),
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
