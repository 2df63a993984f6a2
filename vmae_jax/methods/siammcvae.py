"""SiamMCVAE (Zhou & Jiang 2024): a damaged frame is restored from an intact one beside it.

One network encodes both frames. The decoder gets each token of the damaged frame together with the intact frame's token
of the same place, and a latent variable for what neither of them determines. In training its distribution is inferred
from the undamaged frame, and is kept near one that follows from what is visible, which is used everywhere else.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vmae_jax.masking.core import Masker
from vmae_jax.methods.masked import Pass
from vmae_jax.methods.siamese import Pairs, views
from vmae_jax.models.classifier import everything
from vmae_jax.models.variants import Model
from vmae_jax.models.variational import FUSIONS, PRIORS, Restored, VariationalDecoder, divergence
from vmae_jax.registry import register
from vmae_jax.targets.core import Objective
from vmae_jax.types import Batch, Context, Loss, Mean, Method, Params, Pictures, Term, row_keys, stream

__all__ = ["Variational", "build"]


@dataclasses.dataclass(frozen=True)
class Variational(Pairs):
    """The functions of SiamMCVAE.

    Attributes:
      latent, prior, fusion: of the decoder (`models.variational.VariationalDecoder`).
      weight, warmup, free_nats: as in `build`.
      draws: whether the latent variable is drawn where it follows the prior; otherwise it is the mean.
    """

    latent: int = 64
    prior: str = "learned"
    fusion: str = "concat"
    weight: float = 1e-3
    warmup: float = 0.1
    free_nats: float = 0.1
    draws: bool = False

    def restored(
        self, params: Params, batch: Batch, context: Context, *, infer: bool, decode_all: bool = False
    ) -> tuple[Pass, Restored]:
        """Encode and restore the second views.

        Args:
          infer: whether the posterior is computed, which reads all pixels of the second views. In training the latent
            variable is drawn from it.
          decode_all: predict all hidden tokens instead of those of the decoder's mask.
        """
        self.model.check(batch["video"].shape)
        first, second = views(batch)
        masks = self.plan(second, decode_all=decode_all)
        n = self.model.grid.size
        whole = None
        if infer:
            both = self.encode(params, batch, everything(len(batch["video"]), n), train=context.train)
            reference, whole = both[::2], both[1::2]
        else:
            reference = self.encode(params, first, everything(len(first["video"]), n), train=context.train)
        encoded = self.encode(params, second, masks, train=context.train)
        train, noise = infer and context.train, None
        if train or self.draws:
            keys = stream(row_keys(second["seed"]), "latent")
            noise = jax.vmap(lambda key: jax.random.normal(key, (n, self.latent)))(keys)
        decoder, weights = self._decoder(second), {"params": params["decoder"]}
        found: Restored = decoder.apply(weights, encoded, masks, reference, whole, noise, infer=train)
        return Pass(second, masks, encoded, found.predictions), found

    def forward(self, params: Params, batch: Batch, context: Context, *, decode_all: bool = False) -> Pass:
        """Restore the second views from what is visible; no hidden pixel is read."""
        return self.restored(params, batch, context, infer=False, decode_all=decode_all)[0]

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return the error of each objective and the divergence of posterior and prior; a metric is that per token.

        Outside of training the predictions are those of the prior's mean.
        """
        done, found = self.restored(params, batch, context, infer=True)
        assert found.posterior is not None
        nats = divergence(found.posterior, found.prior)
        valid = jnp.broadcast_to(jnp.asarray(done.batch["valid"], jnp.float32)[:, None], nats.shape)
        weight = jnp.float32(self.weight)
        if context.progress is not None and self.warmup:
            weight = weight * jnp.minimum(context.progress / self.warmup, 1.0)
        term = Term((jnp.maximum(nats, self.free_nats) * valid).sum(), valid.sum(), weight)
        return Loss(self.terms(done) | {"divergence": term}, {"kl": Mean((nats * valid).sum(), valid.sum())})

    def reconstruct(self, params: Params, batch: Batch, context: Context, *, mask: Masker | None = None) -> Pictures:
        """See `Pairs.reconstruct`; a further row has one draw of the latent variable in place of its mean."""
        pictures = super().reconstruct(params, batch, context, mask=mask)
        if self.draws:
            return pictures
        drawn = dataclasses.replace(self, draws=True).reconstruct(params, batch, context, mask=mask)
        return Pictures.of(pictures.rows | {"sampled": drawn.videos[-1]}, pictures.borrowed)

    def _make_decoder(self, heads: Mapping[str, int]) -> Any:
        options = {"latent": self.latent, "prior": self.prior, "fusion": self.fusion}
        return VariationalDecoder(**self.model.decoder, heads=dict(heads), **options)


@register("method", model="model", encoder_mask="mask", objectives="objective", smoke={"latent": 8})
def build(
    model: Model,
    encoder_mask: Masker,
    objectives: Mapping[str, Objective],
    latent: int = 64,
    prior: str = "learned",
    fusion: str = "concat",
    weight: float = 1e-3,
    warmup: float = 0.1,
    free_nats: float = 0.1,
) -> Method:
    """Return SiamMCVAE as a method.

    The loader's sampler gives two views of each video, such as `data.clips.pair`. The first is seen whole; the second
    is restored.

    Args:
      model: the networks, `models.variants.vit`; a class token passes to the decoder (decoder_prefix="kept").
      encoder_mask: which tokens of the second view are intact.
      objectives: what is predicted of the second view, by name. Restoration needs raw pixels, since the statistics of
        hidden patches are not known.
      latent: dimensions of the latent variable of a token.
      prior: its distribution given what is visible: "learned", or "normal", the standard normal distribution.
      fusion: how the decoder's tokens take up the first view: "concat", each with the token of its place; "attention",
        each by attention to all.
      weight: of the divergence of posterior and prior, in nats a token.
      warmup: the share of the run over which this weight grows linearly from 0.
      free_nats: divergences of a token below this cost as much as this, so that the posterior can hold something.

    Raises:
      ValueError: if a number is out of range, the model does not pass its class token to the decoder, or a mask does
        not fit its grid.
    """
    if not objectives:
        raise ValueError("objectives is empty: name at least one, such as pixels=call('targets.core.objective', …)")
    if latent < 1 or weight < 0 or free_nats < 0 or not 0 <= warmup <= 1:
        raise ValueError(
            f"latent={latent}, weight={weight}, free_nats={free_nats}, warmup={warmup}: at least 1; at least 0; at "
            "least 0; in [0, 1]"
        )
    for name, value, known in (("prior", prior, PRIORS), ("fusion", fusion, FUSIONS)):
        if value not in known:
            raise ValueError(f"{name}={value!r}: expected one of {', '.join(known)}")
    if model.encoder.prefix and not model.decoder["keep_prefix"]:
        raise ValueError('model: the decoder reads the class tokens of both views: set decoder_prefix="kept"')
    encoder_mask.keep(model.grid)
    options = {"latent": latent, "prior": prior, "fusion": fusion}
    options |= {"weight": weight, "warmup": warmup, "free_nats": free_nats}
    return Variational(model, encoder_mask, None, dict(objectives), **options).method()
