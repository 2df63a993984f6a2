"""The config of a workdir, `config.json`, and the plugins that it names, `plugins.json`.

Every command that builds the config of a workdir reads it here. Both files are data: reading them imports nothing.
"""

import functools
import json
import logging

from ml_collections import ConfigDict

from vmae_jax import registry
from vmae_jax.errors import ConfigError
from vmae_jax.io.folders import check_folder
from vmae_jax.io.paths import Workdir, write_text
from vmae_jax.plugins import NAME, digest
from vmae_jax.spec import calls, from_json, to_json

__all__ = ["read_config", "write_config"]

log = logging.getLogger(__name__)


def read_config(workdir: Workdir) -> ConfigDict:
    """Return the config of a workdir.

    Raises:
      ConfigError: if there is no such workdir, its config cannot be read, or it names plugins that were not given.
    """
    check_folder(workdir.path)
    if not workdir.config_json.exists():
        raise ConfigError(f"--workdir={workdir.path}: not a workdir, it has no config.json")
    _check_plugins(workdir)
    try:
        return from_json(workdir.config_json.read_text())
    except (ConfigError, UnicodeDecodeError) as error:
        raise ConfigError(f"{workdir.config_json}: {error}") from error


def write_config(workdir: Workdir, config: ConfigDict) -> None:
    """Write the config, and the plugins whose components it names with a digest of their source."""
    workdir.path.mkdir(parents=True, exist_ok=True)
    names = {str(one.call).split(".")[0] for one in calls(config)}
    plugins = {name: digest(name) for name in sorted(names & registry.admitted())}
    if plugins or workdir.plugins_json.exists():
        write_text(workdir.plugins_json, json.dumps(plugins, indent=2) + "\n")
    write_text(workdir.config_json, to_json(config))


def _check_plugins(workdir: Workdir) -> None:
    """Compare the plugins of a workdir with those that the user named."""
    recorded = _recorded(workdir)
    lacking = sorted(set(recorded) - registry.admitted())
    if lacking:
        raise ConfigError(
            f"{workdir.path} was made with --plugins={','.join(recorded)}: give the same option if you trust "
            f"{'this package' if len(recorded) == 1 else 'these packages'}"
        )
    for name, before in recorded.items():
        if digest(name) != before:
            _warn(f"{workdir.path}: the source of the plugin {name} has changed since this run was made")


def _recorded(workdir: Workdir) -> dict[str, str]:
    if not workdir.plugins_json.exists():
        return {}
    try:
        found = json.loads(workdir.plugins_json.read_text())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(NAME.fullmatch(name) for name in found):
        raise ConfigError(f"{workdir.plugins_json}: damaged; a JSON object of package names and digests was expected")
    return found


@functools.cache
def _warn(message: str) -> None:
    """Log a warning once per process."""
    log.warning("%s", message)
