"""The shape of the code base: imports run one way, dependencies stay where they belong, files stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import diffax

PACKAGE = Path(diffax.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# what a unit may import of the package; a unit is a top-level module or folder
LAYERS = [
    ("process",),
    ("prediction",),
    ("losses",),
    ("samplers", "guidance"),
    ("models",),
    ("train",),
    ("parallel", "compile"),
    ("data", "manifest", "checkpoint", "metrics", "report"),
    ("build",),
    ("config",),
    ("loop",),
    ("main",),
]
RANK = {unit: rank for rank, units in enumerate(LAYERS) for unit in units}


def unit_of(file):
    relative = file.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports(file):
    """All modules that a file imports, anywhere in it, as dotted names."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module
            if node.module == "diffax":
                yield from (f"diffax.{alias.name}" for alias in node.names)


def units_imported(file):
    names = {name.split(".")[1] for name in imports(file) if name.startswith("diffax.")}
    return {name for name in names if name in RANK}


def test_every_file_has_a_layer():
    assert {unit_of(file) for file in FILES} - {"__init__"} == set(RANK)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_run_one_way(file):
    unit = unit_of(file)
    if unit == "__init__":
        return
    for other in units_imported(file) - {unit}:
        same = RANK[other] == RANK[unit] and (unit, other) != ("samplers", "guidance")
        assert RANK[other] < RANK[unit] or same, f"{unit} imports {other}, which comes after it"


def test_samplers_and_guidance_never_see_a_process():
    for name in ("samplers", "guidance"):
        assert "process" not in units_imported(PACKAGE / f"{name}.py")


def third_party(file):
    return {name.split(".")[0] for name in imports(file)} - set(sys.stdlib_module_names) - {"diffax"}


def test_the_mathematics_imports_jax_alone():
    for file in FILES:
        if unit_of(file) in ("process", "prediction", "losses", "samplers", "guidance"):
            assert third_party(file) <= {"jax", "numpy"}, file


def test_flax_stays_in_models():
    for file in FILES:
        if unit_of(file) != "models":
            assert "flax" not in third_party(file), file


def test_only_main_defines_and_reads_flags():
    for file in FILES:
        names = {node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)}
        defined = {name for name in names if name.startswith("DEFINE_")}
        assert not defined or unit_of(file) == "main", file
        if unit_of(file) != "main":
            assert "sys.argv" not in file.read_text() or file.name == "pictures.py", file  # the report's command line


def test_no_framework_but_jax():
    for file in FILES:
        assert not third_party(file) & {"tensorflow", "torch", "diffusers", "clu", "matplotlib"}, file


def test_files_are_short_and_named_for_nouns():
    for file in FILES:
        lines = file.read_text().count("\n")
        assert lines <= 350, f"{file}: {lines} lines"
        assert file.stem not in {"utils", "util", "common", "base", "types", "helpers", "misc"}, file


def test_public_names_are_documented():
    for name in diffax.__all__:
        value = getattr(diffax, name)
        if callable(value) and hasattr(value, "__module__") and value.__module__.startswith("diffax"):
            assert value.__doc__, name
    for file in FILES:
        tree = ast.parse(file.read_text())
        assert ast.get_docstring(tree), f"{file}: no docstring"
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{file}:{node.lineno} {node.name}"


def test_import_is_light():
    code = "import sys, diffax; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"flax", "optax", "orbax", "grain", "tensorflow_datasets", "sklearn", "scipy.stats", "PIL", "absl", "tqdm"}
    assert not heavy & set(loaded)
