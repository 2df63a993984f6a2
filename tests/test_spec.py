"""The config language: what it accepts, fills in, stores, and refuses."""

import json

import pytest
from ml_collections import ConfigDict

from vmae_jax import registry
from vmae_jax.masking.core import Masker
from vmae_jax.spec import ConfigError, build, call, calls, from_json, resolve, to_json
from vmae_jax.types import Method


def v2() -> ConfigDict:
    return call(
        "methods.masked.build",
        model=call("models.variants.vit", size="micro", resolution=32, patch=8),
        encoder_mask=call("masking.tube", ratio=0.75),
        decoder_mask=call("masking.running_cell"),
        objectives={"pixels": call("targets.core.objective", target=call("targets.pixels"))},
    )


def test_a_call_fills_in_defaults_and_keeps_its_order():
    config = call("masking.block", ratio=0.5)
    assert dict(config) == {"call": "masking.block", "ratio": 0.5, "count": 8, "share": 0.15, "full_time": False}
    assert list(config)[:2] == ["call", "ratio"]


def test_none_is_a_placeholder_of_the_annotated_type():
    config = call("models.variants.vit")
    config.depth = 3
    with pytest.raises(TypeError):
        config.width = "wide"


def test_build_carries_out_innermost_first():
    assert isinstance(build(call("masking.tube")), Masker)
    assert isinstance(build(v2()), Method)


def test_json_and_back_is_the_same_config():
    text = to_json(v2())
    assert to_json(from_json(text)) == text
    assert isinstance(build(from_json(text)), Method)


def test_calls_lists_every_call():
    names = [one.call for one in calls(v2())]
    assert names[0] == "methods.masked.build"
    assert {"models.variants.vit", "masking.tube", "targets.pixels"} <= set(names)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: call("masking.tube", ration=0.9), "no argument 'ration' (did you mean 'ratio'?)"),
        (lambda: build({"call": "masking.tube", "ration": 0.9}), "no argument 'ration'"),
        (lambda: build(call("masking.tube", ratio=1.2)), "masking.tube: a mask ratio must be in [0, 1), got 1.2"),
        (lambda: build(call("methods.masked.build")), "needs model, encoder_mask, objectives"),
        (lambda: call("masking.tueb"), "did you mean 'masking.tube'?"),
        (lambda: build(call("models.variants.vit", size="Q")), "unknown size 'Q'"),
        (lambda: build(call("models.variants.vit", resolution=225)), "do not divide into cubes"),
        (lambda: from_json("{"), "not a config"),
        (lambda: from_json("[1]"), "JSON object"),
    ],
)
def test_mistakes_are_reported_in_one_line(make, message):
    with pytest.raises(ConfigError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "spec.importlib.import_module",
        "masking.tube.jnp.load",
        "masking.core.jax",
        "types.zlib",
        "spec._carry_out",
        "masking.__import__",
        "../evil",
        "",
        7,
        # exported, but not registered
        "runtime.supervisor.supervise",
        "runtime.supervisor.main",
        "commands.config.load_config",
        "plugins.allow_plugins",
        "io.paths.write_text",
        "io.paths.read_lines",
        "spec.build",
        "registry.admit",
        "cli.main",
        "masking.core.Masker",
        "data.records.open_tfds",
        "data.process.main",
        "data.service.start_worker",
        "train.init_from.apply",
        "eval.report.write",
    ],
)
def test_only_what_is_registered_can_be_named(name):
    with pytest.raises(ConfigError):
        resolve(name)
    with pytest.raises(ConfigError):
        build({"call": name})


def test_the_primitives_of_an_attack_are_refused(tmp_path):
    """What a stranger's config.json could do when everything exported could be named."""
    admitted = registry.admitted()
    (tmp_path / "config.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    for config in (
        {"call": "runtime.supervisor.main", "argv": ["--", "touch", str(tmp_path / "marker")]},
        {"call": "commands.config.load_config", "target": str(tmp_path / "config.py")},
        {"call": "io.paths.write_text", "path": str(tmp_path / "marker"), "text": "x"},
        {"call": "io.paths.read_lines", "path": "/etc/passwd"},
        {"call": "plugins.allow_plugins", "packages": ["subprocess"]},
        {"call": "spec.allow_plugins", "packages": ["subprocess"]},
        {"call": "subprocess.getoutput", "cmd": f"touch {tmp_path / 'marker'}"},
    ):
        for attack in (
            config,
            {"call": "masking.tube", "ratio": config},
            {"call": "targets.core.objective", "target": config},
        ):
            with pytest.raises(ConfigError):
                build(from_json(json.dumps(attack)))
    assert not (tmp_path / "marker").exists()
    assert registry.admitted() == admitted


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"a": ' * 70 + "1" + "}" * 70,
        '{"a.b": 1}',
        '{"a": ' + "9" * 5000 + "}",
    ],
)
def test_a_file_that_no_config_can_hold_is_refused_in_one_line(text):
    with pytest.raises(ConfigError, match="not a config") as error:
        from_json(text)
    assert len(str(error.value)) < 500
