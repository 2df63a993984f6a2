"""VideoMAE pre-training (every hidden cube is decoded): `configs/videomae.py:B,k400`.

Sizes S, B, L, H and the data k400, ssv2, ucf101, of the official scripts. Name your own videos:
`--config.data.source.path=FOLDER`.
"""

from ml_collections import ConfigDict

from vmae_jax.configs import common
from vmae_jax.spec import ConfigError, call

BATCH = {"S": 1024, "B": 2048, "L": 512, "H": 1024}  # [code] GPUs x batch on Kinetics-400
DECODER_DEPTH = {"S": 4, "B": 4, "L": 12, "H": 12}  # [code]
# data: (mask ratio, stride, learning rate at a batch of 256, epochs)
DATA = {
    "k400": (0.9, 4, 1.5e-4, 1600),  # [code]
    "ssv2": (0.9, 2, 1.5e-4, 2400),  # [code]
    "ucf101": (0.75, 4, 3e-4, 3200),  # [code]
}
SIZES = {"k400": ("S", "B", "L", "H"), "ssv2": ("S", "B", "L"), "ucf101": ("B",)}  # that have a recipe


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B", "S", "L", "H"), data=("k400", "ssv2", "ucf101"), smoke=False)
    if args.size not in SIZES[args.data]:
        known = "; ".join(f"{size},{data}" for data, sizes in SIZES.items() for size in sizes)
        raise ConfigError(f"configs/videomae.py: there is no recipe for {args.size},{args.data}, only for {known}")
    ratio, stride, rate, epochs = DATA[args.data]
    batch = 192 if args.data == "ucf101" else BATCH[args.size]
    config = common.sections(
        method=call(
            "methods.masked.build",
            model=call(
                "models.variants.vit",
                size=args.size,
                decoder_depth=DECODER_DEPTH[args.size],
                # V1's decoder for H is 640 wide, V2's 512.
                decoder_width=640 if args.size == "H" else None,
                decoder_heads=8 if args.size == "H" else None,
                remat="full" if args.size == "H" else "none",
            ),
            encoder_mask=call("masking.tube", ratio=ratio),
            objectives={"pixels": call("targets.core.objective", target=call("targets.pixels", normalize=True))},
        ),
        data=call(
            "data.pipeline.loader",
            source=call("data.sources.folder"),
            sampler=call("data.clips.dense", frames=16, stride=stride),
            transforms=[call("data.transforms.multi_scale_crop", size=224)],
            global_batch=batch,
        ),
        optimizer=call(
            "train.optim.adamw",
            schedule=call("train.schedule.warmup_cosine", peak=rate, final=1e-5, warmup={"epochs": 40}),
            b2=0.95,
            weight_decay=0.05,
        ),
        train={"length": {"epochs": epochs}},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
    )
    return common.smoke(config) if args.smoke else config
