"""Retrieval between modalities, for a checkpoint that compares them: `configs/cross_retrieval.py:data=FOLDER`.

    vmae eval --checkpoint=runs/mavil --config=configs/cross_retrieval.py:data=FOLDER

Each video is looked for by its own sound among all videos of the folder, and each sound by its video. Nothing is
trained.

    data=FOLDER            videos with sound; or a list (`path` or `path label` per line)
    views=1                clips per video, whose features are averaged

Clips, and the streams beside them, are those that the checkpoint was trained on, except that crops are in the middle.
The figures are ours [inferred].
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, probe
from vmae_jax.spec import ConfigError, call


def get_config(arguments: str | None = None, checkpoint: str | None = None) -> ConfigDict:
    args = common.parse(arguments, data=None, frames=int, size=int, views=1)
    if args.data is None:
        raise ConfigError("configs/cross_retrieval.py: give the videos as data=FOLDER or data=LIST.csv")
    clips = probe.clips_of(args, checkpoint)
    trained: Any = common.saved_section(checkpoint, "data") or {}
    sampler: Any = trained.get("sampler") or {}
    strides = sampler.get("strides") or [sampler.get("stride", 1)]
    source = "csv" if probe.listed(args.data) else "folder"
    data = call(
        "data.pipeline.loader",
        source=call(f"data.sources.{source}", path=args.data),
        sampler=call("data.clips.multiview", frames=clips["frames"], stride=strides[0], views=args.views),
        transforms=[call("data.transforms.center_crop", size=clips["size"])],
        streams=trained.get("streams") or {},
        channels=clips["channels"],
        global_batch=32,
        shuffle=False,
    )
    evaluators = {"cross_retrieval": call("eval.cross_retrieval")}
    evaluation = call("train.settings.Evaluation", data=data, evaluators=evaluators)
    return ConfigDict({"eval": evaluation}, sort_keys=False, convert_dict=False)
