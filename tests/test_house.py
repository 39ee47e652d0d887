"""The house rule of BUILD.md: a file imports from its own floor or from those below."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FLOORS = ("kernels", "minirec", "pipelines", "configs", "launch")
# What a floor may import of the project besides itself.
ALLOWED = {
    "kernels": (),
    "minirec": ("kernels",),
    "pipelines": ("minirec.sids", "minirec.files"),
    "configs": (),
    "launch": FLOORS,
}
# Where a floor is also bound in what it may import from outside.
ALLOWED_OUTSIDE = {
    "kernels": {"jax", "numpy", "jaxtyping", "jax_triton", "triton"},
    "configs": {"ml_collections"},
}
FORBIDDEN_OUTSIDE = {"pipelines": {"jax", "flax", "optax", "orbax"}}
FORBIDDEN_EVERYWHERE = {"torch", "transformers", "tensorflow", "pickle"}


def imported_modules(source: str) -> list[tuple[int, str]]:
    modules = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide the floor"
            module = node.module or ""
            modules.append((node.lineno, module))
            modules += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return modules


def breaches(floor: str, source: str) -> list[str]:
    found = []
    for line, module in imported_modules(source):
        top = module.split(".")[0]
        if top in FLOORS:
            allowed = top == floor or any(
                module == name or module.startswith(f"{name}.") or name.startswith(f"{module}.")
                for name in ALLOWED[floor]
            )
            # `from minirec import x` is listed twice: the bare package says nothing by itself.
            if module in FLOORS and any(name.startswith(f"{module}.") for name in ALLOWED[floor]):
                allowed = True
        else:
            stdlib = top in __import__("sys").stdlib_module_names
            outside = ALLOWED_OUTSIDE.get(floor)
            allowed = stdlib or outside is None or top in outside
            allowed = allowed and top not in FORBIDDEN_OUTSIDE.get(floor, ())
            allowed = allowed and top not in FORBIDDEN_EVERYWHERE
        if not allowed:
            found.append(f"line {line} imports {module}")
    return found


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_point_down_the_house(floor):
    files = sorted((ROOT / floor).rglob("*.py"))
    assert files, f"no files on floor {floor}"
    found = {
        str(file.relative_to(ROOT)): lines
        for file in files
        if (lines := breaches(floor, file.read_text(encoding="utf-8")))
    }
    assert not found


@pytest.mark.parametrize(
    ("floor", "source"),
    [
        ("kernels", "from minirec.sids import SidTable"),
        ("kernels", "import flax"),
        ("minirec", "import pipelines.batches.train_batches"),
        ("pipelines", "import jax.numpy as jnp"),
        ("pipelines", "from minirec.models import Trunk"),
        ("pipelines", "from minirec import models"),
        ("configs", "import numpy"),
        ("launch", "import torch"),
    ],
)
def test_the_rule_catches_a_breach(floor, source):
    assert breaches(floor, source)


def test_tests_have_no_packages():
    assert not list((ROOT / "tests").rglob("__init__.py"))
