"""SiamMCVAE (Zhou & Jiang 2024), which restores a damaged frame from an intact one: `configs/siammcvae.py:B16`.

    configs/siammcvae.py:B16                            pre-training; --config.data.source.path=FOLDER
    configs/siammcvae.py:B16,test=FOLDER                with PSNR and SSIM of restored frames at four shares of damage

Two frames of a video, 1 to 8 frames apart, with one crop and one flip for both. The authors published no code: of the
recipe only the size and the 1,000 epochs are theirs, all else is `inferred` in `recipes.csv`.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, mae, recipes, siammae
from vmae_jax.spec import call

RATIOS = (0.5, 0.75, 0.9, 0.95)  # of hidden patches in the evaluation [inferred]
GAP = [1, 8]  # frames between the intact and the damaged frame [inferred]


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B16",), test=None, smoke=False)
    recipe = recipes.recipe(f"siammcvae:{args.size}")
    config: Any = common.sections(
        method=method(recipe, args.size),
        data=loader(recipe),
        optimizer=mae.optimizer(recipe),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
        eval=None if args.test is None else evaluation(args.test),
    )
    return common.smoke(config) if args.smoke else config


def method(recipe: Any, size: str) -> ConfigDict:
    """The networks are SiamMAE's but for the decoder; raw pixels, for a damaged frame has no statistics to restore."""
    return call(
        "methods.siammcvae.build",
        model=siammae.network(recipe, size),
        encoder_mask=recipes.mask(recipe.encoder_mask),
        objectives={"pixels": call("targets.core.objective", target=call("targets.pixels", normalize=False))},
    )


def loader(recipe: Any) -> ConfigDict:
    """Pairs of frames with one crop."""
    crop = call("data.transforms.random_resized_crop", size=224, area=recipe.area, interpolation="exact_bilinear")
    flip = call("data.transforms.flip", probability=recipe.flip)
    return call(
        "data.pipeline.loader",
        source=call("data.sources.folder"),
        sampler=call("data.clips.pair", gap=GAP),
        transforms=[call("data.crops.together", transforms=[crop, flip])],
        global_batch=recipe.batch,
        repeat=recipe.repeat,
    )


def evaluation(path: str) -> dict[str, Any]:
    """PSNR and SSIM of restored frames, pair by pair, for each share of hidden patches."""
    resize = call("data.transforms.center_crop", size=224, short_side=224)
    data = call(
        "data.pipeline.loader",
        source=call("data.sources.folder", path=path),
        sampler=call("data.clips.pair", gap=GAP),
        transforms=[call("data.crops.together", transforms=[resize])],
        global_batch=32,
    )
    masks = {f"{100 * ratio:.0f}": call("masking.random", ratio=ratio) for ratio in RATIOS}
    return {"data": data, "evaluators": {"restoration": call("eval.restoration", masks=masks)}}
