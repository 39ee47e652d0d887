"""The house rule of BUILD.md: a file imports from its own floor or from those below."""

import ast
import pathlib
import re
from collections.abc import Container

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


def modules_of(root: pathlib.Path) -> dict[str, str]:
    """Sources by dotted name; a package is known by its own."""
    found = {}
    for floor in FLOORS:
        for file in sorted((root / floor).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = file.read_text(encoding="utf-8")
    return found


def imports_of(source: str, known: Container[str]) -> set[str]:
    """The modules of `known` that a source imports; of `from package import module` the module."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in names if name in known}
            found |= modules if modules == names else modules | {node.module or ""}
    return {name for name in found if name in known}


def circles(sources: dict[str, str]) -> list[list[str]]:
    """Returns the modules that import each other, directly or by others; lists of two or more."""
    imports = {name: imports_of(source, sources) - {name} for name, source in sources.items()}
    reached: dict[str, set[str]] = {}
    for name in imports:
        seen, todo = set(), [name]
        while todo:
            for other in imports[todo.pop()] - seen:
                seen.add(other)
                todo.append(other)
        reached[name] = seen
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in imports
        if name in reached[name]
    }
    return [list(group) for group in sorted(groups)]


def test_no_two_files_import_each_other():
    assert not circles(modules_of(ROOT))


def test_the_rule_of_circles_catches_one():
    two = {"launch.a": "from launch import b", "launch.b": "import launch.a", "launch.c": ""}
    assert circles(two) == [["launch.a", "launch.b"]]
    three = {"launch.a": "import launch.b", "launch.b": "import launch.c"}
    assert circles(three | {"launch.c": "if TYPE_CHECKING:\n    from launch.a import X"})
    assert not circles(three | {"launch.c": ""})


def of_tests(source: str) -> list[str]:
    """Returns the imports of `tests` and the texts that name something in it."""
    if "tests" not in source:
        return []
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node, clean=False) is not None
    }
    found = [name for _, name in imported_modules(source) if name.split(".")[0] == "tests"]
    return found + [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
        and re.match(r"tests(?:[./]|$)", node.value)
    ]


def test_nothing_sees_the_tests():
    found = {name: uses for name, source in modules_of(ROOT).items() if (uses := of_tests(source))}
    assert not found


@pytest.mark.parametrize(
    "source",
    ["from tests.launch import fields", "ROOT / 'tests' / 'x.py'", "run('-m', 'tests.attacks')"],
)
def test_the_rule_of_tests_catches_a_use(source):
    assert of_tests(source)


def test_tests_have_no_packages():
    assert not list((ROOT / "tests").rglob("__init__.py"))
