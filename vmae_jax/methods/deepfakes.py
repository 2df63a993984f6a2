"""Unmasking Deepfakes (Das et al. 2023): faces and their optical flow, real or forged.

    pretrain(model=vit("B", frames=1, tubelet=1, …), mask=random(0.75, "visible"), objectives={"pixels": …})
    build(spatial=vit("B", frames=1, tubelet=1, …), temporal=vit(…))

One network sees single frames, the other pictures of the flow between neighbouring frames. Each begins as the encoder
of a masked autoencoder (`methods.masked` of frames, `pretrain` of flow) and is trained to classify; their scores are
averaged. The flow is RAFT-small's, whose weights are the tower "flow" of the parameters: no gradient reaches them,
and `optimizer.freeze=["flow"]` keeps weight decay away.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from vmae_jax.masking.core import Masker
from vmae_jax.methods import labels
from vmae_jax.methods.classify import Classify, classifier
from vmae_jax.methods.encoding import part_keys
from vmae_jax.methods.flow import onward_flow
from vmae_jax.methods.masked import Masked, Pass, supervision
from vmae_jax.models.raft import Raft
from vmae_jax.models.variants import Model
from vmae_jax.registry import register
from vmae_jax.scopes import tower
from vmae_jax.targets.core import Objective
from vmae_jax.types import Batch, Context, Loss, Mean, Method, Params, Term, row_keys, stream

__all__ = ["FlowAutoencoder", "TwoStreams", "build", "flow_pictures", "pretrain"]

FLOW = "flow"  # the tower of RAFT
STREAMS = ("spatial", "temporal")


def flow_pictures(flow: Float[Array, "*n h w 2"], reach: float) -> Float[Array, "*n h w 3"]:
    """Return flow as pixels from 0 to 255: u and v, clipped to ±reach pixels, around 127.5, and their length.

    The length is clipped to `reach`, and 0 is black.
    """
    length = jnp.sqrt(jnp.square(flow).sum(axis=-1, keepdims=True))
    signed = 127.5 + 127.5 * jnp.clip(flow / reach, -1.0, 1.0)
    return jnp.concatenate([signed, 255.0 * jnp.minimum(length / reach, 1.0)], axis=-1)


@dataclasses.dataclass(frozen=True)
class Seen:
    """How frames become pictures of the flow between neighbours."""

    network: Raft
    reach: float

    def init(self, key: Array) -> Params:
        """Return RAFT's initial parameters, which imported ones replace."""
        return self.network.init(stream(key, FLOW))

    def __call__(self, params: Params, video: Shaped[Array, "b t h w 3"]) -> Float[Array, "b p h w 3"]:
        """Return a picture of the flow from each frame to the next, p = t − 1. No gradient flows into RAFT.

        Raises:
          ValueError: if there is only one frame, or RAFT cannot read the frames.
        """
        if video.shape[1] < 2:
            raise ValueError("optical flow needs clips of at least two frames; set config.data.sampler.frames=2")
        with tower(FLOW):
            flow = onward_flow(self.network, jax.lax.stop_gradient(params), video)
        return flow_pictures(flow, self.reach)


@dataclasses.dataclass(frozen=True)
class FlowAutoencoder(Masked):
    """A masked autoencoder of pictures of the flow between the first two frames of a clip."""

    seen: Any = None  # Seen

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return initial parameters, {"encoder": …, "decoder": …, "flow": …}."""
        params, extra = super().init(key, {**batch, "video": batch["video"][:, :1]})
        return {**params, FLOW: self.seen.init(key)}, extra

    def shown(self, params: Params, batch: Batch) -> Batch:
        """Return the batch with a picture of flow in place of each clip."""
        return {**batch, "video": self.seen(params[FLOW], batch["video"][:, :2])}

    def forward(self, params: Params, batch: Batch, context: Context, *, decode_all: bool = False) -> Pass:
        """Compute the flow, and mask, encode and decode it."""
        return super().forward(params, self.shown(params, batch), context, decode_all=decode_all)

    def features(self, params: Params, batch: Batch, *, layer: int | None = None, pool: bool = True) -> Array:
        """Return the encoder's features of the flow."""
        return super().features(params, self.shown(params, batch), layer=layer, pool=pool)


@dataclasses.dataclass(frozen=True)
class TwoStreams:
    """The functions of the classifier, which `build` returns; a stream's parameters are the tower of its name."""

    nets: Mapping[str, Classify]
    seen: Seen

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return initial parameters, {"spatial": …, "temporal": …, "flow": …}."""
        one = {**batch, "video": batch["video"][:, :1]}
        params = {name: net.init(stream(key, name), one)[0] for name, net in self.nets.items()}
        return {**params, FLOW: self.seen.init(key)}, None

    def pictures(self, params: Params, video: Array) -> dict[str, Array]:
        """Return what each stream sees, [b n 1 h w c]: every frame, and the flow from each frame to the next."""
        flow = self.seen(params[FLOW], video)
        return {"spatial": jnp.asarray(video)[:, :, None], "temporal": flow[:, :, None]}

    def logits(self, params: Params, batch: Batch, *, train: bool) -> dict[str, Float[Array, "b n k"]]:
        """Return each stream's outputs for every picture that it sees."""
        found = {}
        for name, shown in self.pictures(params, batch["video"]).items():
            net, (rows, count) = self.nets[name], shown.shape[:2]
            keys = part_keys(stream(row_keys(batch["seed"]), name), count) if train else None
            with tower(name):
                pictures = {"video": shown.reshape(-1, *shown.shape[2:])}
                net.model.check(pictures["video"].shape)
                found[name] = net.run(params[name], net.cubes(pictures), keys).reshape(rows, count, -1)
        return found

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return each stream's cross-entropy, averaged over its pictures, and the accuracy of each and of both."""
        logits, valid = self.logits(params, batch, train=context.train), batch["valid"].astype(jnp.float32)
        [head] = self.nets["spatial"].heads.values()
        target = jnp.where(batch["valid"][:, None], head.target(labels.of_batch(head, batch)), 0.0)
        terms = {}
        for name, out in logits.items():
            error = -(target[:, None] * jax.nn.log_softmax(out)).sum(axis=-1).mean(axis=1)
            terms[name] = Term((error * valid).sum(), valid.sum(), jnp.float32(1.0))
        hits = {f"top1_{name}": one.argmax(-1) == target.argmax(-1) for name, one in scores(logits).items()}
        return Loss(terms, {name: Mean((hit * valid).sum(), valid.sum()) for name, hit in hits.items()})

    def predict(self, params: Params, batch: Batch) -> Float[Array, "b 3k"]:
        """Return the logarithms of the scores of both streams together, of the spatial and of the temporal one."""
        return jnp.log(jnp.concatenate(list(scores(self.logits(params, batch, train=False)).values()), axis=-1))

    def features(self, params: Params, batch: Batch, *, layer: int | None = None, pool: bool = True) -> Array:
        """Return the features of both streams, of all pictures: side by side and averaged, or all tokens."""
        found = []
        for name, shown in self.pictures(params, batch["video"]).items():
            pictures = {"video": shown.reshape(-1, *shown.shape[2:])}
            one = self.nets[name].features(params[name], pictures, layer=layer, pool=pool)
            one = one.reshape(*shown.shape[:2], *one.shape[1:])
            found.append(one.mean(axis=1) if pool else one.reshape(len(one), -1, one.shape[-1]))
        return jnp.concatenate(found, axis=-1 if pool else 1)


def scores(logits: Mapping[str, Float[Array, "b n k"]]) -> dict[str, Float[Array, "b k"]]:
    """Return the mean probabilities of the pictures of each stream, and first of all their mean, "fused"."""
    each = {name: jnp.maximum(jax.nn.softmax(out).mean(axis=1), 1e-30) for name, out in logits.items()}
    return {"fused": jnp.stack(list(each.values())).mean(axis=0), **each}


def _seen(iterations: int, reach: float) -> Seen:
    if iterations < 1 or not 0 < reach < math.inf:
        raise ValueError(f"iterations={iterations}, reach={reach}: at least 1, and a number of pixels above 0")
    return Seen(Raft(iterations), reach)


@register("method", model="model", mask="mask", objectives="objective", smoke={"iterations": 1})
def pretrain(
    model: Model, mask: Masker, objectives: Mapping[str, Objective], iterations: int = 6, reach: float = 20.0
) -> Method:
    """Return a masked autoencoder of optical flow, as a method that reads clips of two frames.

    Args:
      model: encoder and decoder of single pictures, `models.variants.vit(frames=1, tubelet=1, …)`.
      mask: of the encoder.
      objectives: what is predicted, by name.
      iterations: the corrections of RAFT's flow.
      reach: pixels of flow that are shown as black and white.

    Raises:
      ValueError: if the mask does not fit the grid of the model, there is nothing to predict, or a number is out of
        range.
    """
    if not objectives:
        raise ValueError("objectives is empty: name at least one, such as pixels=call('targets.core.objective', …)")
    mask.keep(model.grid)  # fails now if the grid does not suit the mask
    one = FlowAutoencoder(model, mask, None, dict(objectives), seen=_seen(iterations, reach))
    needed = supervision((mask,), objectives.values())
    return one.method()._replace(frame_features=None, supervision=needed)


@register("method", spatial="model", temporal="model", smoke={"iterations": 1})
def build(
    spatial: Model,
    temporal: Model,
    dropout: float = 0.0,
    init_scale: float = 0.001,
    iterations: int = 6,
    reach: float = 20.0,
) -> Method:
    """Return the classifier of real and forged videos, as a method that reads clips of two frames or more.

    Its heads are "fused", "spatial" and "temporal", so an evaluation has the metrics of the mean score and of each
    stream. The classes are 0, real, and 1, forged.

    Args:
      spatial, temporal: the networks of frames and of flow, both of single pictures; only the encoders are used.
      dropout: the rate before the heads.
      init_scale: a factor on the initial kernels of the heads.
      iterations, reach: of the flow, as in `pretrain`.

    Raises:
      ValueError: if a number is out of range.
    """
    nets = {
        name: classifier(model, 2, dropout, init_scale)
        for name, model in zip(STREAMS, (spatial, temporal), strict=True)
    }
    one = TwoStreams(nets, _seen(iterations, reach))
    heads = {name: labels.one(2) for name in ("fused", *STREAMS)}
    return Method(
        init=one.init,
        loss=one.loss,
        features=one.features,
        predict=one.predict,
        check=functools.partial(labels.check, heads),
        heads=heads,
        supervision=("label",),
    )
