"""Which TPU slice a training step of a large language model fits, compiled ahead of time.

The TPU's compiler runs on any CPU where libtpu is installed; parameters are shapes alone, so that
neither weights nor a chip are needed. The model is the base of `configs/anime.py`.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from minirec.models import SidDecoder, SidDecoderConfig, TrunkConfig
from minirec.models.layers import AddedParam
from minirec.models.lora import LoraConfig, add_adapters
from minirec.models.sharding import AXES, batch_sharding, place
from minirec.models.vocabulary import split_rows
from minirec.training import OptimizerConfig, Stage, TokenTask
from minirec.training.loop import new_optimizer
from minirec.training.optimizer import make_schedule
from minirec.training.step import TrainStep

# The memory of a chip, as Google Cloud's pages on TPU v5p and v6e state it.
_CHIP_BYTES = {"v5p": 95 * 10**9, "v6e": 32 * 2**30, "v5e": 16 * 2**30}


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model, by its shapes.

    Attributes:
        trunk: its fields; dtypes and rematerialisation are this benchmark's.
        old_tokens: tokens of the checkpoint.
        new_tokens: those of the catalogue, behind them.
        logits_at_once: positions whose logits are held at one time.
    """

    trunk: dict[str, Any]
    old_tokens: int
    new_tokens: int
    logits_at_once: int = 512


@dataclasses.dataclass(frozen=True)
class Case:
    """A slice and what it shall train.

    Attributes:
        topology: generation and shape, such as "v6e:4x4".
        trainable: "lora" (a frozen model in bfloat16, adapters and new rows in float32) or "all"
            (all in float32); both compute in bfloat16 and make activations again.
        rows: of a batch, over all chips.
        tokens: of a row.
    """

    topology: str
    trainable: str
    rows: int
    tokens: int


# DeepSeek-R1-Distill-Qwen-14B's config.json (a Qwen2), and eight levels of 2,048 codes with six
# marks.
QWEN_14B = Shape(
    {
        "num_layers": 48,
        "width": 5120,
        "num_heads": 40,
        "num_kv_heads": 8,
        "head_dim": 128,
        "mlp_width": 13824,
        "rope_theta": 1e6,
        "norm_eps": 1e-5,
        "qkv_bias": True,
    },
    old_tokens=151_665,
    new_tokens=16_390,
)
CASES = (
    Case("v5p:2x2x1", "lora", 4, 1024),
    Case("v5p:2x2x1", "lora", 32, 1024),
    Case("v6e:2x2", "lora", 8, 1024),
    Case("v5p:2x2x1", "all", 8, 1024),
    Case("v6e:2x4", "all", 8, 1024),
    Case("v6e:4x4", "all", 16, 1024),
)


def run(shape: Shape = QWEN_14B, cases: Sequence[Case] = CASES) -> Iterator[dict[str, Any]]:
    """Yields a row a case: what a training step takes of each chip, as the compiler reckons it.

    `state_gb` is what the step is given (parameters, moments, batch), `step_gb` what it needs
    beside, `chip_gb` what a chip has. Nothing, and a note on stderr, where libtpu is missing.

    Args:
        shape: the model.
        cases: slices, batches and what is trained.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    for case in cases:
        try:
            devices = topologies.get_topology_desc(case.topology, "tpu").devices
        except RuntimeError as error:
            print(f"slice_memory: left out {case.topology}: {error}", file=sys.stderr)
            continue
        yield {"benchmark": "slice_memory", **_measured(shape, case, devices)}


def _measured(shape: Shape, case: Case, devices: Sequence[Any]) -> dict[str, Any]:
    begin = time.perf_counter()
    mesh = Mesh(np.array(devices).reshape(1, -1), AXES, axis_types=(AxisType.Auto, AxisType.Auto))
    learns = nnx.Param if case.trainable == "all" else AddedParam
    model = nnx.eval_shape(lambda: _model(shape, case.trainable))
    place(model, mesh)
    optimizer = OptimizerConfig(learning_rate=2e-4, warmup_steps=10)
    stage = Stage("sft", lambda: iter(()), 100, optimizer, trainable=learns)
    moments = nnx.eval_shape(lambda model: new_optimizer(model, stage, None), model)
    place(moments, mesh)
    step = TrainStep(
        model,
        moments,
        TokenTask(lambda model: {}, logits_at_once=shape.logits_at_once),
        schedule=make_schedule(optimizer, 100),
        accumulate=1,
        seed=0,
        mesh=mesh,
        trainable=learns,
    )
    size, where = (case.rows, case.tokens), batch_sharding(mesh)
    inputs = {
        name: jax.ShapeDtypeStruct(
            size, jnp.float32 if name == "loss_mask" else jnp.int32, sharding=where
        )
        for name in ("tokens", "targets", "loss_mask", "positions", "segment_ids")
    }
    found = step.lower(step.start(), inputs, 0).compile().memory_analysis()
    assert found is not None  # The TPU's compiler always tells.
    held = found.argument_size_in_bytes
    more = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    chip = _CHIP_BYTES[case.topology.partition(":")[0]]
    return {
        **dataclasses.asdict(case),
        "chips": len(devices),
        "state_gb": _gigabytes(held),
        "step_gb": _gigabytes(more),
        "chip_gb": _gigabytes(chip),
        "fits": held + more <= chip,
        "compile_seconds": round(time.perf_counter() - begin, 1),
    }


def _gigabytes(num_bytes: int) -> float:
    return float(f"{num_bytes / 1e9:.3g}")


def _model(shape: Shape, trainable: str) -> SidDecoder:
    kind = "float32" if trainable == "all" else "bfloat16"
    trunk = TrunkConfig(**shape.trunk, dtype="bfloat16", param_dtype=kind, remat=True)
    vocab = shape.old_tokens + shape.new_tokens
    model = SidDecoder(SidDecoderConfig(trunk, vocab, False), rngs=nnx.Rngs(0))
    if trainable == "lora":
        add_adapters(model, LoraConfig(), seed=0)
        split_rows(model, shape.old_tokens)
    return model
