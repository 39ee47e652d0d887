"""The Triton kernels lower for CUDA and compile for sm_90, without a GPU.

Both need kernels that were not defined for the interpreter, so a second Python does them once for
all tests; `python -m tests.kernels.test_triton_gpu_compiles` prints what it finds, a line a kernel.
"""

import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import pytest

from tests.once import made_once

ROOT = pathlib.Path(__file__).parents[2]
CAPABILITY = 90

# Of an sm_90: per program, as many as there are at all.
REGISTERS = 65_536
SHARED_BYTES = 227 * 1024

# Of a thread; so few go unnoticed.
SPILLED_BYTES = 16

SHAPES = ["amazon_narrow", "amazon_wide", "youtube_narrow", "youtube_wide", "language_model"]
NAMES = [*SHAPES, "select", "widest"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    for module in ("triton", "jax_triton", "jax_cuda12_plugin"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}, which the test extra installs")
    return made_once(tmp_path_factory, "triton_compiles", lambda folder: _report())[1]


def _report():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_HOME"] = str(ROOT / ".cache" / "triton")  # Where its cache lies.
    run = subprocess.run(
        [sys.executable, "-m", "tests.kernels.test_triton_gpu_compiles"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_a_step_lowers_for_cuda_without_a_gpu(report, name):
    (lowered,) = [line for line in report if line["kind"] == "lowered" and line["name"] == name]
    kernels = [line for line in report if line["kind"] == "compiled" and line["name"] == name]
    assert lowered["calls"] == len(kernels) >= 2


@pytest.mark.parametrize("name", NAMES)
def test_its_kernels_compile_for_sm_90_and_fit(report, name):
    kernels = [line for line in report if line["kind"] == "compiled" and line["name"] == name]
    assert kernels[-1]["kernel"] == "best_beams"
    for kernel in kernels:
        assert kernel["target"] == f"sm_{CAPABILITY}a"
        assert kernel["cubin_bytes"] > 0
        assert kernel["spilled_bytes"] <= SPILLED_BYTES
        assert kernel["registers"] * 32 * kernel["num_warps"] <= REGISTERS
        assert kernel["shared_bytes"] <= SHARED_BYTES


@pytest.mark.parametrize("name", SHAPES[:-1])
def test_short_rows_take_two_kernels_and_no_array_of_the_logits_size(report, name):
    (lowered,) = [line for line in report if line["kind"] == "lowered" and line["name"] == name]
    assert lowered["calls"] == 2
    assert lowered["largest_between"] < lowered["logits"]


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU")
def test_without_a_gpu_or_the_interpreter_it_says_so(report):
    (refused,) = [line for line in report if line["kind"] == "refused"]
    assert refused["error"] == "UnsupportedError"
    assert "TRITON_INTERPRET=1" in refused["message"]


def _steps():
    """Returns the steps by name: a callable, and the arrays or shapes that it is traced with."""
    from kernels.beam_step.shapes import SHAPES as STEP_SHAPES
    from kernels.beam_step.shapes import random_sids
    from kernels.beam_step.triton_gpu import step as triton_gpu
    from kernels.bench import tpu_specs
    from kernels.trie import TrieCapacities, build_trie
    from kernels.trie.layout import MaskCapacities

    def beam_step(logits, beams, trie, live=None, *, shape, normalize="vocab"):
        fixed = {"num_beams": shape.num_beams, "normalize": normalize, "log_normalizer": None}
        return triton_gpu.beam_step(logits, beams, trie, shape.level, live=live, **fixed)

    def beam_select(log_probs, beams, trie, live):
        return triton_gpu.beam_select(log_probs, beams, trie, 1, num_beams=70, live=live)

    def beams_of(batch, num_beams):
        return tpu_specs.Beams(
            node=jax.ShapeDtypeStruct((batch, num_beams), jnp.int32),
            score=jax.ShapeDtypeStruct((batch, num_beams), jnp.float32),
        )

    def live_of(trie):
        allowed = jax.ShapeDtypeStruct(trie.item_leaf.shape, jnp.bool_)
        return jax.eval_shape(lambda trie, allowed: trie.live(allowed), trie, allowed)

    steps = {}
    for name in SHAPES:
        shape = STEP_SHAPES[name]
        logits = jax.ShapeDtypeStruct((shape.batch, shape.beams, shape.vocab), shape.dtype)
        if name == "language_model":
            arguments = (logits, beams_of(shape.batch, shape.beams), build_trie(random_sids(shape)))
        else:
            arguments = tuple(getattr(tpu_specs, name)()[1])
        steps[name] = functools.partial(beam_step, shape=shape), arguments

    logits, beams, trie = steps["youtube_wide"][1]
    steps["select"] = beam_select, (logits, beams, trie, live_of(trie))

    # A shared vocabulary's token trie and as many beams as may be: parts, tiles and merges.
    shape = tpu_specs.BeamStepShape("widest", 1, 512, 512, 152_704, 1, 0, 0, 0, 0)
    table = MaskCapacities(level=0, nodes=512, first_token=0, span=152_704, edges=65_536)
    trie = tpu_specs.abstract_trie(TrieCapacities((table,), items=1, rows=1, items_per_leaf=1))
    logits = jax.ShapeDtypeStruct((1, 512, 152_704), jnp.bfloat16)
    step = functools.partial(beam_step, shape=shape, normalize="children")
    steps["widest"] = step, (logits, beams_of(1, 512), trie, live_of(trie))
    return steps


def _compile(kernel, dtypes, num_warps, constants):
    """Returns what there is to say of a kernel's cubin; `dtypes` holds None for no array."""
    import triton
    from triton.backends.compiler import GPUTarget

    types = {"float32": "*fp32", "bfloat16": "*bf16", "int32": "*i32", "bool": "*i1"}
    arrays = [parameter.name for parameter in kernel.params if not parameter.is_constexpr]
    given = dict(zip(arrays, dtypes, strict=True))
    constants = constants | {name: None for name, dtype in given.items() if dtype is None}
    signature = {
        parameter.name: "constexpr"
        if parameter.name in constants
        else types[str(jnp.dtype(given[parameter.name]))]
        for parameter in kernel.params
    }
    aligned = [["tt.divisibility", 16]]  # As XLA's buffers are, and as jax-triton tells Triton.
    attributes = {
        (index,): aligned for index, name in enumerate(signature) if signature[name][0] == "*"
    }
    binary = triton.compile(
        triton.compiler.ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", CAPABILITY, 32),
        options={"num_warps": num_warps, "enable_fp_fusion": False},
    )
    tools = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        use = subprocess.check_output([tools / "cuobjdump", "-res-usage", file.name], text=True)
    usage = dict(
        word.split(":") for word in use.split() if word.count(":") == 1 and word[-1] != ":"
    )
    (target,) = [line for line in binary.asm["ptx"].splitlines() if line.startswith(".target")]
    return {
        "target": target.split()[1].rstrip(","),
        "registers": int(usage["REG"]),
        "spilled_bytes": int(usage["STACK"]) + int(usage["LOCAL"]),
        "shared_bytes": binary.metadata.shared,
        "cubin_bytes": len(binary.asm["cubin"]),
    }


def main():
    """Prints a JSON line a step lowered, and one a kernel of it compiled."""
    from kernels.beam_step import UnsupportedError
    from kernels.beam_step.triton_gpu import step as triton_gpu
    from kernels.triton_launch import launch

    launches = []

    def recorded(kernel, *arrays, out, grid, num_warps, compute_capability=None, **constants):
        dtypes = [None if array is None else array.dtype for array in (*arrays, *out)]
        launches.append((kernel, dtypes, grid, num_warps, constants, out))
        keywords = {"grid": grid, "num_warps": num_warps, "compute_capability": compute_capability}
        return launch(kernel, *arrays, out=out, **keywords, **constants)

    triton_gpu.launch = recorded
    checks = [
        jax.export.DisabledSafetyCheck.custom_call(name)
        for name in ("triton_kernel_call", "triton_kernel_call_ffi")
    ]
    steps = _steps()
    for name, (step, arguments) in steps.items():
        launches.clear()
        with triton_gpu.compiling_for(CAPABILITY):
            export = jax.export.export(jax.jit(step), platforms=["cuda"], disabled_checks=checks)
            text = export(*arguments).mlir_module()
        between = [shape.size for *_, out in launches[:-1] for shape in out]
        lowered = {
            "kind": "lowered",
            "name": name,
            "calls": text.count("@triton_kernel_call"),
            "logits": arguments[0].size,
            "largest_between": max(between),
        }
        print(json.dumps(lowered), flush=True)
        for kernel, dtypes, grid, num_warps, constants, _ in launches:
            compiled = {
                "kind": "compiled",
                "name": name,
                "kernel": kernel.fn.__name__,
                "programs": grid[0] * grid[1],
                "num_warps": num_warps,
            }
            compiled |= _compile(kernel, dtypes, num_warps, constants)
            print(json.dumps(compiled), flush=True)
    step, arguments = steps["youtube_wide"]
    try:
        # A function of its own: JAX remembers what it has traced.
        jax.eval_shape(lambda *arrays: step(*arrays), *arguments)
    except UnsupportedError as error:
        refused = {"kind": "refused", "error": type(error).__name__, "message": str(error)}
        print(json.dumps(refused))


if __name__ == "__main__":
    main()
