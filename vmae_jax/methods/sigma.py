"""SIGMA (Salehi et al. 2024): masked prediction of features that are learned together, compared by their clusters.

A small network embeds the hidden cubes, and the masked autoencoder predicts these embeddings. Both are assigned to
learned prototypes, and each has to predict the assignment of the other. Optimal transport makes all prototypes be used
alike (`methods.sinkhorn`), so the networks cannot agree on a constant.

    build(model=vit("B"), encoder_mask=tube(0.9))
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Float

from vmae_jax.masking.core import Masker
from vmae_jax.methods import teachers
from vmae_jax.methods.embeddings import spread
from vmae_jax.methods.masked import Masked, supervision
from vmae_jax.methods.sinkhorn import balance
from vmae_jax.models.functions import gelu
from vmae_jax.models.layers import Dense, LayerNorm
from vmae_jax.models.parameters import declare
from vmae_jax.models.variants import Model
from vmae_jax.patches import gather
from vmae_jax.registry import register
from vmae_jax.scopes import tower
from vmae_jax.spec import ConfigError
from vmae_jax.targets.core import Objective, Target
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Batch, Context, Loss, Mean, Method, Params, Term, stream
from vmae_jax.vectors import unit

__all__ = ["Clustering", "build", "standardized"]

WIDTHS = (1024, 1024, 512, 256)
EPSILON = 1e-6  # added to the deviation of a teacher's channel


class Projection(nn.Module):
    """Linear layers with GELU between them, which embed the values of hidden cubes.

    Attributes:
      widths: of the layers' outputs.
      dtype: of the matrix products.
    """

    widths: Sequence[int]
    dtype: Any = jnp.float32

    @nn.compact
    @tower("projection")
    def __call__(self, x: Float[Array, "b k p"]) -> Float[Array, "b k e"]:
        for number, width in enumerate(self.widths):
            x = gelu(x) if number else x
            x = Dense(width, ("embed", None), dtype=self.dtype, name=f"layer_{number}")(x)
        return x


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clustering(Masked):
    """The functions of the method, which `build` returns; the attributes are its arguments."""

    widths: tuple[int, ...]
    teacher: Model | None
    prototypes: int
    epsilon: float
    iterations: int
    temperature: float
    hard: bool

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return initial parameters, {"encoder", "decoder", "prototypes", "projection"}, with partitioning boxes.

        With a teacher there is no projection.
        """
        params, extra = super().init(key, batch)
        init = declare(initializers.normal(self._size**-0.5), "classes", None, decay=True)
        params["prototypes"] = init(stream(key, "prototypes"), (self.prototypes, self._size), jnp.float32)
        if self.teacher is None:
            # As many values as the target has at one token.
            one = lambda batch: self._values(batch, jnp.zeros((batch["video"].shape[0], 1), jnp.int32))  # noqa: E731
            given = jax.eval_shape(one, dict(batch))
            values = jnp.zeros((1, 1, given.shape[-1]))
            params["projection"] = self._projection.init(stream(key, "projection"), values)["params"]
        return params, extra

    def frozen(self, key: Array, batch: Batch) -> Params:
        """Return initial parameters of the teacher, {"teacher": …}, which `init_from` replaces."""
        del batch
        assert self.teacher is not None
        return {"teacher": teachers.initial(self.teacher, stream(key, "teacher"))}

    def embedded(self, params: Params, batch: Batch, places: Array, context: Context) -> Float[Array, "b k e"]:
        """Return what is to be predicted at some tokens: their embeddings, or the standardised features of a teacher.

        Raises:
          ConfigError: if there are no parameters of the teacher.
        """
        if self.teacher is None:
            with jax.named_scope("targets"):
                values = jax.lax.stop_gradient(self._values(batch, places))
            return jnp.asarray(self._projection.apply({"params": params["projection"]}, values))
        if not context.frozen or "teacher" not in context.frozen:
            raise ConfigError("the loss of SIGMA needs its teacher; use an evaluator of features instead")
        weights = context.frozen["teacher"]
        tokens = teachers.seen(self.teacher, weights, batch, self.model, levels=1).levels[0]
        norm = LayerNorm(jnp.float32, self.teacher.encoder.style.epsilon)
        features = jnp.asarray(norm.apply({"params": weights["norm"]}, tokens))
        return jax.lax.stop_gradient(gather(standardized(features), places))

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return the directions of predictions and targets, for `compare`; no term is of one clip alone."""
        done = self.forward(params, batch, context)
        target = self.embedded(params, done.batch, done.masks.decode, context)
        weight = done.masks.weight * done.batch["valid"][:, None]
        return Loss(
            {}, rows={"predicted": unit(done.predictions["features"]), "target": unit(target), "weight": weight}
        )

    def compare(self, params: Params, rows: Any, context: Context) -> Loss:
        """Return how badly targets and predictions predict the clusters of each other, over the whole global batch.

        Prototypes learn from the term "target" alone.

        Metrics: `target_std` and `target_rank`, of the targets' directions before they are assigned: times the root of
        their dimensions, the deviation is 1 if they point everywhere; `entropy` of the targets' softmax, as a share of
        the largest possible one; `used`, the share of prototypes to which a prediction is assigned; and `agreement`,
        how often both assignments are the same.
        """
        del context
        target, predicted, weight = rows["target"], rows["predicted"], rows["weight"]
        prototypes = unit(params["prototypes"])
        of_target = self._scores(target, prototypes)
        of_predicted = self._scores(predicted, jax.lax.stop_gradient(prototypes))
        assigned = [balance(scores, weight, self.epsilon, self.iterations) for scores in (of_target, of_predicted)]
        count = weight.sum()
        errors = {"target": self._error(of_target, assigned[1]), "prediction": self._error(of_predicted, assigned[0])}
        terms = {name: Term(jnp.where(weight > 0, e * weight, 0.0).sum(), count) for name, e in errors.items()}
        std, rank = spread(target.reshape(-1, self._size) * math.sqrt(self._size), weight.reshape(-1))
        share = jax.nn.softmax(jax.lax.stop_gradient(of_target) / self.temperature)
        entropy = jax.scipy.special.entr(share).sum(axis=-1) / math.log(self.prototypes)
        first, second = (one.argmax(axis=-1) for one in assigned)
        used = jnp.zeros(self.prototypes).at[second.reshape(-1)].max((weight > 0).astype(jnp.float32).reshape(-1))
        metrics = {"target_std": std, "target_rank": rank, "entropy": Mean((entropy * weight).sum(), count)}
        metrics["used"] = Mean(used.mean(), jnp.float32(1.0))
        return Loss(terms, metrics | {"agreement": Mean(((first == second) * weight).sum(), count)})

    def method(self) -> Method:
        """Return these functions as a method."""
        return Method(
            init=self.init,
            loss=self.loss,
            global_loss=self.compare,
            features=self.features,
            frame_features=self.frame_features,
            frozen=None if self.teacher is None else self.frozen,
            check_first=super().method().check_first,
            supervision=supervision((self.encoder_mask, self.decoder_mask), self.objectives.values()),
        )

    def _scores(self, x: Float[Array, "b k e"], prototypes: Float[Array, "c e"]) -> Float[Array, "b k c"]:
        """The cosines, with products in the model's dtype and sums in float32."""
        dtype = self.model.encoder.dtype
        return _products(x.astype(dtype), prototypes.astype(dtype))

    def _error(self, scores: Float[Array, "b k c"], assigned: Float[Array, "b k c"]) -> Float[Array, "b k"]:
        """The cross-entropy of predicting assignments, given as logits."""
        logits = scores / self.temperature
        if self.hard:
            right = jnp.take_along_axis(logits, assigned.argmax(axis=-1)[..., None], axis=-1)[..., 0]
        else:
            right = (logits * jax.nn.softmax(assigned)).sum(axis=-1)
        return jax.nn.logsumexp(logits, axis=-1) - right

    def _values(self, batch: Batch, places: Array) -> Float[Array, "b k p"]:
        return next(iter(self.objectives.values())).target(batch, places, self.model.patch)

    @property
    def _size(self) -> int:
        return self.widths[-1] if self.teacher is None else self.teacher.encoder.width

    @property
    def _projection(self) -> Projection:
        return Projection(self.widths, self.model.encoder.dtype)

    def _drawable(self) -> None:
        return None

    def _decoder(self, batch: Batch) -> Any:
        del batch
        return self._make_decoder({"features": self._size})


@jax.custom_vjp
def _products(x: Float[Array, "b k e"], y: Float[Array, "c e"]) -> Float[Array, "b k c"]:
    """The products of all rows, float32; their gradients, too, are products in the dtype of x and y."""
    return _product("bke,ce->bkc", x, y)


def _products_backward(kept: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, y = kept
    grad = grad.astype(x.dtype)
    return _product("bkc,ce->bke", grad, y).astype(x.dtype), _product("bkc,bke->ce", grad, x).astype(y.dtype)


def _product(text: str, *given: Array) -> Array:
    return jnp.einsum(text, *given, precision="highest", preferred_element_type=jnp.float32)


_products.defvjp(lambda x, y: (_products(x, y), (x, y)), _products_backward)


def standardized(tokens: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """Return features with mean 0 and deviation 1 (unbiased) of each channel over the tokens of a clip."""
    deviation = tokens.std(axis=1, keepdims=True, ddof=1)
    return (tokens - tokens.mean(axis=1, keepdims=True)) / (deviation + EPSILON)


def _smoke(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"widths": None if given.get("teacher") else [16, 8], "prototypes": 8}


@register(
    "method", model="model", encoder_mask="mask", decoder_mask="mask", target="target", teacher="model", smoke=_smoke
)
def build(
    model: Model,
    encoder_mask: Masker,
    decoder_mask: Masker | None = None,
    target: Target | None = None,
    widths: Sequence[int] | None = None,
    teacher: Model | None = None,
    prototypes: int = 3000,
    epsilon: float = 0.05,
    iterations: int = 10,
    temperature: float = 0.1,
    hard: bool = True,
) -> Method:
    """Return masked prediction of clusters as a method.

    Args:
      model: encoder and decoder, `models.variants.vit`.
      encoder_mask: which tokens the encoder sees.
      decoder_mask: which tokens are predicted; None: all hidden ones. Fewer need less memory, which is that of two
        scores of each predicted token for each prototype.
      target: what is embedded of the hidden tokens; by default normalised pixels.
      widths: of the layers of the network that embeds it; by default 1,024, 1,024, 512 and 256.
      teacher: a frozen encoder, `frozen/teacher`, whose features take the place of the embeddings (DINO). It sees the
        first frame of each tubelet, or the student's clips. `target` and `widths` are then left open.
      prototypes: the number of clusters; a global batch should predict many more tokens.
      epsilon, iterations: of the transport (`methods.sinkhorn`).
      temperature: by which cosines are divided before the cross-entropy.
      hard: whether the cross-entropy is with the most likely cluster (the code), or with all (the paper).

    Raises:
      ValueError: if a mask or the teacher does not fit the model, the target is not known everywhere, or a number is
        out of range.
    """
    if teacher is not None:
        if target is not None or widths is not None:
            raise ValueError("target and widths are of the network that embeds cubes; a teacher takes its place")
        teachers.check("teacher", teacher, model)
    sizes = tuple(WIDTHS if widths is None else widths)
    if hasattr(target, "counted"):
        raise ValueError("target: one that is not known at every token cannot be assigned to clusters")
    if not sizes or min(sizes) < 1 or prototypes < 2 or iterations < 1 or min(epsilon, temperature) <= 0:
        raise ValueError(
            f"widths={list(sizes)}, prototypes={prototypes}, iterations={iterations}, epsilon={epsilon}, "
            f"temperature={temperature}: at least one width of at least 1; at least 2; at least 1; above 0; above 0"
        )
    for mask in (encoder_mask, decoder_mask):
        if mask is not None:
            mask.keep(model.grid)
    objectives = {} if teacher is not None else {"target": Objective(target or pixels())}
    return Clustering(
        model=model,
        encoder_mask=encoder_mask,
        decoder_mask=decoder_mask,
        objectives=objectives,
        widths=sizes,
        teacher=teacher,
        prototypes=prototypes,
        epsilon=float(epsilon),
        iterations=iterations,
        temperature=float(temperature),
        hard=hard,
    ).method()
