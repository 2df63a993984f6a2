"""TGM (Fan et al. 2024), which hides what a caption is about: `configs/tgm.py:B,k400`, or ssv2.

    vmae import --weights=CLIP --out=WORKDIR            a whole CLIP, image and text
    configs/tgm.py:B,k400,clip=WORKDIR,tokenizer=CLIP   --config.data.source.source.path=FOLDER
    configs/tgm.py:B,k400,mae,…                         without the contrast of clips and captions

Captions are NAME.txt beside each video, one a line, of which each clip has one at random; or, with captions=FILE, rows
of a table with the columns `path` and `caption`. `tokenizer=` is the folder with CLIP's tokenizer.json, or vocab.json
and merges.txt. The code of the paper is not public: most figures are `inferred` in `recipes.csv`. Fine-tuning is
VideoMAE's, `configs/finetune.py:B,k400,v1,weights=WORKDIR`.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes, videomae
from vmae_jax.spec import ConfigError, call
from vmae_jax.weights.clip import tower

SIDE = 14  # tokens along a frame, of the student and of CLIP


def get_config(arguments: str | None = None) -> ConfigDict:
    options: dict[str, Any] = {"clip": None, "tokenizer": None, "captions": None, "mae": False, "smoke": False}
    args = common.parse(arguments, size=("B",), data=("k400", "ssv2"), **options)
    recipe = recipes.recipe(f"tgm:{args.size},{args.data}")
    image, text = towers(args.clip)
    method = call(
        "methods.tgm.build",
        model=call("models.variants.vit", size=args.size, decoder_depth=recipe.decoder_depth),
        encoder_mask=recipes.mask(recipe.encoder_mask),
        objectives={"pixels": call("targets.core.objective", target=call("targets.pixels", normalize=True))},
        image=image,
        text=text,
        weight=0.0 if args.mae else 1.0,
    )
    config: Any = videomae.pretrain(method, recipe)
    files = call("data.sides.sidecar", suffix=".txt")
    table = args.captions and call("data.sides.table", path=args.captions, column="caption")
    config.data.source = call("data.sides.beside", source=config.data.source, sides={"text": table or files})
    tokenizer = call("data.streams.tokenizers.clip", **({"path": args.tokenizer} if args.tokenizer else {}))
    config.data.streams = ConfigDict({"text": call("data.streams.text", tokenizer=tokenizer, length=text.length)})
    parts = {"image": "encoder", "projection": "projection", "text": "text"}
    config.init_from = ConfigDict(
        {f"frozen/{ours}": common.begin(args.clip, select=f"params/{theirs}") for ours, theirs in parts.items()},
        sort_keys=False,
    )
    if args.smoke:
        config = common.smoke(config)
        settings = call("data.synthetic.world.settings", train=16, validation=8, test=8, size=48, frames=16)
        config.data.source = call("data.synthetic.world", settings=settings)  # other drawn clips have no captions
    return config


def towers(path: str | None) -> tuple[ConfigDict, ConfigDict]:
    """Return the towers of an imported CLIP, of which the image tower sees frames as many patches as there are tokens.

    Args:
      path: a workdir; None takes the dimensions of CLIP's ViT-B of 32 pixels.

    Raises:
      ConfigError: if there is no text tower in it.
    """
    saved: Any = common.saved_method(path)
    if saved is None:
        return tower(size="B", patch=32, resolution=32 * SIDE), call("models.text.transformer")
    if saved.get("text") is None or saved.get("projection") is None:
        raise ConfigError(f"clip={path} is no workdir of a whole CLIP: import one with its text tower (vmae import)")
    image: Any = saved.model
    image.resolution = SIDE * image.patch
    return image, saved.text
