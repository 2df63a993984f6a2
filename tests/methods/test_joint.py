"""Multimodal masked autoencoding: one modality is methods.masked; silence and padding count for nothing; contrast."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from sounds import FORM, MODELS, SAMPLES, heard, modalities

from vmae_jax.commands.config import load_config
from vmae_jax.inputs.log_mel import kaldi
from vmae_jax.inputs.readers import Share, sound, video
from vmae_jax.masking.random import random
from vmae_jax.methods import joint, masked
from vmae_jax.methods.parts.nce import nce, symmetric
from vmae_jax.methods.parts.pull import pull
from vmae_jax.methods.parts.reconstruct import reconstruct
from vmae_jax.models.fusion import bottleneck
from vmae_jax.models.fusion import joint as joint_layers
from vmae_jax.spec import ConfigError, build
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Context

CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=True)
FUSED = joint.build(
    modalities(),
    {"reconstruct": reconstruct(shared=True), "nce": nce("audio", "video", learned=True, widths=[16, 8], weight=0.1)},
    joint_layers(1),
)


def started(method, batch):
    params = meta.unbox(jax.eval_shape(lambda: method.init(jax.random.key(0), batch)[0]))
    rng = np.random.default_rng(3)
    values = lambda leaf: rng.normal(0, leaf.shape[-2] ** -0.5 if leaf.ndim > 1 else 0.2, leaf.shape)  # noqa: E731
    return jax.tree.map(lambda leaf: jnp.asarray(values(leaf), jnp.float32), params)


PARAMS = started(FUSED, heard())


@jax.jit
def run(params, batch):
    """Loss, gradients, and terms of the fused method."""

    def objective(params):
        loss = FUSED.total_loss(params, batch, CONTEXT)
        ratio = lambda term: term.total / jnp.maximum(term.count, 1)  # noqa: E731
        terms = {name: ratio(term) for name, term in loss.terms.items()}
        return sum(loss.terms[name].weight * value for name, value in terms.items()), (terms, loss.metrics)

    (value, found), grads = jax.value_and_grad(objective, has_aux=True)(params)
    return value, grads, found


def test_one_modality_is_the_masked_autoencoder_to_the_bit():
    alone = masked.build(MODELS["video"], random(0.5), {"pixels": objective(pixels())})
    method = joint.build(modalities("video"), {"reconstruct": reconstruct()})
    batch = heard()

    def both(batch):
        key = jax.random.key(7)
        params, (own, _) = meta.unbox(jax.jit(alone.init)(key, batch)[0]), meta.unbox(jax.jit(method.init)(key, batch))
        value = jax.value_and_grad(lambda p: alone.loss(p, batch, CONTEXT).terms["pixels"].total)
        other = jax.value_and_grad(lambda p: method.loss(p, batch, CONTEXT).terms["video_pixels"].total)
        return (params["encoder"], params["decoder"], value(params)), (own, other(own))

    (encoder, decoder, (loss, grads)), (own, (joint_loss, joint_grads)) = jax.jit(both)(batch)
    for ours, theirs in ((own, (encoder, decoder)), (joint_grads, (grads["encoder"], grads["decoder"]))):
        assert ours.keys() == {"video", "reconstruct"}
        pair = (ours["video"], ours["reconstruct"]["video"])
        jax.tree.map(np.testing.assert_array_equal, pair, theirs)
    assert float(loss) == float(joint_loss) > 0


def test_clips_without_sound_count_for_video_alone():
    batch = heard()
    _, _, (terms, metrics) = run(PARAMS, batch)
    assert terms.keys() == {"video_pixels", "audio_log_mel", "nce"}
    assert all(np.isfinite(float(one)) for one in terms.values())
    assert metrics.keys() == {"nce_accuracy", "nce_temperature"}
    deaf = {**batch, "audio_valid": np.array([True, False, True, True])}
    silent = {**batch, "audio": batch["audio"] * np.array([1, 0, 1, 1], np.int16)[:, None]}
    other = {**deaf, "audio": np.where(np.arange(4)[:, None] == 1, 77, batch["audio"]).astype(np.int16)}
    first, *rest = (run(PARAMS, one) for one in (deaf, silent, other))
    assert float(first[2][0]["audio_log_mel"]) != float(terms["audio_log_mel"])
    for one in rest:  # what a track without sound holds changes nothing
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, first)
    nothing = run(PARAMS, {**batch, "audio_valid": np.zeros(4, bool)})
    assert float(nothing[2][0]["audio_log_mel"]) == float(nothing[2][0]["nce"]) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nothing[1]))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(nothing[1]["audio"]))


def test_padding_is_neither_attended_to_nor_predicted():
    span = np.tile(np.array([0, 8 * FORM.hop], np.int32), (4, 1))
    batch = heard(audio_span=span)
    noise = batch["audio"].copy()
    noise[:, 7 * FORM.hop + FORM.window :] = 1234
    assert noise.shape[1] == SAMPLES
    found, other = run(PARAMS, batch), run(PARAMS, {**batch, "audio": noise})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, other)
    assert float(found[0]) != float(run(PARAMS, heard())[0])


def test_video_reaches_the_sound_only_by_fusion():
    batch = heard()
    darker = {**batch, "video": batch["video"] // 2}
    reached = [run(PARAMS, one)[2][0]["audio_log_mel"] for one in (batch, darker)]
    assert float(reached[0]) != float(reached[1])
    apart = joint.build(modalities(), {"reconstruct": reconstruct(shared=True)})
    loss = jax.jit(lambda batch: apart.loss(PARAMS, batch, CONTEXT).terms["audio_log_mel"].total)
    assert float(loss(batch)) == float(loss(darker))


def test_the_contrast_is_numpys_and_leaves_out_what_is_not_there():
    rng = np.random.default_rng(0)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 6, 5)))
    valid = np.array([1, 1, 0, 1, 1, 1], bool)
    kept = np.flatnonzero(valid)
    logits = 7 * a[kept] @ b[kept].T
    shares = [np.diag(one) - np.log(np.exp(one).sum(axis=1)) for one in (logits, logits.T)]
    errors, hits = symmetric(*(jnp.asarray(x, jnp.float32) for x in (a, b)), jnp.asarray(valid), 7.0)
    np.testing.assert_allclose(np.asarray(errors)[kept], -(shares[0] + shares[1]) / 2, rtol=1e-4)
    assert float(errors[2]) == 0
    wanted = [(one.argmax(axis=1) == np.arange(5)).astype(float) for one in (logits, logits.T)]
    np.testing.assert_allclose(np.asarray(hits)[kept], (wanted[0] + wanted[1]) / 2)


def test_contrast_and_pull_of_views():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(6, 5)).astype(np.float32)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    logits = unit @ unit.T / 0.5
    np.fill_diagonal(logits, -np.inf)
    wanted = np.mean([np.log(np.exp(logits[i]).sum()) - logits[i, i ^ 1] for i in range(6)])
    part = nce("video", "video", temperature=0.5)
    loss = part.compare({}, {"video": jnp.asarray(x), "": jnp.ones(6, bool)}, None, CONTEXT).terms["nce"]
    assert float(loss.total / loss.count) == pytest.approx(wanted, rel=1e-4)
    half = part.compare({}, {"video": jnp.asarray(x), "": jnp.arange(6) != 1}, None, CONTEXT).terms["nce"]
    assert float(half.count) == 4  # a view whose partner is missing has nothing to find
    byol = pull("video", widths=[3])
    heads = {name: {"layer_0": {"kernel": jnp.eye(5, 3) if name == "projector" else jnp.eye(3), "bias": jnp.zeros(3)}}
             for name in ("projector", "predictor")}  # fmt: skip
    rows = {"online": jnp.asarray(x), "target": jnp.asarray(2 * x), "valid": jnp.ones(6, bool)}
    term = byol.compare(heads, rows, heads, CONTEXT).terms["pull"]
    short = x[:, :3] / np.linalg.norm(x[:, :3], axis=1, keepdims=True)
    cosines = (short * short[[1, 0, 3, 2, 5, 4]]).sum(axis=1)
    assert float(term.total / term.count) == pytest.approx(np.mean(2 - 2 * cosines), rel=1e-4)


def test_features_and_pictures():
    batch = heard(audio_valid=np.array([True, True, False, True]))
    streams = {name: batch[name] for name in FUSED.inputs}  # no seeds: what an exported program is given
    one = jax.jit(lambda p, b: (FUSED.features(p, b), FUSED.features(p, b, pool=False), FUSED.features(p, b, layer=1)))
    pooled, tokens, shallow = one(PARAMS, streams)
    assert pooled.shape == shallow.shape == (4, 64)
    assert tokens.shape == (4, 8 + 4, 32)
    np.testing.assert_array_equal(pooled[2, 32:], 0)
    np.testing.assert_allclose(pooled[0, :32], tokens[0, :8].mean(axis=0), rtol=1e-4, atol=1e-5)
    pictures = jax.jit(FUSED.reconstruct)(PARAMS, batch, CONTEXT)
    assert pictures.names[:2] == ("original", "masked")
    assert pictures.strip_names == ("audio: original", "audio: masked", "audio: reconstructed")
    assert all(strip.shape == (4, 16, 16, 1) for strip in pictures.strips)
    low = np.asarray(batch["audio"])[:1].repeat(4, 0) * 0 + (2000 * np.sin(np.arange(SAMPLES) / 40)).astype(np.int16)
    strip = np.asarray(jax.jit(FUSED.reconstruct)(PARAMS, {**batch, "audio": low}, CONTEXT).strips[0])[0, ..., 0]
    assert strip[-3:].mean() > strip[:3].mean()  # low frequencies are below


def test_zero_heads_begin_at_the_mean_square_and_decoders_share_their_blocks():
    method = joint.build(modalities(), {"reconstruct": reconstruct(shared=True, zeros=True)})
    batch = heard()

    def begun(batch):
        params = meta.unbox(jax.jit(method.init)(jax.random.key(0), batch)[0])
        return params, method.loss(params, batch, CONTEXT)

    params, loss = jax.jit(begun)(batch)
    assert params["reconstruct"].keys() == {"shared", "video", "audio"}
    assert params["reconstruct"]["shared"].keys() == {"blocks", "norm"}
    assert params["reconstruct"]["audio"].keys() == {"project", "mask_token", "head_log_mel"}
    one = joint.Joint(modalities(), {}, None)
    for name, term in loss.terms.items():
        own, read = one.of(name.partition("_")[0], batch)
        network = one.networks[name.partition("_")[0]]
        masks = network.plan(own)
        target = network.objectives[name.partition("_")[2]].target(own, masks.decode, network.model.patch)
        wanted = np.square(np.asarray(target)).mean()
        assert float(term.total / term.count) == pytest.approx(wanted, rel=1e-4), name
        assert read.valid.all()


def test_the_target_of_pull_is_the_average_of_the_encoder():
    method = joint.build(modalities("video"), {"pull": pull("video", widths=[8, 4])})
    assert (method.views, method.group, method.averaged) == (2, 2, True)
    batch = heard()
    params = started(method, batch)
    loss = jax.jit(lambda p, average: method.loss(p, batch, CONTEXT.replace(average=average)).rows["pull"])
    same, other = loss(params, params), loss(params, jax.tree.map(lambda leaf: leaf * 0.5, params))
    np.testing.assert_allclose(same["online"], same["target"], rtol=0, atol=1e-6)
    assert np.abs(other["online"] - other["target"]).max() > 1e-3
    with pytest.raises(ConfigError, match="need the average of the parameters"):
        method.loss(params, batch, CONTEXT)


def test_official_counts_of_tokens():
    for data, sizes in (("audioset", {"video": (1568, 157), "audio": (496, 149)}), ("vggsound", {"audio": (400, 200)})):
        config = load_config(f"configs/av_mae.py:L,{data}", [("data.source.path", "videos")])
        for name, wanted in sizes.items():
            one = build(config.method.modalities[name], "modality")
            assert (one.model.grid.size, one.mask.keep(one.model.grid)) == wanted


def lacking(**changes):
    return {**heard(), **changes}


def add_silent(share):
    for _ in range(10):
        share.add(lacking(audio_valid=np.zeros(4, bool)))


def test_a_share_of_clips_without_sound_ends_a_training():
    share = Share("audio", sound(FORM, missing=0.1))
    share.first(lacking(audio_valid=np.array([False, True, False, False])))
    with pytest.raises(ConfigError, match="none of the 4 clips of the first batch has audio"):
        share.first(lacking(audio=np.zeros((4, SAMPLES), np.int16)))
    for _ in range(10):
        share.add(heard())
    with pytest.raises(ConfigError, match=r"of \d+ clips have no audio \(\d+%, limit 10%\); raise missing of"):
        add_silent(share)
    padded = Share("audio", sound(FORM, missing=0.0))
    for _ in range(6):  # rows that only pad a batch are not counted
        padded.add(lacking(valid=np.zeros(4, bool), audio_valid=np.zeros(4, bool)))
    Share("video", video()).add(heard())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: joint.build({}, {"reconstruct": reconstruct()}), "at least one entry"),
        (lambda: joint.build(modalities(), {"video": reconstruct()}), "'video' is the name of two things"),
        (lambda: joint.build(modalities(), {"nce": nce("audio", "touch")}), "no modality 'touch'"),
        (lambda: joint.build(modalities(), {"pull": pull("touch")}), "no modality 'touch'"),
        (lambda: nce("a", "b", temperature=0), "temperature=0"),
        (
            lambda: joint.modality(MODELS["video"], None, video(), {"pixels": objective(pixels())}),
            "give a mask, or leave",
        ),
        (lambda: pull("a", widths=[]), r"widths=\[\]"),
        (lambda: bottleneck(0), "start=0"),
        (lambda: joint_layers(0), "depth=0"),
        (lambda: joint.build(modalities(), {"r": reconstruct()}, bottleneck(3)), "start=3"),
        (lambda: sound(FORM, missing=2), "missing=2"),
        (lambda: FUSED.init(jax.random.key(0), lacking(audio=np.zeros((4, 900), np.int16))), r"have 4: set the stream"),
        (lambda: FUSED.init(jax.random.key(0), lacking(audio=np.zeros((4, 9000), np.int16))), "would be cut off"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bins_of_another_number_are_refused():
    other = dataclasses.replace(modalities()["audio"].read, log_mel=kaldi(bins=20))
    made = {"audio": modalities()["audio"]._replace(read=other)}
    method = joint.build(made, {"reconstruct": reconstruct()})
    with pytest.raises(ValueError, match="the model takes 16 mel bins, and 'audio' is read with bins=20"):
        method.init(jax.random.key(0), heard())
