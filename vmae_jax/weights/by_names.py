"""Published weights that no installed program could be compared with: they are checked by names and shapes alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vmae_jax.weights import clip, flow, hiera, siamese, vjepa
from vmae_jax.weights.formats.tensors import File
from vmae_jax.weights.layouts.names import K_BIAS
from vmae_jax.weights.layouts.rules import MismatchError
from vmae_jax.weights.subject import fresh_params, subject

__all__ = ["Taken", "by_names"]


class Taken(NamedTuple):
    """What a file gives.

    Attributes:
      family: name of the layout.
      config: of the workdir.
      params, average: all parameters, and their average over training, if the file has one.
      dropped: what was left out, with the reason.
      facts: more entries of the report.
      trainable: False for a network that only serves another one.
    """

    family: str
    config: ConfigDict
    params: Any
    average: Any
    dropped: dict[str, str]
    facts: dict[str, Any]
    trainable: bool = True


def by_names(file: File, config: ConfigDict | None, *, changed: bool) -> Taken | None:
    """Return what a file of CropMAE, Hiera, V-JEPA, CLIP or RAFT gives; None if it has another layout.

    Args:
      file: the tensors.
      config: of the experiment; None makes one from the weights.
      changed: whether options ask for other parameters than the file's.

    Raises:
      MismatchError: if names or shapes differ, or `changed`.
    """
    for known, name, take in LAYOUTS:
        if known(file):
            if changed:
                raise MismatchError(f"--fresh and --resize are not possible for weights in {name}'s layout")
            return take(file, config)
    return None


def _clip(file: File, config: ConfigDict | None) -> Taken:
    one = subject(config if config is not None else clip.config_of(file))
    params, dropped = clip.params_of(file, one, fresh_params(one, None))
    facts = {"kind": "encoder", "used": len(file.state) - len(dropped), "not_checked": "outputs"}
    return Taken("clip", one.config, params, None, dropped, facts)


def _siamese(file: File, config: ConfigDict | None) -> Taken:
    one = subject(config if config is not None else siamese.config_of(file))
    params = siamese.params_of(file, one, fresh_params(one, None))
    keys = [name for name in file.state if name.endswith((".in_proj_bias", ".attn.qkv.bias"))]
    dropped = {f"{name} (the keys' third)": K_BIAS for name in keys}
    why = "outputs: CropMAE's code is not a package that could be installed here"
    return Taken("cropmae", one.config, params, None, dropped, {"used": len(file.state), "not_checked": why})


def _hiera(file: File, config: ConfigDict | None) -> Taken:
    one = subject(config if config is not None else hiera.config_of(file))
    params = hiera.params_of(file, one, fresh_params(one, None))
    kind = "classifier" if "head" in params else "pretraining"
    why = "outputs: the official code is not run here"
    return Taken("hiera", one.config, params, None, {}, {"kind": kind, "used": len(file.state), "not_checked": why})


def _latent(file: File, config: ConfigDict | None) -> Taken:
    """The encoder and predictor of V-JEPA or V-JEPA 2, with the target encoder as the average."""
    given = vjepa.loaded(file)
    one = subject(config if config is not None else vjepa.config_of(given))
    params, average, left_out = vjepa.params_of(given, one, fresh_params(one, None))
    facts = {
        "used": sum(map(len, given.networks.values())) - len(left_out),
        "notes": [] if average is not None else ["the file has one encoder, which is taken as the target's, too"],
        "not_checked": "outputs: the official code is not a package that could be installed here",
    }
    return Taken("vjepa", one.config, params, average if average is not None else params, left_out, facts)


def _flow(file: File, config: ConfigDict | None) -> Taken:
    """RAFT's weights alone, which `init_from` gives to a guide."""
    if config is not None:
        raise MismatchError("--config is not possible for weights of RAFT, a guide's")
    params = flow.params_of(file)
    return Taken("raft", flow.config(), params, None, {}, flow.facts(file), trainable=False)


_Known, _Take = Callable[[File], bool], Callable[[File, ConfigDict | None], Taken]
LAYOUTS: tuple[tuple[_Known, str, _Take], ...] = (
    (clip.is_clip, "CLIP", _clip),
    (hiera.is_hiera, "Hiera", _hiera),
    (siamese.is_siamese, "CropMAE", _siamese),
    (vjepa.is_latent, "V-JEPA", _latent),
    (flow.is_flow, "RAFT", _flow),
)
