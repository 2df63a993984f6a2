"""Masked autoencoding of several modalities, with any further terms: AV-MAE, MAViL, ViC-MAE and others.

    build(modalities={"video": modality(vit("B"), random(0.9), video(), {"pixels": objective(pixels())}),
                      "audio": modality(spectrogram("B"), random(0.8), sound(kaldi()), {"log_mel": …})},
          parts={"reconstruct": reconstruct(), "nce": nce("audio", "video", weight=0.1)},
          fuse=joint(2))

A modality is read as a video, and so masked, encoded and decoded as `methods.masked` does. Parts are terms of the loss.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.inputs.readers import Read, Reader, Readers
from vmae_jax.masking.core import Masker
from vmae_jax.methods.common import of_part
from vmae_jax.methods.masked import Masked, supervision
from vmae_jax.methods.padding import without_padding
from vmae_jax.methods.parts.core import Part, Seen, taught
from vmae_jax.methods.parts.reconstruct import Reconstruct
from vmae_jax.methods.pictures import of_modalities
from vmae_jax.models.classifier import everything
from vmae_jax.models.fusion import Fused, Fusion, Tower, alone
from vmae_jax.models.variants import Model
from vmae_jax.patches import gather_cubes
from vmae_jax.registry import register
from vmae_jax.scopes import tower
from vmae_jax.spec import ConfigError
from vmae_jax.targets.core import Objective
from vmae_jax.types import Batch, Context, Extra, Loss, Method, Params, Pictures, merge, row_keys, stream

__all__ = ["Joint", "Modality", "build", "modality"]

FUSION, TEACHER = "fusion", "teacher"


class Modality(NamedTuple):
    """A modality: its networks, its mask, what it is read from, and what is predicted of it."""

    model: Model
    mask: Masker | None
    read: Reader
    objectives: Mapping[str, Objective]

    @property
    def masked(self) -> Masked:
        """The masked autoencoder of this modality alone."""
        return Masked(self.model, self.mask, None, self.objectives)


@dataclasses.dataclass(frozen=True)
class Joint:
    """The functions of a multimodal method, which `build` returns as a `Method`."""

    modalities: Mapping[str, Modality]
    parts: Mapping[str, Part]
    fuse: Fusion | None

    @functools.cached_property
    def networks(self) -> dict[str, Masked]:
        """The masked autoencoder of each modality."""
        return {name: one.masked for name, one in self.modalities.items()}

    def init(self, key: Array, batch: Batch) -> tuple[Params, Extra]:
        """Return initial parameters (encoders by modality, the fusion, parts by name), and what parts carry or None."""
        for one in self.modalities.values():
            one.read.shape(batch, one.model.video_shape)
        batches = {name: self.of(name, batch)[0] for name in self.modalities}
        params = self._encoders(key, batches)
        made = {name: part.init(key, self.networks, batches) for name, part in self.parts.items()}
        begun = {name: part.begin(stream(key, name), self.networks) for name, part in self.parts.items()}
        extra = {name: one for name, one in begun.items() if one is not None}
        return params | {name: one for name, one in made.items() if one}, extra or None

    def _encoders(self, key: Array, batches: Mapping[str, Batch]) -> Params:
        made = {name: one.init(self._own(name, key), batches[name])[0] for name, one in self.networks.items()}
        params: Params = {name: one["encoder"] for name, one in made.items()}
        if self.fuse is not None:
            encoders = {name: one.model.encoder for name, one in self.modalities.items()}
            params[FUSION] = self.fuse.init(stream(key, FUSION), encoders)
        return params

    def frozen(self, key: Array, batch: Batch) -> Params:
        """Return initial parameters of the teacher, which has the same networks; `init_from` replaces them."""
        own = {name: self.of(name, batch)[0] for name in self.networks}
        return {TEACHER: self._encoders(stream(key, TEACHER), own)}

    def of(self, name: str, batch: Batch, *, train: bool = False) -> tuple[Batch, Read]:
        """Return the batch as a modality has it, and what was read of it.

        Its "video" is the modality, "valid" is False in rows without it, and its seeds are its own; those of the first
        modality are the batch's.
        """
        keys = self._own(name, row_keys(batch["seed"]))
        one = self.modalities[name]
        with jax.named_scope("inputs"):
            read = one.read.read(batch, one.model.video_shape[0], keys if train else None)
        seed = jax.random.key_data(keys)
        return {**batch, "video": read.video, "valid": read.valid, "seed": seed}, read

    def seen(
        self, params: Params, batch: Batch, *, train: bool, whole: bool = False, augmented: bool | None = None
    ) -> dict[str, Seen]:
        """Mask and encode every modality, and let them exchange.

        Args:
          train: whether drop path and augmentation are on.
          whole: hide nothing.
          augmented: whether augmentation is; None: as `train`.
        """
        batches, masks, towers = {}, {}, {}
        for name, one in self.networks.items():
            own, read = self.of(name, batch, train=train if augmented is None else augmented)
            one.model.check(own["video"].shape)
            plan = everything(own["video"].shape[0], one.model.grid.size) if whole else one.plan(own)
            plan, present = without_padding(plan, read, one.model)
            with jax.named_scope("cubes"):
                cubes = one.model.normalize(gather_cubes(own["video"], plan.visible, one.model.patch))
            keys = stream(row_keys(own["seed"]), "drop_path") if train else None
            batches[name], masks[name] = own, plan
            towers[name] = Tower(one.model.encoder, params[name], cubes, plan, keys, present)
        found, own = self._exchanged(params, towers), self.networks
        return {name: Seen(batches[name], masks[name], *found[name], own[name].model.grid) for name in own}

    def _exchanged(self, params: Params, towers: Mapping[str, Tower]) -> dict[str, Fused]:
        if self.fuse is not None:
            return self.fuse(params[FUSION], towers)
        found = {}
        for name, one in towers.items():
            with tower(name):
                found[name] = Fused(*[alone(one)] * 2)
        return found

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return the terms of every part that are sums over clips, and the rows of those that compare clips."""
        seen = self.seen(params, batch, train=context.train)
        if any(part.taught for part in self.parts.values()):
            seen = self._with_teacher(seen, batch, context)

        @functools.cache
        def target() -> dict[str, Seen]:
            if context.average is None:
                raise ConfigError(
                    "pull, moco and speed need the average of the parameters; evaluate features instead of the loss"
                )
            average = jax.lax.stop_gradient(context.average)
            with tower(TEACHER):
                return self.seen(average, batch, train=False, augmented=context.train)

        terms, metrics = {}, {}
        for name, part in self.parts.items():
            found = part.loss(params.get(name, {}), self.networks, seen)
            terms |= found.terms
            metrics |= found.metrics
        rows = {name: part.rows(params.get(name, {}), seen, target) for name, part in self._comparing().items()}
        return Loss(terms, metrics, rows=rows or None)

    def _with_teacher(self, seen: Mapping[str, Seen], batch: Batch, context: Context) -> dict[str, Seen]:
        if not context.frozen:
            raise ConfigError("the loss of regress needs its frozen teacher; use an evaluator of features instead")
        given = context.frozen[TEACHER]
        with tower(TEACHER):
            return taught(seen, self.seen(given, batch, train=False, whole=True, augmented=context.train))

    def compare(self, params: Params, rows: Any, context: Context) -> Loss:
        """Return the terms that compare the clips of the global batch, `Method.global_loss`."""
        total, carry = Loss({}), {}
        for name, part in self._comparing().items():
            average = None if context.average is None else context.average.get(name)
            own = dataclasses.replace(context, extra=(context.extra or {}).get(name))
            found = part.compare(params.get(name, {}), rows[name], average, own)
            metrics = {f"{name}_{key}": value for key, value in found.metrics.items()}
            several = len(found.terms) > 1
            terms = {f"{name}_{key}" if several else name: term for key, term in found.terms.items()}
            total = merge(total, Loss(terms, metrics))
            carry |= {} if found.carry is None else {name: found.carry}
        return dataclasses.replace(total, carry=carry or None)

    def advance(self, extra: Extra, params: Params, carry: Any, context: Context) -> Extra:
        """See `Method.advance`: each part advances what it carries."""
        del params, context
        return extra and {name: self.parts[name].advance(one, carry[name]) for name, one in extra.items()}

    def _comparing(self) -> dict[str, Part]:
        return {name: part for name, part in self.parts.items() if part.compares}

    def features(self, params: Params, batch: Batch, *, layer: int | None = None, pool: bool = True) -> Array:
        """Return the features of whole clips: those of all modalities, after they have exchanged what they see.

        Args:
          layer: take the tokens after this many blocks of each encoder, before any exchange.
          pool: return the means of the modalities side by side, [b d], zeros where a clip lacks one; otherwise the
            tokens of all, one modality after the other, [b n d].
        """
        if layer is not None:
            params, one = self._shallow(params, layer)
            return one.features(params, batch, pool=pool)
        rows = batch[next(iter(self.modalities.values())).read.inputs[0]].shape[0]
        plain = {
            "valid": jnp.ones(rows, bool),
            "seed": jnp.zeros((rows, 2), jnp.uint32),
        }  # an exported program has none
        found = []
        for one in self.seen(params, {**plain, **batch}, train=False, whole=True).values():
            tokens = one.fused[:, -one.masks.visible.shape[1] :].astype(jnp.float32)
            there = jnp.asarray(one.batch["valid"])[:, None] & jnp.ones(tokens.shape[:2], bool)
            there = there if one.masks.valid is None else there & one.masks.valid
            tokens = jnp.where(there[..., None], tokens, 0.0)
            count = jnp.maximum(there.sum(axis=1, keepdims=True), 1)
            found.append(tokens.sum(axis=1) / count if pool else tokens)
        return jnp.concatenate(found, axis=1)

    def _shallow(self, params: Params, layer: int) -> tuple[Params, "Joint"]:
        """Return the encoders' first blocks, which exchange nothing."""
        modalities, weights = {}, {}
        for name, one in self.modalities.items():
            encoder, weights[name] = one.model.encoder.shallow(params[name], layer)
            modalities[name] = one._replace(model=dataclasses.replace(one.model, encoder=encoder))
        return weights, dataclasses.replace(self, modalities=modalities, fuse=None)

    def reconstruct(self, params: Params, batch: Batch, context: Context) -> Pictures:
        """Return the originals, the visible cubes and the reconstructions of every modality."""
        del context
        name, part = next((name, one) for name, one in self.parts.items() if isinstance(one, Reconstruct))
        seen = self.seen(params, batch, train=False)
        return of_modalities(self.networks, seen, part.predictions(params[name], self.networks, seen))

    def method(self) -> Method:
        """Return these functions as a method."""
        readers = {name: one.read for name, one in self.modalities.items()}
        needed = Readers(readers)
        parts, drawn = self.parts.values(), [one._drawable() is not None for one in self.networks.values()]
        views = max(one.views for one in (*parts, *readers.values()))
        objectives = [objective for one in self.modalities.values() for objective in one.objectives.values()]
        own = supervision([one.mask for one in self.modalities.values()], objectives)
        own = dict.fromkeys((*own, *(name for part in parts for name in part.inputs)))
        return Method(
            init=self.init,
            loss=self.loss,
            features=self.features,
            advance=self.advance,
            frozen=self.frozen if any(part.taught for part in parts) else None,
            reconstruct=self.reconstruct if all(drawn) and any(isinstance(p, Reconstruct) for p in parts) else None,
            group=views,
            views=views,
            global_loss=self.compare if self._comparing() else None,
            check=needed.check,
            check_first=needed.check_first,
            inputs=needed.inputs,
            supervision=tuple(name for name in own if name not in needed.inputs),
            averaged=any(part.averaged for part in parts),
            expects=needed.expects,
            common={name: of_part(part, name, self.seen) for name, part in self.parts.items() if part.common} or None,
        )

    def _own(self, name: str, keys: Array) -> Array:
        """Return a modality's own keys; the first one draws as `methods.masked` does."""
        return keys if name == next(iter(self.modalities)) else stream(keys, name)


@register("modality", model="model", mask="mask", read="reader", objectives="objective")
def modality(
    model: Model, mask: Masker | None, read: Reader, objectives: Mapping[str, Objective] | None = None
) -> Modality:
    """Return a modality of `build`.

    Args:
      model: encoder and decoder, `models.variants.vit` or `models.spectrogram`.
      mask: which tokens the encoder sees; None: all.
      read: what it is read from, one of `inputs.readers`.
      objectives: what is predicted at hidden tokens, by name.

    Raises:
      ValueError: if the mask does not fit the model, or there are objectives without a mask.
    """
    if mask is not None:
        mask.keep(model.grid)
    elif objectives:
        raise ValueError("objectives are predicted at hidden tokens: give a mask, or leave objectives out")
    return Modality(model, mask, read, dict(objectives or {}))


@register("method", modalities="modality", parts="joint_part", fuse="fusion")
def build(modalities: Mapping[str, Modality], parts: Mapping[str, Part], fuse: Fusion | None = None) -> Method:
    """Return a multimodal masked autoencoder as a method.

    With one modality and `parts.reconstruct` alone it is `methods.masked`.

    Args:
      modalities: by name; each has an encoder of its own.
      parts: what the loss consists of, by name (`methods.parts`).
      fuse: how encoders exchange what they see (`models.fusion`); None: they do not.

    Raises:
      ValueError: if there is no modality or part, names are taken, or parts do not suit the modalities.
    """
    if not modalities or not parts:
        raise ValueError("modalities and parts must each have at least one entry")
    names = [*modalities, *parts, FUSION]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is the name of two things: modalities, parts and {FUSION!r} need different names")
    one = Joint(dict(modalities), dict(parts), fuse)
    for part in parts.values():
        part.check(one.networks)
    counts = {name: part.views for name, part in parts.items() if part.views > 1}
    counts |= {name: each.read.views for name, each in modalities.items() if each.read.views > 1}
    if len(set(counts.values())) > 1:
        raise ValueError(f"views are {counts}: give all of them the number of clips that the sampler takes")
    if fuse is not None:
        fuse.check({name: each.model.encoder for name, each in modalities.items()})
    return one.method()
