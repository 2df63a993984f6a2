"""The architecture: who may import whom, and where TensorFlow may not be."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "vmae_jax"
FOUNDATION = {
    "types",
    "scopes",
    "spec",
    "patches",
    "vectors",
    "names",
    "errors",
    "annotations",
    "lookup",
    "plugins",
    "registry",
    "resampling",
    "version",
}
ALLOWED = {  # layer -> what it may import, beside the foundation and itself
    "types": set(),
    "spec": set(),
    "patches": set(),
    "vectors": set(),
    "annotations": set(),
    "errors": set(),
    "lookup": set(),
    "plugins": set(),
    "registry": set(),
    "resampling": set(),
    "version": set(),
    "names": set(),
    "scopes": set(),
    "masking": set(),
    "targets": set(),
    "augment": set(),
    "inputs": {"augment"},
    "models": set(),
    "methods": {"masking", "targets", "augment", "inputs", "models"},
    "train": {"methods", "masking", "targets", "augment", "inputs", "models"},
    "plan": {"train", "methods", "masking", "targets", "augment", "inputs", "models"},
    "bench": {"train", "methods", "masking", "targets", "augment", "inputs", "models", "plan", "data"},
    "data": set(),
    "features": {"data"},
    "io": set(),
    "eval": set(),
    "runtime": set(),
}
TOP = {"cli", "commands", "configs", "weights", "__main__", "__init__"}  # these put the parts together


def modules() -> list[pathlib.Path]:
    return sorted(PACKAGE.rglob("*.py"))


def layer(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_layers(path):
    here = layer(path)
    if here in TOP:
        return
    assert here in ALLOWED, f"{here} is in no layer: add it here and in docs/architecture.md"
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "vmae_jax" and len(parts) > 1:
            assert parts[1] in ALLOWED[here] | FOUNDATION | {here}, f"{path} imports {name}"


@pytest.mark.parametrize(("inner", "below"), [("formats", set()), ("layouts", {"formats"})])
def test_readers_and_layouts_of_weights_need_no_model(inner, below):
    """Only `weights` itself puts models and files together."""
    paths = sorted((PACKAGE / "weights" / inner).glob("*.py"))
    assert len(paths) > 5
    for path in paths:
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "vmae_jax" and parts[1] == "weights":
                assert parts[2] in below | {inner}, f"{path} imports {name}"
            elif parts[0] == "vmae_jax":
                assert parts[1] in FOUNDATION, f"{path} imports {name}"


def test_weights_imports_no_command():
    paths = sorted((PACKAGE / "weights").rglob("*.py"))
    assert paths
    for path in paths:
        names = {name.split(".")[1] for name in imported(path) if name.startswith("vmae_jax.")}
        assert not names & {"commands", "configs", "cli"}, path


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_tensorflow_is_imported_in_data_alone_and_never_at_the_top(path):
    top = {name for node in ast.parse(path.read_text()).body for name in _names(node)}
    assert not {name for name in top if name.split(".")[0].startswith("tensorflow")}
    if layer(path) != "data" and path.name not in ("writers.py", "doctor.py"):
        everywhere = {name for node in ast.walk(ast.parse(path.read_text())) for name in _names(node)}
        assert not {name for name in everywhere if name.split(".")[0].startswith("tensorflow")}


def _names(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    return {node.module or ""} if isinstance(node, ast.ImportFrom) else set()


def test_models_methods_and_step_need_no_tensorflow():
    code = f"""
import sys
import pkgutil, importlib
sys.path.insert(0, {str(PACKAGE.parent)!r})
for package in ("masking", "targets", "augment", "models", "methods", "train", "plan"):
    base = importlib.import_module("vmae_jax." + package)
    for module in pkgutil.walk_packages(base.__path__, "vmae_jax." + package + "."):
        importlib.import_module(module.name)
from vmae_jax.configs import videomae_v2
from vmae_jax.spec import build
build(videomae_v2.get_config("B").method)
bad = sorted(name for name in sys.modules if name.split(".")[0] in ("tensorflow", "tensorflow_datasets"))
print(bad)
sys.exit(bool(bad))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_module_imports_itself_in_a_circle():
    """Also inside packages, inside functions and under TYPE_CHECKING: such imports hide a wrong order of layers."""
    paths = {name_of(path): path for path in modules()}
    edges = {
        name: {known for found in imported(path) if (known := module_of(found, paths))} for name, path in paths.items()
    }
    assert circle(edges) is None


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) is None
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def name_of(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_of(found: str, known: dict[str, pathlib.Path]) -> str | None:
    """The module that an imported name is, or is in."""
    return found if found in known else next((name for name in [found.rpartition(".")[0]] if name in known), None)


def circle(edges: dict[str, set[str]]) -> list[str] | None:
    """A way from a module back to itself, or None."""
    done: set[str] = set()

    def walk(name: str, above: list[str]) -> list[str] | None:
        if name in above:
            return [*above[above.index(name) :], name]
        if name in done:
            return None
        found = next(filter(None, (walk(one, [*above, name]) for one in sorted(edges[name] - {name}))), None)
        done.add(name)
        return found

    return next(filter(None, (walk(name, []) for name in sorted(edges))), None)


def test_files_stay_short():
    long = {str(path): n for path in modules() if (n := len(path.read_text().splitlines())) > 320}
    assert not long
