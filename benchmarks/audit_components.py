"""Build every registered component with hostile arguments while every event of the interpreter is audited.

A process of its own (`python benchmarks/audit_components.py`), because an audit hook cannot be removed. It prints one
JSON object: how many builds there were, the events that building caused, and the exceptions that are no ConfigError.
With --count it does so many of the builds, drawn by --seed.
"""

import argparse
import collections.abc
import contextlib
import importlib
import inspect
import json
import pathlib
import pkgutil
import random
import resource
import sys
import typing

import jax

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from vmae_jax import registry
from vmae_jax.spec import ConfigError, build, call

RUN = {"call": "runtime.supervisor.supervise", "command": ["sh", "-c", "id"], "processes": 1, "restarts": 0}
TEXTS = (
    "/etc/passwd", "/tmp/vmae_audit_marker", "~/x", "../../../x", "file:///etc/passwd", "http://127.0.0.1:9/x",
    "gs://bucket/x", "huggingface:x/y", "$(id > /tmp/vmae_audit_marker)", "; id", "os.system", "subprocess", "pickle",
    "__import__('os').system('id')", "vmae_jax.commands.config.load_config", "\0", "%s%n{0.__class__}", "a" * 10_000,
    "\u202e\ud800", "",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2**31, 10**12, -(10**12), 10**400, 0.5, 1e308, -1e308, float("inf"), float("nan"), True, None)
CALLS = (
    RUN,
    {"call": "commands.config.load_config", "target": "/tmp/x.py"},
    {"call": "plugins.allow_plugins", "packages": ["subprocess"]},
    {"call": "io.paths.write_text", "path": "/tmp/vmae_audit_marker", "text": "x"},
    {"call": "subprocess.getoutput", "cmd": "id"},
    {"call": "data.process.main", "arguments": ["0", "1"]},
    {"call": "data.records.open_tfds", "source": None},
    {"call": None},
    {"call": ["masking.tube"]},
    {"call": {"call": "masking.tube"}},
    {"call": "masking.tube"},
    {"call": "data.sources.folder", "path": "/etc"},
    {"call": "train.settings.Mesh"},
)
PLAIN = (*TEXTS, *NUMBERS, [], {}, [[]], ["/etc/passwd"], {"a": "/etc/passwd"}, [1, "x", None], {"steps": 10**400})
HOSTILE = (*PLAIN, *CALLS, *([one] for one in CALLS), *({"x": one} for one in CALLS), [[RUN]], {"x": {"y": RUN}})
# What a component needs beside its required arguments, or in place of what `example` would give it.
MORE = {
    "methods.adamae.build": {"objective": "x"},
    "methods.marlin.build": {
        "objective": "x",
        "objectives": {"x": {"call": "targets.core.objective", "target": {"call": "targets.pixels"}}},
    },
    "augment.colors.by_view": {"changes": [{"call": "augment.colors.jitter"}] * 2},
    "data.sources.tfds": {"directory": "x"},
    "data.sequences.drawn": {"settings": {"call": "data.synthetic.world.settings"}},
    "data.synthetic.moving_shapes.moving_shapes": {"settings": {"call": "data.synthetic.moving_shapes.settings"}},
    "data.synthetic.world.world": {"settings": {"call": "data.synthetic.world.settings"}},
    "masking.units.units": {"mask": {"call": "masking.random"}},
    "methods.classify.build": {"classes": 2},
    "methods.joint.build": {"parts": {"y": {"call": "methods.parts.nce", "first": "x", "second": "x"}}},
    "methods.mbt.build": {"classes": 2},
    "methods.parts.region_nce.region_nce": {"regions": {"call": "augment.regions.random_boxes"}},
    "methods.latent_dense.build": {"model": {"call": "models.variants.vit", "modality": True}},
    "methods.distill.build": {"classes": 2},
    "methods.levjepa.build": {
        "model": {"call": "models.variants.vit", "prefix": 1, "positions": {"call": "models.rotary"}},
        "mask": {"call": "masking.random"},
    },
    "methods.tgm.build": {"image": {"call": "models.variants.vit", "frames": 1, "tubelet": 1}},
    "methods.rvm.build": {
        "model": {"call": "models.variants.vit", "frames": 1, "tubelet": 1},
        "encoder_mask": {"call": "masking.random"},
        "objectives": {"x": {"call": "targets.core.objective", "target": {"call": "targets.pixels"}}},
    },
    "methods.linear.build": {"model": {"call": "models.variants.vit", "prefix": 1}},
    "methods.mvd.build": {"video_teacher": {"call": "models.variants.vit"}},
}
# What computing a value may cause: nothing that reaches outside of the process.
HARMLESS = {"object.__getattr__", "object.__setattr__", "object.__delattr__", "sys._getframe", "builtins.id"}


def modules() -> list[str]:
    """Import every module of the component packages; return their names."""
    names = []
    for name in registry.COMPONENTS:
        package = importlib.import_module(f"vmae_jax.{name}")
        names += [found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    for name in names:
        importlib.import_module(name)
    return names


def sample(kind: str) -> dict:
    """Return a call of a kind that builds: of the component with the fewest calls among its own arguments.

    Of models it is a ViT, which every method takes.
    """
    if kind == "model":
        return {"call": "models.variants.vit"}
    of_kind = [(path, one) for path, one in registry.components().items() if entry(one).kind == kind]
    return example(*min(of_kind, key=lambda found: len(entry(found[1]).accepts)))


def entry(function: typing.Any) -> registry.Registered:
    """Return how a component is registered."""
    found = registry.registered(function)
    assert found is not None
    return found


def example(path: str, function: typing.Any) -> dict:
    """Return a call of a component with the arguments that it needs."""
    accepts, known = entry(function).accepts, {"length": {"steps": 1}}
    name = path.removeprefix("vmae_jax.")
    config = {"call": name, **MORE.get(name, {})}
    for key, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if key in config or parameter.default is not inspect.Parameter.empty:
            continue
        origin = typing.get_origin(parameter.annotation)
        if key not in accepts:
            plain = {str: "x", int: 2, float: 0.5}.get(parameter.annotation)
            config[key] = known.get(key, ["x"]) if plain is None else plain
        elif origin is collections.abc.Mapping:
            config[key] = {"x": sample(accepts[key][0])}
        else:
            one = sample(accepts[key][0])
            config[key] = [one] if origin is collections.abc.Sequence else one
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--count", type=int, help="builds with hostile arguments (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    modules()
    jax.devices()
    # No argument may make a build take memory without end: 2 GiB more than now, and not the machine's last.
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), -1))
    events, odd, count, armed = set(), {}, 0, False

    def hook(event: str, arguments: tuple) -> None:
        if armed and event not in HARMLESS:
            events.add(f"{event}{arguments!r:.200}")

    def attempt(config: dict) -> bool:
        nonlocal armed, count
        armed, count = True, count + 1
        try:
            build(config)
            return True
        except ConfigError as error:
            if "\n" in str(error):
                odd[str(config)[:300]] = f"a message of several lines: {error}"
            return False
        except Exception as error:
            odd[str(config)[:300]] = f"{type(error).__name__}: {str(error)[:200]}"
            return False
        finally:
            armed = False

    components = registry.components()
    for path in components:  # reading our own signatures evaluates their annotations, once
        call(path.removeprefix("vmae_jax."))
    with contextlib.suppress(ConfigError):
        build({"call": "no.such_component"})  # the list of our own modules, for "did you mean", once
    sys.addaudithook(hook)
    examples = {path: example(path, function) for path, function in components.items()}
    unbuilt = [path for path, config in examples.items() if not attempt(config)]
    places = [(path, key) for path, one in components.items() for key in inspect.signature(one).parameters]
    hostile = [(path, key, value) for path, key in places for value in HOSTILE]
    if given.count is not None:
        hostile = random.Random(given.seed).sample(hostile, given.count)
    for path, key, value in hostile:
        attempt(examples[path] | {key: value})
    found = {"components": len(components), "builds": count, "unbuilt": unbuilt, "events": sorted(events), "odd": odd}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
