"""Finding moments in videos with frozen features, for any checkpoint: `configs/moments.py:data=FOLDER,test=FOLDER`.

    vmae eval --checkpoint=runs/v2_base --config=configs/moments.py:data=FOLDER,test=FOLDER

Nothing of the encoder is trained. Beside each video is NAME_segments.csv, with the columns `begin`, `end` (seconds) and
`label` (a class number).

    data=FOLDER            videos whose windows a linear classifier learns from
    test=FOLDER            videos in which moments are found
    drawn                  drawn clips in place of both, whose shapes fly and bounce
    windows=64             of each video, spread evenly
    frames=16,size=224     frames and pixels of the windows, as in `configs/probe.py`
    stride=4               distance between frames

Everything else is an override, such as `--config.eval.evaluators.moments.overlaps=[0.5]`. The figures are ours
[inferred]; the overlaps are those of Ego4D's moment queries.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, probe
from vmae_jax.spec import ConfigError, call


def get_config(arguments: str | None = None, checkpoint: str | None = None) -> ConfigDict:
    args = common.parse(
        arguments, data=None, test=None, drawn=False, windows=64, frames=int, size=int, stride=4
    )  # fmt: skip
    given = [one is not None for one in (args.data, args.test)]
    if any(given) == args.drawn or any(given) != all(given):
        raise ConfigError("configs/moments.py: give videos with segments as data=FOLDER,test=FOLDER, or drawn")
    clips = probe.clips_of(args, checkpoint)
    loaders = {part: loader(args, part, **clips) for part in ("train", "test")}
    evaluator = call("eval.moments", train=loaders["train"])
    evaluation = call("train.settings.Evaluation", data=loaders["test"], evaluators={"moments": evaluator})
    return ConfigDict({"eval": evaluation}, sort_keys=False, convert_dict=False)


def loader(args: Any, part: str, *, frames: int, size: int, channels: int) -> ConfigDict:
    """Return the loader of the videos that are learned from ("train") or of the others ("test")."""
    if args.drawn:
        settings = call("data.synthetic.world.settings", train=48, validation=1, test=24, size=64, frames=48)
        source = call("data.synthetic.world", settings=settings, split=part)
    else:
        folder = call("data.sources.folder", path=args.data if part == "train" else args.test)
        sides = {"segments": call("data.sides.sidecar", suffix="_segments.csv")}
        source = call("data.sides.beside", source=folder, sides=sides)
    return call(
        "data.pipeline.loader",
        source=source,
        sampler=call("data.clips.multiview", frames=frames, stride=args.stride, views=args.windows),
        transforms=[call("data.transforms.center_crop", size=size)],
        streams={"segments": call("data.streams.segments")},
        channels=channels,
        global_batch=4,
        shuffle=False,
    )
