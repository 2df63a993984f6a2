"""A small method with everything the step has to cope with, for the tests of this folder.

Parameters in boxes and stacked by scan, a draw of its own for each row, two terms whose counts
depend on the rows, weights that vary with the step, and a carry with rows and a mean.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vmae_jax.models.parameters import FIRST_LAYER, declare
from vmae_jax.train import schedule
from vmae_jax.train.adamw import Transformation, global_norm
from vmae_jax.train.optim import adamw
from vmae_jax.train.schedule import Clock
from vmae_jax.types import Batch, Context, Loss, Mean, Method, Term, row_keys, stream

WIDTH, HIDDEN, INPUT, DEPTH = 8, 12, 6, 3
CLOCK = Clock(steps=50, steps_per_epoch=10.0, global_batch=16)


class Dense(nn.Module):
    features: int
    names: tuple[str, str]
    layer: int | None = None

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.normal(0.3)
        made = declare(init, *self.names, decay=True, layer=self.layer)
        kernel = self.param("kernel", made, (x.shape[-1], self.features))
        made = declare(nn.initializers.zeros, self.names[1], decay=False, layer=self.layer)
        return x @ kernel + self.param("bias", made, (self.features,))


class Block(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x, keys):
        y = nn.gelu(Dense(self.hidden, ("embed", "mlp"), name="fc1")(x))
        y = nn.with_logical_constraint(y, ("batch", "mlp"))
        y = Dense(x.shape[-1], ("mlp", "embed"), name="fc2")(y)
        kept = jax.vmap(lambda key: jax.random.uniform(key) >= 0.3)(keys)
        return x + y * kept[:, None], None


class Encoder(nn.Module):
    hidden: int = HIDDEN

    @nn.compact
    def __call__(self, x, keys):
        x = Dense(WIDTH, ("cube", "embed"), layer=0, name="embed")(x)
        blocks = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=DEPTH,
            metadata_params={nn.PARTITION_NAME: "layers", FIRST_LAYER: 1},
        )
        return blocks(self.hidden, name="blocks")(x, keys)[0]


class Toy(nn.Module):
    hidden: int = HIDDEN

    def setup(self):
        self.encoder = Encoder(self.hidden)
        self.head = Dense(4, ("embed", "classes"))

    def __call__(self, x, keys):
        encoded = self.encoder(x, keys)
        return encoded, self.head(encoded)


def toy(hidden: int = HIDDEN, group: int | None = 1) -> Method:
    network = Toy(hidden)

    def run(params, batch):
        return network.apply({"params": params}, batch["x"], stream(row_keys(batch["seed"]), "drop_path"))

    def init(key, batch):
        params = network.init(key, batch["x"], stream(row_keys(batch["seed"]), "drop_path"))["params"]
        return params, {"seen": jnp.float32(0), "last": jnp.zeros(batch["x"].shape[0])}

    def loss(params: Any, batch: Batch, context: Context) -> Loss:
        encoded, out = run(params, batch)
        weight = jax.vmap(lambda key: jax.random.bernoulli(key, 0.6))(stream(row_keys(batch["seed"]), "mask"))
        weight = weight * batch["valid"]
        error = jnp.square(out - batch["y"]).mean(-1)
        size = jnp.abs(encoded).mean(-1)
        terms = {
            "error": Term((error * weight).sum(), weight.sum()),
            "size": Term((size * ~weight).sum(), (~weight).sum(), 0.1 + 0.01 * context.step),
        }
        metrics = {"power": Mean(jnp.square(out).sum(), jnp.float32(out.size))}
        carry = {"rows": batch["x"][:, 0], "mean": Mean(batch["x"].sum(), jnp.float32(batch["x"].shape[0]))}
        return Loss(terms, metrics, carry)

    def advance(extra, params, carry, context):
        del params, context
        return {"seen": extra["seen"] + carry["mean"].total / carry["mean"].count, "last": carry["rows"]}

    def features(params, batch, *, layer=None, pool=True):
        del layer, pool
        return run(params, batch)[0]

    return Method(init, loss, features, advance=advance, group=group)


def toy_batch(rows: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "seed": rng.integers(0, 2**32, (rows, 2), dtype=np.uint32),
        "index": np.arange(rows, dtype=np.int32),
        "valid": np.arange(rows) != 3,
        "x": rng.normal(size=(rows, INPUT)).astype(np.float32),
        "y": rng.normal(size=(rows, 4)).astype(np.float32),
    }


def spec_of(batch: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch)


def toy_tx(method: Method, batch: Any, **options: Any) -> Any:
    abstract_params, _ = jax.eval_shape(method.init, jax.random.key(0), batch)
    optimizer = adamw(options.pop("schedule", schedule.constant(1e-2)), **options)
    return optimizer.build(abstract_params, CLOCK)[0]


def remember() -> Transformation:
    """An optimizer that moves nothing and keeps the gradients themselves as its state."""
    return Transformation(
        init=lambda params: jax.tree.map(jnp.zeros_like, params),
        norm=global_norm,
        rate=lambda state: jnp.float32(0),
        update=lambda grads, state, params, norm, good: (params, grads),
    )
