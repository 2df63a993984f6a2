"""RVM (Zoran et al. 2026), which carries a state from frame to frame: `configs/rvm.py:L`, of the sizes S, B, L and H.

    configs/rvm.py:L                                    pre-training; --config.data.source.path=FOLDER

Clips are four consecutive frames and four frames 4 to 48 frames later. The networks of size L are those of the
authors' code for inference; the training is known from the paper at second hand, and where that is silent the
figures are ours (`recipes.csv`).
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, mae, recipes
from vmae_jax.spec import call

SIZE = 256
SOURCES, TARGETS, GAP = 4, 4, [4, 48]  # [paper]
CORE = 4  # blocks: L [code]; S, B and H [inferred]


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("L", "S", "B", "H"), smoke=False)
    recipe = recipes.recipe(f"rvm:{args.size}")
    crop = call("data.transforms.random_resized_crop", size=SIZE, area=recipe.area)
    config = common.sections(
        method=call(
            "methods.rvm.build",
            model=network(recipe, args.size),
            encoder_mask=recipes.mask(recipe.encoder_mask),
            objectives={"pixels": call("targets.core.objective", target=call("targets.pixels", normalize=False))},
            sources=SOURCES,
            core_depth=CORE,
        ),
        data=call(
            "data.pipeline.loader",
            source=call("data.sources.folder"),
            sampler=call("data.future", sources=SOURCES, targets=TARGETS, gap=GAP, stride=recipe.stride),
            transforms=[crop, call("data.transforms.flip", probability=recipe.flip)],
            streams={"frames": call("data.streams.times.frames")},
            global_batch=recipe.batch,
        ),
        optimizer=mae.optimizer(recipe),
        train={"length": recipe.length},
        checkpoint={"every": {"steps": 1000}, "keep_last": 3},
    )
    return common.smoke(config) if args.smoke else config


def network(recipe: Any, size: str) -> ConfigDict:
    """The encoder of single frames with a class token, and the decoder's dimensions [code].

    Pixels are in [0, 1]; the positions are a sinusoid over 16x16 tokens, interpolated for other sizes.

    Args:
      recipe: the figures.
      size: of the encoder.
    """
    dims = recipes.decoder(recipe)
    return call(
        "models.variants.vit",
        size=size,
        frames=1,
        tubelet=1,
        resolution=SIZE,
        prefix=1,
        decoder_prefix="kept",
        project_bias=True,
        positions=call("models.positions.sinusoid_1d", base=[16, 16]),
        style="tanh",
        initial="mae",
        mean=[0.0, 0.0, 0.0],
        std=[1.0, 1.0, 1.0],
        **dims,
    )
