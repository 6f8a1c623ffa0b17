"""The architecture, held: imports run one way, files and functions stay small, and what is public is documented."""

import ast
import functools
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import diffax

PACKAGE = Path(diffax.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# DESIGN's order: a layer imports only itself and layers above it in this list.
LAYERS = [
    "batch",
    "known",
    "conditions",
    "process",
    "chain",
    "prediction",
    "losses",
    "samplers",
    "guidance",
    "inverse",
    "likelihood",
    "conformance",
    "models",
    "averages",
    "optimizers",
    "train",
    "compile",
    "parallel",
    "data",
    "manifest",
    "checkpoint",
    "metrics",
    "report",
    "build",
    "config",
    "loop",
    "main",
    "demo",
]
MATHS = {"process", "chain", "prediction", "losses", "samplers", "guidance", "inverse", "likelihood"}
# What a layer must not know although the order would allow it.
APART = {
    "samplers": {"process", "losses"},
    "guidance": {"process", "losses"},
    "inverse": {"process", "losses"},
    "likelihood": {"process", "losses"},
    "models": MATHS,
    "train": {"samplers", "guidance", "inverse", "likelihood", "models"},
    "compile": MATHS | {"models", "train"},
    "parallel": MATHS | {"models"},
    "data": MATHS | {"models", "train"},
    "manifest": MATHS | {"models", "train"},
    "checkpoint": MATHS | {"models", "train"},
    "metrics": MATHS | {"models", "train"},
    "report": MATHS | {"models", "train"},
}
# The packages that may be imported when a layer is; all others only inside the function that needs them.
ARRAYS = {"jax", "numpy"}
AT_IMPORT = {
    "batch": {"jax"},
    "known": {"jax"},
    "conditions": {"jax"},
    "chain": {"jax"},
    "prediction": {"jax"},
    "losses": {"jax"},
    "samplers": {"jax"},
    "guidance": {"jax"},
    "inverse": ARRAYS,  # the static schedule of repaint
    "process": ARRAYS,  # the float64 tables
    "likelihood": {"jax"},
    "conformance": ARRAYS,  # not imported by `import diffax`
    "models": ARRAYS | {"flax"},
    "averages": ARRAYS,
    "optimizers": {"jax", "optax"},
    "train": ARRAYS | {"optax"},
    "parallel": ARRAYS | {"optax"},
    "main": {"absl"},
    "demo": {"absl"},
}


def layer_of(path):
    """The first name below the package: `process` for both diffax/process.py and diffax/process/discrete.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports_of(tree, package):
    """(module, node) of every import in a tree; `from diffax import samplers` names diffax.samplers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            names = [alias.name for alias in node.names] if module == "diffax" else [""]
            yield from ((f"{module}.{name}".rstrip("."), node) for name in names)


def at_import(tree):
    """The nodes that run when the module is imported: all but the bodies of functions and of `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from at_import(node)


@functools.cache
def read(path):
    package = ".".join(["diffax", *path.relative_to(PACKAGE).parent.parts])
    tree = ast.parse(path.read_text())
    return tree, list(imports_of(tree, package))


INNER = [path for path in FILES if path.parent != PACKAGE or path.name != "__init__.py"]


def name_of(path):
    return str(path.relative_to(PACKAGE))


def of_each(paths):
    """Makes the check of one file a test of all, which says all that is wrong: hundreds of tests took seconds."""

    def test_of(check):
        def test():
            wrong = []
            for path in paths:
                try:
                    check(path)
                except Exception as error:
                    wrong.append(f"{name_of(path)}: {error}")
            assert not wrong, "\n".join(wrong)

        return test

    return test_of


def test_every_file_has_its_layer():
    assert {layer_of(path) for path in INNER} <= set(LAYERS)
    assert FILES


@of_each(INNER)
def test_imports_run_one_way(path):
    layer = layer_of(path)
    allowed = set(LAYERS[: LAYERS.index(layer) + 1]) - APART.get(layer, set()) | {"__version__"}
    for module, node in read(path)[1]:
        if module.startswith("diffax."):
            assert module.split(".")[1] in allowed, f"line {node.lineno}: {layer} imports {module}"


@of_each(INNER)
def test_packages_are_imported_where_they_are_used(path):
    tree, imports = read(path)
    now = {id(node) for node in at_import(tree)}
    allowed = AT_IMPORT.get(layer_of(path), ARRAYS) | set(sys.stdlib_module_names) | {"diffax"}
    for module, node in imports:
        package = module.split(".")[0]
        assert id(node) not in now or package in allowed, f"line {node.lineno}: {module} when the file is imported"
        assert package not in {"tensorflow", "torch", "keras"}
        assert package not in {"flax", "haiku", "equinox"} or layer_of(path) == "models"
        assert not module.startswith("jax._src"), "public names only"


@of_each(INNER)
def test_only_commands_read_flags(path):
    if name_of(path) not in {"main.py", "demo/__main__.py"}:
        tree, imports = read(path)
        assert not any(module.startswith("argparse") for module, _ in imports)
        text = ast.unparse(tree).replace("flags.FLAGS.mark_as_parsed()", "")  # reads none: grain's own flag needs it
        assert "FLAGS" not in text
        assert "flags.DEFINE" not in text


@of_each(INNER)
def test_only_build_turns_strings_into_functions(path):
    tree, _ = read(path)
    if layer_of(path) not in {"build", "config"}:
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not called & {"eval", "exec", "__import__", "importlib.import_module", "import_module", "globals"}


@of_each(FILES)
def test_files_and_functions_fit(path):
    assert len(path.read_text().splitlines()) <= 350
    assert path.stem not in {"utils", "util", "common", "base", "types", "helpers", "misc"}
    for node in ast.walk(read(path)[0]):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 70, f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
            assert not node.name.startswith("get_")
        if isinstance(node, ast.ClassDef):
            assert not node.name.startswith("Base")
            assert not node.name.endswith("Manager")


@of_each(FILES)
def test_what_is_public_is_documented(path):
    tree, _ = read(path)
    assert ast.get_docstring(tree), "the file itself"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


def test_every_public_name_has_a_docstring():
    assert sorted(set(diffax.__all__)) == sorted(diffax.__all__)
    for name in diffax.__all__:
        value = getattr(diffax, name)
        if inspect.isfunction(value) or inspect.isclass(value) or inspect.ismodule(value):
            assert inspect.getdoc(value), name
            methods = inspect.getmembers(value, inspect.isfunction) if inspect.isclass(value) else []
            for method, function in methods:
                if not method.startswith("_") and function.__module__.startswith("diffax"):
                    assert inspect.getdoc(function), f"{name}.{method}"


def test_what_texts_name_is_there():
    """A name such as `diffax.data.batches`, as a reader who imports it finds it: a function may hide its module."""
    texts = [*FILES, *(PACKAGE.parent / name for name in ("README.md", "CHANGELOG.md"))]
    names = {name for path in texts for name in re.findall(r"`(diffax(?:\.\w+)+)", path.read_text())}
    assert "diffax.data.scenes.check" in names
    for name in sorted(names):
        found = diffax
        for part in name.split(".")[1:]:
            if inspect.ismodule(found) and not hasattr(found, part):
                importlib.import_module(f"{found.__name__}.{part}")
            assert hasattr(found, part), name
            found = getattr(found, part)


def test_import_needs_jax_alone():
    heavy = ["absl", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "tensorflow", "torch", "sklearn", "PIL"]
    heavy += ["diffrax", "equinox"]
    code = f"import sys, diffax; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert run.stdout.strip() == "[]"
