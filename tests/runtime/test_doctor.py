"""The doctor finds what is missing, suggests what to do, and never fails because of it."""

import importlib.metadata
import json
import pathlib
import tomllib

import pytest

from vmae_jax.runtime import cache, doctor


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))


def found(checks, name):
    return next(check for check in checks if check.name == name)


def test_this_machine_is_ready(tmp_path):
    checks = doctor.examine(tmp_path)
    assert not [check for check in checks if check.status == "fail"], doctor.format(checks)
    text = doctor.format(checks)
    assert "Ready to train." in text
    assert "8 x cpu" in text
    assert found(checks, "H.264 video").status == "ok"
    assert found(checks, "compilation cache").detail.startswith(str(tmp_path))
    assert json.loads(json.dumps(doctor.report(checks)))["status"] == "ok"


def test_missing_and_old_packages(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "av":
            raise importlib.metadata.PackageNotFoundError(name)
        return {"jax": "0.4.9", "flax": "0.13.0rc1", "tensorflow": "2.20.0"}.get(name) or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    checks = doctor.examine()
    assert found(checks, "av").status == "fail"
    assert "pip install 'av>=" in found(checks, "av").fix
    assert found(checks, "jax").status == "warn"
    assert found(checks, "flax").status == "ok"
    assert found(checks, "tensorflow").status == "ok"
    text = doctor.format(checks)
    assert "Not ready: av." in text
    assert "-> pip install 'av>=18.1'" in text
    assert doctor.report(checks)["status"] == "error"


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ("4.57.6", False),
        ("5.5.0", False),
        ("5.5.1", True),
        ("5.6.0", True),
        ("5.14.1", True),
        ("5.17.0", True),
        ("5.18.0", False),
        ("5.23.0", False),
        (None, False),
    ],
)
def test_versions_of_transformers_that_lose_biases(monkeypatch, version, affected):
    real = importlib.metadata.version

    def versions(name):
        if name == "transformers" and version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version if name == "transformers" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", versions)
    check = next(check for check in doctor._optional() if check.name == "transformers")
    assert check.status == ("warn" if affected else "ok")
    assert ("zero biases" in check.detail) == affected
    assert ("transformers>=5.18" in check.fix and "vmae import" in check.fix) == affected


def test_extras_are_named_as_the_package_has_them(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name in ("torch", "transformers", "wandb"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    checks = doctor.examine()
    assert found(checks, "torch").fix == "pip install 'vmae-jax[torch]'"
    assert ".pth files are read without it" in found(checks, "torch").detail
    assert found(checks, "wandb").fix == "pip install 'vmae-jax[wandb]'"
    assert "pip install 'vmae-jax[cuda13]' (NVIDIA GPUs)" in found(checks, "devices").fix
    extras = set(real_extras())
    assert set(doctor._EXTRA.values()) <= extras


def real_extras():
    """The extras that this package declares."""
    project = tomllib.loads((pathlib.Path(__file__).parents[2] / "pyproject.toml").read_text())
    return project["project"]["optional-dependencies"]


def test_a_check_that_breaks_is_a_finding(monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("no encoder\nhere")

    monkeypatch.setattr("av.open", broken)
    monkeypatch.setattr("os.sysconf", lambda name: 1 / 0)
    checks = doctor.examine()
    assert found(checks, "H.264 video").detail == "cannot write and read it: no encoder here"
    assert any("ZeroDivisionError" in check.detail for check in checks if check.status == "fail")


def test_cache_and_disk(monkeypatch, tmp_path):
    monkeypatch.setenv(cache.VARIABLE, "off")
    assert found(doctor.examine(tmp_path / "not" / "there"), "compilation cache").status == "warn"
    assert "bucket" in found(doctor.examine("gs://bucket/run"), "disk").detail
