"""`vmae eval`: the evaluators of a config on a checkpoint, in one process or several."""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from vmae_jax.commands import sanity
from vmae_jax.commands.config import apply_overrides, load_config
from vmae_jax.commands.measure import Measurement
from vmae_jax.commands.restore import Trained, config_of, restore
from vmae_jax.commands.streams import check_streams
from vmae_jax.eval.collect import Results
from vmae_jax.io.paths import write_bytes
from vmae_jax.io.writers import JsonlWriter
from vmae_jax.runtime import distributed, watchdog
from vmae_jax.runtime.cache import enable_cache
from vmae_jax.spec import ConfigError, to_json
from vmae_jax.train import sharding
from vmae_jax.train.on_mesh import replicated

__all__ = ["run"]

log = logging.getLogger(__name__)


def run(
    checkpoint: str,
    *,
    ema: bool = False,
    config: str | None = None,
    overrides: Sequence[tuple[str, str]] = (),
    limits: Mapping[str, float] = watchdog.LIMITS,
) -> dict[str, Any]:
    """Run the evaluators of the config's `eval` section and record their metrics.

    All devices share the clips, whatever the run was trained on. Several processes (`runtime.distributed.start`)
    share them too, and process 0 writes the metrics of all.

    Args:
      checkpoint: a workdir or one of its checkpoints.
      ema: use the averaged parameters, whatever `config.eval.ema` is.
      config: a config file whose `eval` section is used in place of the run's own, such as `configs/probe.py`.
      overrides: (key, value) of each `--config.a.b=value`.
      limits: seconds that reading the checkpoint, or a batch, may take before the watchdog ends the process.

    Raises:
      ConfigError: if there is no such checkpoint, or nothing to evaluate.
      runtime.distributed.PeerError: if another host does not start or is lost.
    """
    distributed.start()
    enable_cache()
    with watchdog.Watchdog(limits) as dog, distributed.naming_lost_peers():
        with dog.phase("restore", "reading the checkpoint"):
            trained, averaged, measured = distributed.together(
                "evaluation", lambda: _open(checkpoint, ema, config, overrides), facts=_facts
            )
        with dog.phase("evaluate", "the evaluation"):
            results = measured(
                replicated(trained.params, measured.mesh),
                lambda: replicated(trained.carried(), measured.mesh),
                lambda name, batch: dog.turn("evaluate", f"{name}, {batch}"),
            )
    files: list[str] = []
    if jax.process_index() == 0:
        writer = JsonlWriter(trained.workdir.metrics)
        writer.scalars(trained.step, results, kind="eval")
        writer.close()
        folder = trained.workdir.path / "eval" / f"{trained.step:08d}{'_ema' if averaged else ''}"
        files = _write(folder, results)
    return {"step": trained.step, "ema": averaged, **results, **({"files": files} if files else {})}


def _open(
    checkpoint: str, ema: bool, config: str | None, overrides: Sequence[tuple[str, str]]
) -> tuple[Trained, bool, Measurement]:
    """Return the checkpoint, whether its parameters are the averaged ones, and their `Measurement`."""
    chosen = config_of(checkpoint)
    if config is not None:
        other = load_config(config, checkpoint=checkpoint)
        if "eval" not in other:
            raise ConfigError(f"--config={config} has no section eval")
        chosen.eval = other["eval"]
    apply_overrides(chosen, overrides)
    section: Any = chosen.get("eval")
    averaged = ema or (isinstance(section, ConfigDict) and section.get("ema") is True)
    trained = restore(checkpoint, ema=averaged, config=chosen)
    if not trained.made.eval.evaluators or len(trained.made.eval.ready) < len(trained.made.eval.evaluators):
        raise ConfigError(
            f"{checkpoint}: its config evaluates nothing; set config.eval.data and config.eval.evaluators"
        )
    _check_clips(checkpoint, config, trained)
    if jax.process_index() == 0:
        for message in sanity.same_videos(trained.made, trained=False):
            log.warning("warning: %s", message)
    mesh = sharding.make_mesh(ici={"data": -1}, dcn={"data": -1})  # all devices of all slices
    return trained, averaged, Measurement(trained.made, mesh, averaged)


def _check_clips(checkpoint: str, config: str | None, trained: Trained) -> None:
    """Raise ConfigError if a config's clips are not those of the checkpoint's model."""
    if config is None or trained.made.eval.data is None:
        return
    made = trained.made
    own, found = made.batch_spec, made.eval.data.spec()
    check_streams(made.method, found, "config.eval.data")
    for name in made.method.inputs:
        if own[name].shape[1:] != found[name].shape[1:]:
            takes, given = ("x".join(map(str, spec[name].shape[1:])) for spec in (own, found))
            order = " (t x h x w x c)" if name == "video" else ""
            raise ConfigError(
                f"{checkpoint} takes {'clips' if name == 'video' else name} of {takes}{order}, --config={config} gives "
                f"{given}: leave out frames= and size=, or give the model others with --config.method.model.frames= "
                "and .resolution="
            )


def _facts(opened: tuple[Trained, bool, Measurement]) -> dict[str, Any]:
    """Return what all hosts must have in common before they evaluate together."""
    trained, averaged, measured = opened
    return distributed.facts(to_json(trained.made.config), step=trained.step, ema=averaged, **measured.facts())


def _write(folder: Any, results: Results) -> list[str]:
    """Write tables as CSV, and all other files; return their paths."""
    for file, rows in results.tables.items():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        results.files[file] = text.getvalue().encode()
    if results.files:
        folder.mkdir(parents=True, exist_ok=True)
    for file, content in results.files.items():
        write_bytes(folder / file, content)
    return [str(folder / file) for file in results.files]
