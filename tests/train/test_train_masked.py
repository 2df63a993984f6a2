"""The methods themselves, tiny: the same gradients on one device and on a mesh, whole and in micro-batches."""

import functools

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from toy_method import remember

from vmae_jax.augment.colors import by_view, jitter
from vmae_jax.augment.modalities import mixup
from vmae_jax.augment.regions import random_boxes
from vmae_jax.augment.views import views
from vmae_jax.inputs.log_mel import kaldi
from vmae_jax.inputs.readers import frame, sound, video
from vmae_jax.masking.attention_guided import attention_guided
from vmae_jax.masking.face_parts import face_parts
from vmae_jax.masking.flow_guided import flow_guided
from vmae_jax.masking.motion_guided import motion_guided
from vmae_jax.masking.multiblock import multiblock
from vmae_jax.masking.random import random
from vmae_jax.masking.running_cell import running_cell
from vmae_jax.masking.text_guided import text_guided
from vmae_jax.masking.tube import tube
from vmae_jax.masking.units import units
from vmae_jax.methods import (
    adamae,
    cdfslv,
    deepfakes,
    diffmae,
    joint,
    latent,
    latent_dense,
    levjepa,
    linear,
    lvmae,
    marlin,
    masked,
    mbt,
    mvd,
    rvm,
    segmentation,
    siamese,
    siammcvae,
    sigma,
    tgm,
    ttt,
    umt,
)  # fmt: skip
from vmae_jax.methods.branches import branch
from vmae_jax.methods.flow import raft
from vmae_jax.methods.parts.forget import forget
from vmae_jax.methods.parts.moco import moco
from vmae_jax.methods.parts.nce import nce
from vmae_jax.methods.parts.order import order
from vmae_jax.methods.parts.overlap_nce import overlap_nce
from vmae_jax.methods.parts.pull import pull
from vmae_jax.methods.parts.reconstruct import reconstruct
from vmae_jax.methods.parts.region_nce import region_nce
from vmae_jax.methods.parts.regress import regress
from vmae_jax.methods.parts.speed import speed
from vmae_jax.methods.parts.time_nce import time_nce
from vmae_jax.models import positions
from vmae_jax.models.fusion import bottleneck
from vmae_jax.models.fusion import joint as joint_layers
from vmae_jax.models.hiera_sizes import hiera
from vmae_jax.models.rotary import rotary
from vmae_jax.models.sequence import transformer
from vmae_jax.models.spectrogram import spectrogram
from vmae_jax.models.text import transformer as text_tower
from vmae_jax.models.variants import vit
from vmae_jax.targets.core import objective
from vmae_jax.targets.features import features
from vmae_jax.targets.pixels import pixels
from vmae_jax.targets.spectrogram import spectrogram as values
from vmae_jax.train import sharding
from vmae_jax.train.state import make_init
from vmae_jax.train.step import compile_step, make_step

ROWS = 16
# Gradients that are 0 but for rounding: of a constant added to all logits of a softmax, or all rows of a batch norm.
ROUNDING = {("learned_mask", "sampler/head/bias"): 1e-9, ("agreeing_views", "encoder/norm/bias"): 2e-7}
KEYS = ("decoder/blocks/attention", "encoder/stage_0/attention", "encoder/stage_2/attention")
KEYS += ("encoder/widen_1", "encoder/widen_2", "encoder/widen_3")
ROUNDING |= {("mask_units", f"{place}/qkv/k_bias"): 1e-9 for place in KEYS}
CONTRASTS = ("queued_keys", "keys_of_the_batch", "four_clips", "moments", "speeds")
ROUNDING |= {(name, "video/norm/bias"): 2e-6 for name in CONTRASTS}
ROUNDING |= {("four_clips", "byol/projector/layer_1/bias"): 2e-7}
ROUNDING |= {("speeds", f"ascnet/{task}/projector/layer_1/bias"): 2e-7 for task in ("appearance", "speed")}
# Colours are floating point, and batch norm of 16 clips divides by small deviations.
CLOSE = dict.fromkeys((*CONTRASTS, "regions", "overlaps", "frames_of_one_video"), 1e-5)
# Batch norm cancels what the contrast adds to these gradients, but for rounding; that of the reconstruction remains.
CANCELLED = {("clips_and_frames", f"{one}/norm/bias"): 2e-6 for one in ("video", "image")}
MESHES = {"one": {"data": 1}, "cube": {"data": 2, "fsdp": 2, "tensor": 2}}


TINY = {"size": "micro", "resolution": 32, "patch": 8, "decoder_depth": 1, "drop_path": 0.5, "dtype": "float32"}


def videomae_v2():
    return masked.build(
        vit(frames=4, **TINY), tube(0.75), {"pixels": objective(pixels())}, decoder_mask=running_cell(0.5)
    )


def mae():
    """Of images: the class token passes through the decoder."""
    more = {"positions": positions.sincos_2d(), "prefix": 1, "decoder_prefix": "kept", "project_bias": True}
    model = vit(frames=1, tubelet=1, initial="mae", **more, **TINY)
    return masked.build(model, random(0.75, "visible"), {"pixels": objective(pixels(joint=True))})


def linear_probe():
    """A frozen encoder, and batch norm over the whole batch without padding."""
    model = vit(frames=1, tubelet=1, prefix=1, initial="mae", **TINY)
    return linear.build(model, 5, init_scale=100.0)


def mae_st():
    """Learned positions, a class token of the decoder's own, and every second frame as the target."""
    more = {"positions": positions.separable(), "prefix": 1, "prefix_positions": True, "project_bias": True}
    model = vit(frames=4, initial="mae_st", **more, **TINY)
    return masked.build(model, random(0.75, "visible"), {"pixels": objective(pixels(joint=True, frames=2))})


def mask_units():
    """Hiera: four stages, units that are hidden as a whole, and the first frame of each tubelet as the target."""
    sizes = {"size": "micro", "frames": 4, "resolution": 32, "patch": 2, "drop_path": 0.5, "dtype": "float32"}
    model = hiera(**sizes, decoder_width=16, decoder_depth=1, decoder_heads=2)
    target = {"pixels": objective(pixels(joint=True, first=True))}
    return masked.build(model, units(random(0.75, "visible")), target)


def learned_mask():
    """AdaMAE: the tokens are drawn from probabilities, with dropout before them."""
    return adamae.build(vit(frames=4, **TINY), {"pixels": objective(pixels())}, ratio=0.75)


def two_views():
    """SiamMAE: rows in pairs, and a decoder that attends to the first of them, with dropout."""
    more = {"positions": positions.sincos_2d(), "prefix": 1, "decoder_prefix": "kept", "project_bias": True}
    model = vit(frames=1, tubelet=1, initial="mae", **more, **TINY)
    return siamese.build(model, random(0.75, "visible"), {"pixels": objective(pixels(joint=True))}, hidden=32)


def carried_state():
    """RVM: two frames, a state, and two frames of the future at distances that are given."""
    more = {"positions": positions.sinusoid_1d([4, 4]), "prefix": 1, "decoder_prefix": "kept", "project_bias": True}
    model = vit(frames=1, tubelet=1, style="tanh", initial="mae", **more, **TINY)
    raw = {"pixels": objective(pixels(normalize=False))}
    return rvm.build(model, random(0.75, "visible"), raw, sources=2, core_depth=1)


def motion_mask():
    """MGM: the mask follows the motion vectors of the batch."""
    return masked.build(vit(frames=4, **TINY), motion_guided(0.75), {"pixels": objective(pixels())})


def flow_mask():
    """MGMAE: the mask follows the optical flow that a frozen network computes."""
    guides = {"flow": raft(1, fix_backward=False)}
    return masked.build(vit(frames=4, **TINY), flow_guided(0.75), {"pixels": objective(pixels())}, guides=guides)


def latent_views():
    """SiamMCVAE: rows in pairs, and a latent variable that is drawn."""
    more = {"positions": positions.sincos_2d(), "prefix": 1, "decoder_prefix": "kept", "project_bias": True}
    model = vit(frames=1, tubelet=1, initial="mae", **more, **TINY)
    raw = {"pixels": objective(pixels(normalize=False))}
    return siammcvae.build(model, random(0.75, "visible"), raw, latent=8, weight=0.1, free_nats=0.0)


def denoising():
    """DiffMAE: noise of each clip, and a decoder that reads every second block of the encoder."""
    more = {"positions": positions.separable(), "prefix": 1, "prefix_positions": True, "project_bias": True}
    model = vit(frames=4, initial="mae_st", **more, **TINY)
    return diffmae.build(model, random(0.75, "visible"), {"pixels": objective(pixels(joint=True))})


def denoising_features():
    """DiffMAE of a CLIP's features: a teacher of images beside a student of clips."""
    clip = {"style": "clip", "prefix": 1, "prefix_positions": True, "positions": positions.learned()}
    teacher = vit(frames=1, tubelet=1, **clip, **{**TINY, "width": 24})
    return diffmae.build(vit(frames=4, **TINY), random(0.75), {"features": objective(features())}, teacher=teacher)


def long_video():
    """LV-MAE: sequences of different lengths, which are cut at random."""
    model = transformer(width=32, depth=2, heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2, dtype="float32")
    return lvmae.build(model, cosine=0.5)


BLOCKS = {"short": multiblock(2, 0.25, context=0.4, targets=0.4), "long": multiblock(1, 0.6, context=0.3, targets=0.6)}


def dense_prediction():
    """V-JEPA 2.1: the target is the average of the encoder, at two levels; two images beside each clip; padding."""
    model = vit(frames=4, positions=rotary(), initial="vjepa", project_bias=True, levels=[0, 1], modality=True, **TINY)
    long, short = ({name: BLOCKS[name]} for name in ("long", "short"))
    return latent_dense.build(model, long, images=short, context_begin=0, context_end=0)


def frozen_teacher():
    """SALT: the target is a teacher of another width."""
    model = vit(frames=4, positions=rotary(), project_bias=True, **TINY)
    return latent.build(model, BLOCKS, teacher=vit(frames=4, **{**TINY, "width": 24}))


def agreeing_views():
    """LeVJEPA: small views of each clip, and statistics over the whole batch after batch norm, without padding."""
    sizes = {**TINY, "initial": "vjepa", "tubelet": 1, "prefix": 1, "causal": True, "positions": rotary("tiled")}
    return levjepa.build(vit(frames=4, **sizes), random(0.75), views(2, 16, colors=jitter()), [16, 8], 5.0, 16)


def clustered():
    """SIGMA: embeddings and predictions of all tokens of the batch share prototypes, balanced without padding."""
    return sigma.build(vit(frames=4, **TINY), tube(0.75), running_cell(0.5), widths=[16, 8], prototypes=12)


def adversarial():
    """MARLIN: parts of faces are hidden first, and a critic is trained in the same step."""
    raw = {"pixels": objective(pixels(normalize=False))}
    return marlin.build(vit(frames=4, **TINY), face_parts(0.75), raw, hidden=16)


def two_domains():
    """CDFSL-V: rows in pairs, clips with and without labels, and a teacher that is the average of the parameters."""
    return cdfslv.build(vit(frames=4, **TINY), 5, strong=jitter())


def two_heads():
    """Test-time training: a classifier and a masked autoencoder of images, whose error of all tokens counts."""
    model = vit(frames=1, tubelet=1, prefix=1, decoder_prefix="kept", **TINY)
    raw = {"pixels": objective(pixels(normalize=False))}
    return ttt.build(model, 5, random(0.75, "visible"), raw, everywhere=True, init_scale=1.0)


def two_streams():
    """Unmasking Deepfakes: two classifiers, one of frames and one of the flow between them, which RAFT computes."""
    model = vit(frames=1, tubelet=1, **TINY)
    return deepfakes.build(model, model, init_scale=1.0, iterations=1)


def segments_of_frames():
    """Ego-Only's second stage: classes of every frame; some videos have no labels."""
    heads = {"actions": segmentation.actions(3, gamma=2.0, alpha=0.25)}
    return segmentation.build(vit(frames=4, **TINY), heads, init_scale=1.0)


def two_teachers():
    """MVD: an image teacher with a class token, of another width, and a video teacher."""
    model = vit(frames=4, positions=positions.sincos_time_space(), **TINY)
    image = vit(frames=1, tubelet=1, prefix=1, **{**TINY, "width": 24})
    return mvd.build(model, tube(0.75), image, vit(frames=4, **TINY), image_weight=0.5)


def attending_teacher():
    """UMT: the mask is drawn from the attention of a CLIP."""
    clip = {"style": "clip", "prefix": 1, "prefix_positions": True, "positions": positions.learned()}
    teacher = vit(frames=1, tubelet=1, **clip, **{**TINY, "width": 24})
    return umt.build(vit(frames=4, **TINY), teacher, attention_guided(0.8), layers=2, projection=12)


def captions():
    """TGM: the mask follows captions, which some rows lack, and clips are compared with them."""
    clip = {"style": "clip", "prefix": 1, "prefix_positions": True, "positions": positions.learned()}
    image = vit(frames=1, tubelet=1, **clip, **{**TINY, "patch": 16, "width": 24})
    text = text_tower(vocabulary=30, length=7, width=16, size=8, depth=1, heads=2, dtype="float32")
    own = {"image": image, "text": text, "weight": 0.01, "temperature": 1.0, "width": 8}
    return tgm.build(vit(frames=4, **TINY), text_guided(0.6), {"pixels": objective(pixels())}, **own)


def sound_and_video():
    """Joint layers, one decoder, and a contrast with a learned temperature; some rows are silent."""
    sizes = {name: value for name, value in TINY.items() if name != "resolution"}
    model, form = spectrogram(frames=16, bins=16, **sizes), kaldi(bins=16)
    heard = joint.modality(model, random(0.5), sound(form), {"log_mel": objective(values())})
    seen = joint.modality(vit(frames=4, **TINY), random(0.75), video(), {"pixels": objective(pixels())})
    contrast = nce("audio", "video", learned=True, weight=0.1)
    parts = {"reconstruct": reconstruct(shared=True), "nce": contrast}
    return joint.build({"video": seen, "audio": heard}, parts, joint_layers(1))


def taught_by_both():
    """MAViL, stage 2: a frozen teacher of both modalities, contrast of two views of each; some rows are silent."""
    sizes = {name: value for name, value in TINY.items() if name != "resolution"}
    model, form = spectrogram(frames=16, bins=16, **sizes), kaldi(bins=16)
    seen = joint.modality(vit(frames=4, **TINY), random(0.75), video())
    pairs = {"inter": ("audio", "video"), "video_views": ("video", "video"), "audio_views": ("audio", "audio")}
    contrasts = {name: nce(*pair, paired=True) for name, pair in pairs.items()}
    heard = joint.modality(model, random(0.5), sound(form))
    return joint.build({"video": seen, "audio": heard}, {"regress": regress(), **contrasts}, joint_layers(1))


def frames_of_one_video():
    """ViC-MAE: two frames with other colours each, reconstruction and contrast, batch norm without padding."""
    more = {"positions": positions.sincos_2d(), "prefix": 1, "decoder_prefix": "kept", "project_bias": True}
    model = vit(frames=1, tubelet=1, initial="mae", **more, **TINY)
    read = video(by_view([jitter(blur=1.0, sigma=(0.1, 0.5)), jitter(solarise=0.2)]))
    seen = joint.modality(model, random(0.5), read, {"pixels": objective(pixels(joint=True), weight=0.97)})
    contrast = nce("video", "video", widths=[16, 16, 8], weight=0.03)
    return joint.build({"video": seen}, {"reconstruct": reconstruct(), "contrast": contrast})


def clips_and_frames():
    """CrossVideoMAE: two copies of a clip and a frame of each; three contrasts, one of which is of whole videos."""
    more = {"positions": positions.sincos_2d(), "prefix": 1, "decoder_prefix": "kept", "project_bias": True}
    image = vit(frames=1, tubelet=1, initial="mae", **more, **TINY)
    target = {"pixels": objective(pixels(joint=True))}
    seen = joint.modality(vit(frames=4, **TINY), random(0.75), video(), target)
    still = joint.modality(image, random(0.5), frame(), target)
    pairs = {"clips": ("video", "video"), "frames": ("image", "image"), "cross": ("video", "image")}
    contrasts = {name: nce(*pair, widths=[16, 8], merged=name == "cross") for name, pair in pairs.items()}
    return joint.build({"video": seen, "image": still}, {"reconstruct": reconstruct(), **contrasts})


def clips_of_colours(**parts):
    """Whole clips, blurred and of other colours."""
    colors = jitter(blur=0.5)
    return joint.build({"video": joint.modality(vit(frames=4, **TINY), None, video(colors))}, parts)


def queued_keys():
    """MoCo: a queue of keys, batch norm without padding."""
    return clips_of_colours(moco=moco("video", [16, 8], [], queue=24))


def keys_of_the_batch():
    """MoCo v3, of four clips a video: a predictor and batch norm of what it returns."""
    return clips_of_colours(moco=moco("video", [16, 8], [16, 8], views=4))


def four_clips():
    """BYOL and SimCLR, of four clips a video, with a learned temperature."""
    contrast = nce("video", "video", learned=True, widths=[16, 8], views=4)
    return clips_of_colours(byol=pull("video", [16, 8], views=4), simclr=contrast)


def moments():
    """TeG: a long and a short clip of a video, and the times of their frames."""
    model = vit(frames=4, **{**TINY, "tubelet": 1})
    parts = {"clips": nce("video", "video", widths=[16, 8]), "moments": time_nce("video", [16, 8])}
    return joint.build({"video": joint.modality(model, None, video())}, parts)


def speeds():
    """ASCNet: two projections, and partners that look alike."""
    return clips_of_colours(ascnet=speed("video", [16, 8], [16, 8], warmup=0))


def regions():
    """ConST-CL: regions are predicted from the other clip."""
    small = region_nce("video", random_boxes(3), context=1, width=8, heads=2, depth=2)
    return clips_of_colours(clips=nce("video", "video", weight=2.0), regions=small)


def overlaps():
    """Controllable augmentations: the whole video and two clips, where each is, and a reversed gradient."""
    cells = overlap_nce("video", [8], cells=(2, 2, 2))
    return clips_of_colours(
        clips=nce("video", "video", views=3), order=order("video", []), colours=forget("video", []), cells=cells
    )


def judged_by_both():
    """MBT: two encoders exchange through bottlenecks; clips are mixed in pairs, and some have no sound."""
    form = kaldi(bins=16)
    tiny = {"size": "micro", "patch": 8, "drop_path": 0.5, "dtype": "float32"}
    heard = branch(spectrogram(frames=16, bins=16, **tiny), sound(form))
    seen = branch(vit(frames=4, resolution=32, **tiny), video())
    mix = mixup(0.5, separate=True, group=2)
    return mbt.build({"video": seen, "audio": heard}, 5, fuse=bottleneck(1), init_scale=50.0, mix=mix)


METHODS = {
    one.__name__: functools.cache(one)
    for one in (
        videomae_v2,
        mae,
        linear_probe,
        mae_st,
        mask_units,
        learned_mask,
        two_views,
        carried_state,
        motion_mask,
        flow_mask,
        latent_views,
        denoising,
        denoising_features,
        long_video,
        dense_prediction,
        frozen_teacher,
        two_domains,
        agreeing_views,
        clustered,
        two_heads,
        two_streams,
        adversarial,
        segments_of_frames,
        two_teachers,
        attending_teacher,
        sound_and_video,
        taught_by_both,
        frames_of_one_video,
        clips_and_frames,
        queued_keys,
        keys_of_the_batch,
        four_clips,
        moments,
        speeds,
        regions,
        overlaps,
        judged_by_both,
        captions,
    )
}
IMAGES = ("mae", "linear_probe", "two_views", "latent_views", "two_heads", "frames_of_one_video")


def places():
    """Of eight videos: where the whole one and its parts are; some parts are mirrored, some are elsewhere."""
    rng = np.random.default_rng(2)
    low, side = rng.uniform(0, 0.5, (24, 2)), rng.uniform(0.3, 0.5, (24, 2))
    place = np.concatenate([low, low + side], axis=1)
    place = np.where(rng.random((24, 1)) < 0.5, place, place[:, [2, 1, 0, 3]])
    begins = np.where(np.arange(24) % 3 == 0, 0.0, rng.uniform(0, 6, 24))[:, None]
    steps = np.where(np.arange(24) % 3 == 0, 2.0, 0.5)[:, None]
    times = np.stack([begins + steps * np.arange(4), begins + steps * np.arange(1, 5)], axis=2)
    return {"place": place.astype(np.float32), "place_times": times.astype(np.float32)}


def batch(name="videomae_v2"):
    rng, more, rows = np.random.default_rng(0), np.random.default_rng(1), 24 if name == "overlaps" else ROWS
    motion = rng.normal(size=(ROWS, 4, 4, 4, 2)).astype(np.float32)
    vectors = {"motion": motion, "motion_mask": rng.random((ROWS, 4)) < 0.8, "motion_valid": np.arange(ROWS) != 7}
    lengths = rng.integers(1, 13, (ROWS, 1))
    sequences = {"embeddings": rng.normal(size=(ROWS, 12, 20)), "embeddings_mask": np.arange(12) < lengths}
    sequences["embeddings"] = sequences["embeddings"].astype(np.float32)
    labels = {"label": np.repeat([0, -1, -1, 3, 4, -1, 1, -1], 2).astype(np.int32)}
    images = rng.integers(0, 256, (ROWS, 2, 32, 32, 3), dtype=np.uint8)
    beside = {"image": images, "image_valid": rng.random((ROWS, 2)) < 0.8}
    parts = {"parts": more.integers(0, 11, (ROWS, 4, 32, 32, 1)).astype(np.uint8)}
    samples = more.integers(-9000, 9000, (ROWS, 2800), dtype=np.int16)
    spans = np.stack([np.zeros(ROWS), more.integers(1400, 2800, ROWS)], 1).astype(np.int32)
    audio = {"audio": samples, "audio_span": spans, "audio_valid": np.arange(ROWS) % 5 != 2}
    there = np.arange(7) < more.integers(1, 8, (ROWS, 1))
    texts = {"text": more.integers(0, 30, (ROWS, 7)).astype(np.int32), "text_mask": there}
    texts["text_valid"] = np.arange(ROWS) % 6 != 4
    classes = {"label": np.arange(ROWS, dtype=np.int32) % 5}
    own = {
        "captions": texts,
        "two_heads": classes,
        "segments_of_frames": {
            "actions": np.random.default_rng(4).random((ROWS, 4, 3)) < 0.3,
            "actions_valid": np.arange(ROWS) % 5 != 1,
        },
        "linear_probe": classes,
        "moments": {"seconds": np.tile([[0, 0.4, 0.8, 1.2], [0.3, 0.4, 0.5, 0.6]], (ROWS // 2, 1)).astype(np.float32)},
        "overlaps": places(),
        "two_streams": {"label": (np.arange(ROWS) % 8 == 7).astype(np.int32)},
        "motion_mask": vectors,
        "dense_prediction": beside,
        "carried_state": {"frames": np.cumsum(np.full((ROWS, 4), 7) - np.arange(4), axis=1).astype(np.int32)},
        "long_video": sequences,
        "sound_and_video": audio,
        "taught_by_both": audio,
        "judged_by_both": audio | classes,
    }
    return (own | {"two_domains": labels, "adversarial": parts}).get(name, {}) | {
        "video": rng.integers(0, 256, (rows, 1 if name in IMAGES else 4, 32, 32, 3), dtype=np.uint8),
        "seed": rng.integers(0, 2**32, (rows, 2), dtype=np.uint32),
        "index": np.arange(rows, dtype=np.int32),
        "valid": np.arange(rows) != 5,
    }


@functools.cache
def begun(name):
    """The state at the start, with its boxes in shapes alone and its values on the host."""
    method, given = METHODS[name](), batch(name)
    spec = jax.eval_shape(lambda: given)
    init = jax.jit(make_init(method, remember(), ema=method.averaged, frozen=method.frozen))  # traced once
    state, _ = sharding.create(init, jax.random.key(0), spec, sharding.make_mesh({}, devices=jax.devices()[:1]))
    return sharding.abstract(init, spec), jax.device_get(state)


@functools.cache
def gradients(name, mesh, accumulate):
    """Loss and gradients."""
    mesh = sharding.make_mesh(MESHES[mesh], devices=jax.devices()[:1] if mesh == "one" else None)
    tx, method, given = remember(), METHODS[name](), batch(name)
    boxed, state = begun(name)
    placement = sharding.shardings(boxed, mesh)
    step = make_step(method, tx, accumulate=accumulate, ema_decay=0.9 if method.averaged else None)
    run = compile_step(step, placement, mesh, jax.eval_shape(lambda: given))
    after, metrics = run(jax.device_put(state, placement.shardings), given)
    jax.tree.map(np.testing.assert_array_equal, after.frozen, state.frozen)  # a step leaves teachers as they are
    return float(metrics["loss"]), jax.tree.map(np.array, after.opt_state)


@pytest.mark.parametrize(
    ("name", "mesh", "accumulate"),
    [
        ("videomae_v2", "cube", 4),
        pytest.param("videomae_v2", "cube", 1, marks=pytest.mark.slow),
        pytest.param("videomae_v2", "one", 4, marks=pytest.mark.slow),
        *(pytest.param(name, "cube", 2, marks=pytest.mark.slow) for name in METHODS if name != "videomae_v2"),
    ],
)
def test_the_same_gradients(name, mesh, accumulate):
    loss, grads = gradients(name, "one", 1)
    other, others = gradients(name, mesh, accumulate)
    assert other == pytest.approx(loss, rel=1e-6)
    grads, others = (flatten_dict(tree, sep="/") for tree in (grads, others))
    assert grads.keys() == others.keys()
    for path, array in grads.items():
        if (name, path) in ROUNDING:
            assert max(np.abs(array).max(), np.abs(others[path]).max()) < ROUNDING[name, path], path
        else:
            atol = max(CLOSE.get(name, 2e-6) * np.abs(array).max(), CANCELLED.get((name, path), 0.0))
            np.testing.assert_allclose(array, others[path], rtol=0, atol=atol, err_msg=path)


def test_full_size_models_fit_the_rules():
    """Every published size, abstractly: each parameter has its names, and what does not divide is listed."""
    mesh = sharding.make_mesh({"data": 1, "fsdp": 2, "tensor": 4})
    spec = {name: jax.ShapeDtypeStruct((8, *leaf.shape[1:]), leaf.dtype) for name, leaf in batch().items()}
    for size, listed in (("B", 4), ("g", 3)):
        model = vit(size, dtype="float32")
        spec["video"] = jax.ShapeDtypeStruct((8, *model.video_shape), np.uint8)
        big = masked.build(model, tube(0.9), {"pixels": objective(pixels())}, running_cell(0.5))
        abstract = sharding.abstract(big.init, spec)[0]
        placement = sharding.shardings(abstract, mesh)
        kernel = placement.shardings["encoder"]["blocks"]["mlp"]["fc1"]["kernel"]
        assert tuple(kernel.spec) == (None, "fsdp", "tensor")
        assert len(placement.replicated) == listed, placement.replicated
        if size == "g":  # its decoder's MLP is 2234 wide
            assert all("decoder/blocks/mlp" in note and "mlp of 2234" in note for note in placement.replicated)
        boxes = jax.tree.leaves(abstract, is_leaf=sharding.meta.is_axis_metadata)
        assert all(sharding.meta.is_axis_metadata(leaf) for leaf in boxes)
