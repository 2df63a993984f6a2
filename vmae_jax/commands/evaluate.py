"""`vmae eval`: a checkpoint measured on held-out videos."""

import csv
import io
import logging
from collections.abc import Sequence
from typing import Any

import jax

from vmae_jax.commands.config import apply_overrides, load_config
from vmae_jax.commands.experiment import read_config
from vmae_jax.commands.measure import measure
from vmae_jax.commands.restore import restore
from vmae_jax.eval.collect import Results
from vmae_jax.io.checkpoint import locate
from vmae_jax.io.paths import Workdir, write_bytes
from vmae_jax.io.writers import JsonlWriter
from vmae_jax.runtime.cache import enable_cache
from vmae_jax.spec import ConfigError

__all__ = ["run"]

log = logging.getLogger(__name__)


def run(
    checkpoint: str,
    *,
    ema: bool = False,
    config: str | None = None,
    overrides: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Runs the evaluators of the config's `eval` section and records what they say.

    Args:
      checkpoint: a workdir or one of its checkpoints.
      ema: use the averaged parameters.
      config: a config file whose `eval` section is used in place of the run's own.
      overrides: `--config.a.b=value` on top.

    Raises:
      ConfigError: no such checkpoint, or nothing to evaluate.
    """
    enable_cache()
    folder, _ = locate(checkpoint)
    chosen = read_config(Workdir(folder.parent))
    if config is not None:
        chosen.eval = load_config(config).eval
    apply_overrides(chosen, overrides)
    trained = restore(checkpoint, ema=ema, config=chosen)
    made = trained.made
    if made.eval.data is None or not made.eval.evaluators:
        raise ConfigError(
            f"{checkpoint}: its config evaluates nothing; set config.eval.data and config.eval.evaluators"
        )
    params = jax.device_put(trained.params, jax.sharding.NamedSharding(made.mesh, jax.sharding.PartitionSpec()))
    data = made.eval.data.open()
    results = measure(made, data, params, trained.carried)
    files: list[str] = []
    if jax.process_index() == 0:
        writer = JsonlWriter(trained.workdir.metrics)
        writer.scalars(trained.step, results, kind="eval")
        writer.close()
        folder = trained.workdir.path / "eval" / f"{trained.step:08d}{'_ema' if ema else ''}"
        files = _write(folder, results)
    return {"step": trained.step, "ema": ema, **results, **({"files": files} if files else {})}


def _write(folder: Any, results: Results) -> list[str]:
    """The tables as CSV, and the other files."""
    for file, rows in results.tables.items():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        results.files[file] = text.getvalue().encode()
    if results.files:
        folder.mkdir(parents=True, exist_ok=True)
    for file, content in results.files.items():
        write_bytes(folder / file, content)
    return [str(folder / file) for file in results.files]
