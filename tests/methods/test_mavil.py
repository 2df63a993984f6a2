"""MAViL: contrast of two views pair by pair, and prediction of what a frozen teacher makes of everything."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from sounds import MODELS, heard, modalities

from vmae_jax.commands.config import load_config
from vmae_jax.masking.random import random
from vmae_jax.methods import joint
from vmae_jax.methods.parts.nce import nce
from vmae_jax.methods.parts.regress import regress
from vmae_jax.models.fusion import joint as joint_layers
from vmae_jax.spec import ConfigError, build
from vmae_jax.types import Context

pytestmark = pytest.mark.slow

CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=True)
PAIRS = {"inter": ("audio", "video"), "audio_views": ("audio", "audio"), "video_views": ("video", "video")}
TAUGHT = joint.Joint(
    modalities(),
    {"regress": regress(), **{name: nce(*pair, paired=True) for name, pair in PAIRS.items()}},
    joint_layers(1),
)
METHOD = TAUGHT.method()


@functools.cache
def begun():
    """Random parameters of the student and of the teacher; initial ones would have to be compiled."""
    given, rng = heard(8), np.random.default_rng(3)
    key = jax.random.key(0)
    shapes = meta.unbox(jax.eval_shape(lambda: (METHOD.init(key, given)[0], METHOD.frozen(key, given))))
    values = lambda leaf: rng.normal(0, leaf.shape[-2] ** -0.5 if leaf.ndim > 1 else 0.2, leaf.shape)  # noqa: E731
    return jax.tree.map(lambda leaf: jnp.asarray(values(leaf), jnp.float32), shapes)


@jax.jit
def run(params, frozen, batch):
    """The terms, their gradients, and what the teacher and the student make of a batch."""

    def total(params, frozen):
        loss = METHOD.total_loss(params, batch, CONTEXT.replace(frozen=frozen))
        terms = {name: term.total / term.count for name, term in loss.terms.items()}
        return sum(terms.values()), terms

    (_, terms), grads = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(params, frozen)
    whole = TAUGHT.seen(frozen["teacher"], batch, train=False, whole=True)
    seen = TAUGHT.seen(params, batch, train=True)
    found = {
        name: one.model.make_decoder({"features": 32}).apply(
            {"params": params["regress"][name]}, seen[name].fused, seen[name].masks
        )["features"]
        for name, one in TAUGHT.networks.items()
    }
    tokens = {name: one.fused for name, one in whole.items()}
    return terms, grads, tokens, found, {name: one.masks.decode for name, one in seen.items()}


def changed(batch):
    """The same clips with darker pictures."""
    return {**batch, "video": batch["video"] // 2}


def test_the_target_is_what_the_teacher_makes_of_everything_and_the_teacher_gets_no_gradient():
    params, frozen = begun()
    terms, (grads, of_teacher), tokens, found, hidden = run(params, frozen, heard(8))
    assert terms.keys() == {"video_features", "audio_features", *PAIRS}
    for name, whole in tokens.items():
        assert whole.shape[1] == MODELS[name].grid.size
        target = np.take_along_axis(np.asarray(whole), np.asarray(hidden[name])[..., None], axis=1)
        target = (target - target.mean(-1, keepdims=True)) / np.sqrt(target.var(-1, keepdims=True) + 1e-5)
        wanted = np.square(found[name] - target).mean()
        assert float(terms[f"{name}_features"]) == pytest.approx(wanted, rel=1e-4), name
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_teacher))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads["regress"]))
    other = jax.tree.map(lambda leaf: leaf * 1.5, frozen)
    assert float(run(params, other, heard(8))[0]["audio_features"]) != float(terms["audio_features"])


def test_pictures_reach_the_sound_only_by_fusion():
    params, frozen = begun()
    first, second = (run(params, frozen, one)[0]["audio_features"] for one in (heard(8), changed(heard(8))))
    assert float(first) != float(second)
    apart = joint.build(modalities(), {"regress": regress()})

    @jax.jit
    def alone(batch):
        return apart.loss(params, batch, CONTEXT.replace(frozen=frozen)).terms["audio_features"].total

    assert float(alone(heard(8))) == float(alone(changed(heard(8)))) > 0


def test_contrast_begins_near_the_logarithm_of_the_number_of_videos():
    """Four videos of two views each."""
    assert (METHOD.views, METHOD.group) == (2, 2)
    terms = run(*begun(), heard(8))[0]
    for name in PAIRS:
        assert float(terms[name]) == pytest.approx(math.log(4), abs=0.25), name


def test_pairs_are_found_among_one_view_of_each_video():
    rng = np.random.default_rng(2)
    valid = np.array([1, 1, 1, 0, 1, 1, 1, 1], bool)
    rows = {name: rng.normal(size=(8, 5)).astype(np.float32) for name in ("audio", "video")}
    unit = {name: x / np.linalg.norm(x, axis=1, keepdims=True) for name, x in rows.items()}

    def wanted(first, second, there):
        """Both directions, of the videos that have both."""
        logits = first[there] @ second[there].T / 0.5
        shares = [np.diag(one) - np.log(np.exp(one).sum(axis=1)) for one in (logits, logits.T)]
        return -(shares[0] + shares[1]).sum() / 2

    def found(first, second, rows):
        part = nce(first, second, temperature=0.5, paired=True)
        term = part.compare({}, {**rows, "": jnp.asarray(valid)}, None, CONTEXT).terms["nce"]
        return float(term.total), float(term.count)

    views = {name: x.reshape(4, 2, 5) for name, x in unit.items()}
    there = valid.reshape(4, 2)
    inter = sum(wanted(views["audio"][:, at], views["video"][:, at], there[:, at]) for at in (0, 1))
    assert found("audio", "video", rows) == (pytest.approx(inter, rel=1e-4), 7)
    intra = 2 * wanted(views["audio"][:, 0], views["audio"][:, 1], there.all(axis=1))
    assert found("audio", "audio", rows) == (pytest.approx(intra, rel=1e-4), 6)
    right, wrong = (found("audio", "video", {**rows, "video": np.roll(rows["audio"], by, 0)})[0] for by in (0, 2))
    assert right < wrong  # sound that belongs to another video


def test_counts_of_tokens_and_weights():
    config = load_config("configs/mavil.py:B,audioset", [("data.source.path", "videos")])
    for name, wanted in {"video": (784, 156), "audio": (512, 102)}.items():
        one = build(config.method.modalities[name], "modality")
        assert (one.model.grid.size, one.mask.keep(one.model.grid)) == wanted
    parts = {name: (one.weight, one.temperature) for name, one in config.method.parts.items() if name != "reconstruct"}
    assert parts == {"inter": (0.1, 0.1), "audio_views": (0.005, 1.0), "video_views": (0.005, 1.0)}


def test_what_is_refused():
    with pytest.raises(ValueError, match="modality 'audio' needs a mask"):
        joint.build({"audio": modalities()["audio"]._replace(mask=None)}, {"regress": regress()})
    with pytest.raises(ValueError, match="weight=-1"):
        regress(weight=-1)
    with pytest.raises(ConfigError, match="needs its frozen teacher"):
        jax.eval_shape(lambda: METHOD.loss(begun()[0], heard(8), CONTEXT))
    with pytest.raises(ConfigError, match="teacher= is for student"):
        load_config("configs/mavil.py:B,audioset,teacher=runs/first")
    joint.build({"audio": modalities("audio")["audio"]._replace(mask=random(0.5), objectives={})}, {"r": regress()})
