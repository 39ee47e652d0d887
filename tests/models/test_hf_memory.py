"""A checkpoint loads and saves in little more memory than its parameters, on one device and more.

Each measurement runs in processes of its own, tests/models/hf_memory.py.
"""

import hashlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from minirec.files import read_json, write_json
from minirec.models import SidDecoderConfig, TrunkConfig
from minirec.models.hf.config_json import config_json
from minirec.models.hf.folder import TensorFolder
from minirec.models.hf.layout import abstract_decoder, layouts
from minirec.models.hf.safetensors_file import write_safetensors
from tests.ports import free_port

# A third of it are projections of one kind, stacked over the layers; a ninth is the embedding.
CONFIG = SidDecoderConfig(
    TrunkConfig(
        num_layers=8,
        width=512,
        num_heads=8,
        num_kv_heads=4,
        head_dim=64,
        mlp_width=2560,
        qk_norm=True,
    ),
    vocab_size=9_000,
)

pytestmark = pytest.mark.skipif(
    not pathlib.Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc to see peaks"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Random bits that are neither NaN nor infinite, in the order in which we write."""
    folder = tmp_path_factory.mktemp("checkpoint")
    found = layouts(abstract_decoder(CONFIG)).values()
    float32 = np.dtype(np.float32)
    tensors = {
        name: (float32, layout.stored_shape)
        for layout in sorted(found, key=lambda layout: layout.template)
        for name in layout.names
    }
    random = np.random.default_rng(0)
    blocks = (random.random(shape, np.float32) for _, shape in tensors.values())
    write_safetensors(folder / "model.safetensors", tensors, blocks)
    write_json(folder / "config.json", config_json(CONFIG))
    return folder


def measure(checkpoint, folder, devices, processes=1):
    """The result of each process that loads and saves with so many devices of its own."""
    program = pathlib.Path(__file__).with_name("hf_memory.py")
    environment = {
        **os.environ,
        "PYTHONPATH": str(program.parents[2]),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, str(program), str(checkpoint), str(folder / "copy")]
    address = f"localhost:{free_port()}"
    together = [
        [address, str(processes), str(i)] if processes > 1 else [] for i in range(processes)
    ]
    started = [
        subprocess.Popen(
            command + arguments,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for arguments in together
    ]
    try:
        done = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (out, err) in zip(started, done, strict=True):
        assert process.returncode == 0, out + err
    return [read_json(folder / f"copy.{process}.json") for process in range(processes)]


def digests(folder):
    with TensorFolder(folder) as tensors:
        return {
            name: hashlib.sha256(tensors.read(name, slice(None))).hexdigest()
            for name in tensors.names()
        }


@pytest.mark.parametrize("devices", [1, 8])
def test_a_checkpoint_loads_in_little_more_memory_than_its_parameters(
    checkpoint, tmp_path, devices
):
    size = (checkpoint / "model.safetensors").stat().st_size
    (found,) = measure(checkpoint, tmp_path, devices)
    assert found["devices"] == devices
    assert 150e6 < found["parameters"] < size
    assert found["load_peak"] <= 1.2 * found["parameters"]
    # The peak was seen at all: the parameters are part of it.
    assert found["load_peak"] >= 0.98 * found["parameters"]
    assert found["save_peak"] <= 0.5 * found["parameters"]
    # Devices that share a file read it once together.
    assert found["read"] <= 1.01 * size
    assert found["shares"] == {"matrices": 1 / devices, "vectors": 1.0}
    assert digests(tmp_path / "copy") == digests(checkpoint)


def test_each_of_two_processes_reads_and_holds_its_half(checkpoint, tmp_path):
    size = (checkpoint / "model.safetensors").stat().st_size
    for found in measure(checkpoint, tmp_path, devices=2, processes=2):
        assert found["devices"] == 4
        assert found["shares"] == {"matrices": 1 / 4, "vectors": 1.0}
        assert found["parameters"] <= 0.51 * size
        assert found["load_peak"] <= 1.2 * found["parameters"]
        assert found["read"] <= 0.51 * size
    assert digests(tmp_path / "copy") == digests(checkpoint)
