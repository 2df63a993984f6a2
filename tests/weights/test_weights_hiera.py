"""Files in the layout of Hiera's code become configs and parameters; others are refused in a line.

That the parameters are the right ones is shown by outputs (`tests/parity/test_parity_hiera.py`).
"""

import jax
import numpy as np
import pytest

from vmae_jax import spec
from vmae_jax.commands.restore import restore
from vmae_jax.models.hiera_sizes import SIZES
from vmae_jax.spec import ConfigError
from vmae_jax.weights import import_weights
from vmae_jax.weights.formats.tensors import write_safetensors

WIDTH, STAGES = SIZES["micro"].width, SIZES["micro"].stages


def block(name, width, after):
    shapes = {"norm1": (width,), "attn.qkv": (3 * after, width), "attn.proj": (after, after), "norm2": (after,)}
    shapes |= {"mlp.fc1": (4 * after, after), "mlp.fc2": (after, 4 * after)}
    return {f"{name}.{part}": shape for part, shape in shapes.items()}


def state(kind, *, image=False, side=4):
    """Random weights of "micro", under the names of the official code: clips of 4 frames of 16 * `side` pixels."""
    linears, arrays, width, number = {}, {}, WIDTH, 0
    for stage, count in enumerate(STAGES):
        for _ in range(count):
            after = WIDTH << stage
            linears |= block(f"blocks.{number}", width, after)
            if width != after:
                linears[f"blocks.{number}.proj"] = (after, width)
            width, number = after, number + 1
    kernel = (3, 3) if image else (3, 3, 3)
    linears["patch_embed.proj"] = (WIDTH, 3, *kernel)
    places = (8 * side) ** 2
    arrays |= {"pos_embed": (1, places, WIDTH)} if image else {
        "pos_embed_spatial": (1, places, WIDTH), "pos_embed_temporal": (1, 2, WIDTH)
    }  # fmt: skip
    if kind == "classifier":
        linears |= {"norm": (width,), "head.projection": (7, width)}
    else:
        slot = () if image else (1,)
        linears |= {"encoder_norm": (width,), "decoder_embed": (16, width), "decoder_norm": (16,)}
        linears |= block("decoder_blocks.0", 16, 16)
        linears |= {"decoder_pred": (8 * 8 * 3, 16)}
        for n in range(2):
            linears[f"multi_scale_fusion_heads.{n}"] = (width, WIDTH << n, *slot, 4 >> n, 4 >> n)
        arrays |= {"mask_token": (1, 1, 16), "decoder_pos_embed": (1, (1 if image else 2) * (2 * side) ** 2, 16)}
    arrays |= {f"{name}.weight": shape for name, shape in linears.items()}
    arrays |= {f"{name}.bias": shape[:1] for name, shape in linears.items()}
    random = np.random.default_rng(0)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in arrays.items()}


def imported(tmp_path, given):
    write_safetensors(tmp_path / "given.safetensors", given, {})
    report = import_weights(tmp_path / "given.safetensors", out=tmp_path / "run")
    return report, restore(str(tmp_path / "run"))


@pytest.mark.parametrize(("kind", "image"), [("pretraining", False), ("pretraining", True), ("classifier", False)])
def test_every_weight_is_used_in_a_model_of_the_file_s_dims(kind, image, tmp_path):
    given = state(kind, image=image)
    report, run = imported(tmp_path, given)
    assert (report["family"], report["kind"], report["used"]) == ("hiera", kind, len(given))
    assert sum(leaf.size for leaf in jax.tree.leaves(run.params)) == sum(array.size for array in given.values())
    method = run.made.config.method
    model = spec.build(method.model, "model")
    assert model.video_shape == ((1 if image else 4), 64, 64, 3)
    assert model.encoder.pools == (3 if kind == "classifier" else 2)
    if kind == "classifier":
        assert method.classes == 7
    else:
        assert method.encoder_mask.mask.ratio == (0.6 if image else 0.9)
        assert method.objectives.pixels.target.first is not image


def test_predictions_of_images_have_colours_last(tmp_path):
    given = state("pretraining", image=True)
    given["decoder_pred.bias"] = np.arange(3 * 64, dtype=np.float32)  # colour by colour
    _, run = imported(tmp_path, given)
    bias = np.asarray(run.params["decoder"]["head_pixels"]["bias"]).reshape(64, 3)
    np.testing.assert_array_equal(bias, np.arange(3 * 64).reshape(3, 64).T)


def test_what_does_not_fit_is_refused(tmp_path):
    def refused(given, why):
        with pytest.raises(ConfigError, match=why):
            imported(tmp_path, given)

    good = state("pretraining")
    less = {name: array for name, array in good.items() if name != "decoder_blocks.0.norm1.weight"}
    refused(less, "decoder_blocks.0.norm1.weight")
    refused(good | {"blocks.3.extra": np.zeros(2, np.float32)}, "extra")
    refused({name: array for name, array in good.items() if "decoder" not in name}, "neither a masked autoencoder nor")
    other = {name: array for name, array in good.items() if not name.startswith("blocks.4.")}
    refused(other, r"width 8 with \[1, 1, 2\] blocks is none of T, S, B")
    refused(good | {"pos_embed_spatial": np.zeros((3, 2), np.float32)}, "does not have 3 axes")
    refused(good | {"norm.weight": np.full(3, np.nan, np.float32)}, "norm.weight")
