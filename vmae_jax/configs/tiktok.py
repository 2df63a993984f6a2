"""VideoMAE V2 on curated TikTok clips (Qian et al. 2024): `configs/tiktok.py:B` (B, g).

The recipe is VideoMAE V2's [inferred: its paper names no other figures], on 283,582 clips of people,
one scene each, found by 386 hashtags. Then `configs/finetune.py:g,ucf101,tiktok,weights=WORKDIR`
(hmdb51, k400, ssv2). Name your own videos: `--config.data.source.path=FOLDER`.
"""

from ml_collections import ConfigDict

from vmae_jax.configs import common, videomae_v2


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B", "g"), smoke=False)
    return videomae_v2.get_config(f"{args.size},smoke" if args.smoke else args.size)
