"""What is registered: as which kinds, and that building it reaches nothing outside of the process."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks import audit_components
from vmae_jax import registry
from vmae_jax.masking.core import Masker
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError, build, resolve

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_building_anything_from_anything_does_nothing_else():
    """Every component with hostile arguments: no audited event (open, import, exec, socket, ctypes, …), no fault."""
    script = ROOT / "benchmarks" / "audit_components.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=600, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["events"] == []
    assert found["odd"] == {}
    assert found["unbuilt"] == []  # each was built at least once, so its own code ran
    assert found["components"] >= 60
    assert found["builds"] > 100 * found["components"]
    assert not pathlib.Path("/tmp/vmae_audit_marker").exists()


def test_every_kind_that_an_argument_accepts_exists():
    audit_components.modules()
    entries = [registry.registered(one) for one in registry.components().values()]
    kinds = {entry.kind for entry in entries if entry}
    accepted = {kind for entry in entries if entry for several in entry.accepts.values() for kind in several}
    assert accepted <= kinds


def test_every_component_can_be_named_and_nothing_else_that_its_module_exports():
    names = audit_components.modules()
    ours = {path: one for path, one in registry.components().items() if path.startswith("vmae_jax.")}
    for path, function in ours.items():
        assert resolve(path.removeprefix("vmae_jax.")) is function
    exported = {f"{name}.{item}" for name in names for item in getattr(sys.modules[name], "__all__", ())}
    refused = exported - ours.keys()
    assert len(refused) > 200
    for path in refused:
        with pytest.raises(ConfigError):
            resolve(path.removeprefix("vmae_jax."))


def test_a_mistake_in_the_decorator_is_an_error_at_import():
    def mask(ratio: float = 0.5) -> None: ...

    with pytest.raises(TypeError, match="mask has no argument 'rato'; it has ratio"):
        register("mask", rato="x")(mask)
    with pytest.raises(TypeError, match="a kind is an identifier"):
        register("two words")
    with pytest.raises(TypeError, match="mask has no argument 'rato'; it has ratio"):
        register("mask", smoke={"rato": 0.5})(mask)
    assert registry.registered(mask) is None
    assert registry.registered([]) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"call": "masking.tube", "ratio": {"call": "masking.tube"}}, "ratio accepts plain data only, got the call"),
        ({"call": "masking.tube", "ratio": {"x": [{"call": "os.system"}]}}, "ratio.x[0] accepts plain data only"),
        ({"call": "masking.tube", "ratio": "0.5"}, "ratio must be a number, got '0.5'"),
        ({"call": "masking.tube", "ratio": True}, "ratio must be a number, got True"),
        ({"call": "models.variants.vit", "frames": 1.5}, "frames must be a whole number, got 1.5"),
        ({"call": "models.variants.vit", "mean": [0.5, "x"]}, "mean must be a list of (a number), got [0.5, 'x']"),
        ({"call": "models.variants.vit", "positions": {"call": "masking.tube"}}, "kind positions, got 'masking.tube'"),
        ({"call": "models.variants.vit", "positions": "learned"}, "a call of kind positions, got 'learned'"),
        (
            {"call": "targets.core.objective", "target": {"a": {"b": {"call": "targets.pixels"}}}},
            "target accepts a call of kind target, got {'a'",
        ),
        (
            {"call": "data.pipeline.loader", "source": True, "sampler": None, "transforms": None},
            "source accepts a call, of kind source, got True",
        ),
        ({"call": "data.mixture", "parts": []}, "parts accepts a mapping of calls, of kind part, got []"),
        ({"call": "data.mixture", "parts": {"a": 1}}, "parts.a accepts a call of kind part, got 1"),
        ({"call": None}, "None is not the name of a component"),
        ({"call": ["masking.tube"]}, "['masking.tube'] is not the name of a component"),
        ({"call": "masking.tubе"}, "is not the name of a component"),  # a Cyrillic letter
        ({"call": "masking" + ".tube" * 300}, "is not the name of a component"),
        ({"ratio": 0.5}, "a call was expected"),
        ([{"call": "masking.tube"}], "a call was expected"),
    ],
)
def test_an_argument_accepts_its_own_kinds_only(config, message):
    with pytest.raises(ConfigError) as error:
        build(config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_kind_of_the_whole_is_checked():
    assert isinstance(build({"call": "masking.tube"}, "mask"), Masker)
    with pytest.raises(ConfigError, match="of kind mask, where a method was expected"):
        build({"call": "masking.tube"}, "method")
    with pytest.raises(ConfigError, match="a call of kind method was expected"):
        build("masking.tube", "method")


def test_resolving_imports_component_packages_alone():
    code = """
import sys
from vmae_jax.spec import ConfigError, build, resolve
before = set(sys.modules)
for name in ("commands.config.load_config", "runtime.supervisor.main", "cli.main", "__main__.main", "plugins.digest",
             "io.paths.write_text", "weights.loading.load", "spec.build", "registry.admit", "antigravity.x", "this.x"):
    try:
        resolve(name)
    except ConfigError:
        continue
    sys.exit(name + " was resolved")
resolve("masking.tube")
ours = {name.split(".")[1] for name in set(sys.modules) - before if name.startswith("vmae_jax.")}
allowed = {"augment", "data", "eval", "inputs", "masking", "methods", "models", "targets", "train", "types", "patches"}
print(sorted(ours - allowed), [name for name in ("antigravity", "this") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[] []"
