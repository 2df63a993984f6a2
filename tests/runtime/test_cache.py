"""The compilation cache is in a folder of the user's own, or is off with a warning."""

import logging
import os
import pathlib
import stat
import subprocess
import sys

import pytest

from vmae_jax.runtime import cache
from vmae_jax.spec import ConfigError


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    monkeypatch.delenv(cache.VARIABLE, raising=False)


def test_where_it_belongs(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "vmae_jax" / "xla"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the standard requires to ignore it
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.cache_folder() == tmp_path / "home" / ".cache" / "vmae_jax" / "xla"
    monkeypatch.setenv(cache.VARIABLE, "~/elsewhere")
    assert cache.cache_folder() == tmp_path / "home" / "elsewhere"
    for word in ("off", "OFF", "0"):
        monkeypatch.setenv(cache.VARIABLE, word)
        assert cache.cache_folder() is None
        assert cache.enable_cache() is None
    monkeypatch.setenv(cache.VARIABLE, "some/folder")
    with pytest.raises(ConfigError, match="absolute path"):
        cache.cache_folder()


def test_only_the_user_can_read_it(tmp_path):
    folder = tmp_path / "a" / "cache"
    assert cache.secure(folder) == ""
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    os.chmod(folder, 0o755)
    assert cache.secure(folder) == ""
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_is_refused(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    assert "file" in cache.secure(tmp_path / "file")
    assert "file" in cache.secure(tmp_path / "file" / "below")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert "not a folder" in cache.secure(tmp_path / "link")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with caplog.at_level(logging.WARNING):
        assert cache.enable_cache(tmp_path / "real") is None
    assert "belongs to another user" in caplog.text
    assert cache.VARIABLE in caplog.text


@pytest.mark.slow
def test_a_second_process_compiles_less(tmp_path):
    """With JAX's own variable for the shortest compilation that is kept: this one is short."""
    code = """
import jax, jax.numpy as jnp
from vmae_jax.runtime.cache import enable_cache
print(enable_cache())
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("cache_hits") else None)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))).block_until_ready()
print(len(hits))
"""
    environment = os.environ | {cache.VARIABLE: str(tmp_path / "cache"), cache.MIN_VARIABLE: "0"}
    root = pathlib.Path(cache.__file__).parents[2]
    runs = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True, check=True
        )
        folder, hits = done.stdout.split()
        assert folder == str(tmp_path / "cache")
        runs.append(int(hits))
    assert runs[0] == 0
    assert runs[1] > 0
