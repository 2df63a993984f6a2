"""What frozen features know of labelled videos, for any checkpoint: `configs/probe.py:linear,data=FOLDER`.

    vmae eval --checkpoint=runs/v2_base --config=configs/probe.py:linear,data=FOLDER

There is nothing to train but the probe itself; the checkpoint may be of pre-training, fine-tuned or imported.

    linear                 logistic regression on standardised, pooled features (the default)
    knn                    a vote of the 20 nearest training videos; no parameter at all
    retrieval              is one of the nearest training videos of the same class?
    attentive              cross-attention and a linear layer, trained on all tokens (memory: see eval.attentive_probe)

    data=FOLDER            a subfolder a class, a tenth of it held out; or what `vmae data prepare` made, whose split
                           "validation" or "test" is held out where it has one
    data=A,test=B          the videos that are known and those that are asked: two folders, or two lists
                           (A.csv, `path label` a line; names=FILE numbers labels that are words)
    frames=16,size=224     frames and pixels of the clips; by default the checkpoint's. Give others to the model as
                           well: --config.method.model.frames=16 --config.method.model.resolution=224
    stride=4,views=1       frames from one to the next; clips of each video, whose features are averaged

Everything else is an override, such as `--config.eval.evaluators.linear.layer=8`. The figures are ours [inferred].
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common
from vmae_jax.spec import ConfigError, call


def get_config(arguments: str | None = None, checkpoint: str | None = None) -> ConfigDict:
    args = common.parse(
        arguments,
        kind=("linear", "knn", "retrieval", "attentive"),
        data=None,
        test=None,
        names=None,
        frames=int,
        size=int,
        stride=4,
        views=1,
    )
    if args.data is None:
        raise ConfigError("configs/probe.py: data=FOLDER or data=LIST.csv says which labelled videos")
    if args.test is None and listed(args.data):
        raise ConfigError(f"configs/probe.py: data={args.data} is a list of the known videos; test= is to name another")
    model = common.saved_model(checkpoint) or {}
    clips = {"frames": args.frames or model.get("frames", 16), "size": args.size or model.get("resolution", 224)}
    clips["channels"] = model.get("channels", 3)
    train, test = (loader(args, part, **clips) for part in ("train", "held_out"))
    evaluator = {
        "linear": lambda: call("eval.probe", train=train),
        "knn": lambda: call("eval.knn", train=train),
        "retrieval": lambda: call("eval.knn.retrieval", train=train),
        "attentive": lambda: call("eval.attentive_probe", train=train, pool=call("models.pooling.attentive")),
    }[args.kind]()
    evaluation = call("train.settings.Evaluation", data=test, evaluators={args.kind: evaluator})
    return ConfigDict({"eval": evaluation}, sort_keys=False, convert_dict=False)


def listed(path: str) -> bool:
    """Whether a path is a list of videos."""
    return path.endswith((".csv", ".txt", ".tsv"))


def loader(args: Any, part: str, *, frames: int, size: int, channels: int) -> ConfigDict:
    """The videos that are known ("train") or asked ("held_out"), every one once and in order."""
    path = args.data if part == "train" or args.test is None else args.test
    if listed(path):
        source = call("data.sources.csv", path=path, **({} if args.names is None else {"names": {"label": args.names}}))
    else:
        part = part if args.test is None else "all"
        one = {"path": path, "labels": "folders", "part": part, "names": args.names}
        source = call("data.sources.images" if frames == 1 else "data.sources.folder", **one)
    clips = {"frames": frames, "stride": args.stride if frames > 1 else 1}
    one = call("data.clips.dense_finetune", **clips, random=False)
    return call(
        "data.pipeline.loader",
        source=source,
        sampler=one if args.views == 1 else call("data.clips.multiview", **clips, views=args.views),
        transforms=[call("data.transforms.center_crop", size=size)],
        channels=channels,
        global_batch=32,
        shuffle=False,
        labels=True,
    )
