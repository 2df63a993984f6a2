"""Probes of frozen features on labelled videos, for any checkpoint: `configs/probe.py:linear,data=FOLDER`.

    vmae eval --checkpoint=runs/v2_base --config=configs/probe.py:linear,data=FOLDER

Only the probe itself is trained; the checkpoint can be pre-trained, fine-tuned or imported.

    linear                 logistic regression on standardised, pooled features (the default)
    knn                    a vote of the 20 nearest training videos; no trained parameter
    retrieval              whether one of the nearest training videos has the same class
    attentive              cross-attention and a linear layer, trained on all tokens (memory: see eval.attentive_probe)
    attentive,deep         V-JEPA 2's: three blocks of self-attention first, and the best of 20 rates and weight decays,
                           found on a tenth of the training videos; the clips of a video are one sequence

    data=FOLDER            one subfolder per class, a tenth of it held out; or the output of `vmae data prepare`, whose
                           split "validation" or "test" is held out if it has one
    data=A,test=B          training and test videos: two folders, or two lists
                           (A.csv, `path label` per line; names=FILE has the class names)
    frames=16,size=224     frames and pixels of the clips; by default the checkpoint's. Give others to the model as
                           well: --config.method.model.frames=16 --config.method.model.resolution=224
    stride=4,views=1       distance between frames; clips per video, whose features are averaged

Everything else is an override, such as `--config.eval.evaluators.linear.layer=8`. The figures but those of the deep
probe are ours [inferred].
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common
from vmae_jax.spec import ConfigError, call
from vmae_jax.weights.resizing import model_of

# Of evals/video_classification_frozen in the code of V-JEPA 2 (configs/eval/*.yaml).
RATES, WEIGHT_DECAYS = [5e-3, 3e-3, 1e-3, 3e-4, 1e-4], [0.01, 0.1, 0.4, 0.8]


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
        deep=False,
    )
    if args.deep and args.kind != "attentive":
        raise ConfigError(f"configs/probe.py: deep is of the attentive probe, not of {args.kind}: attentive,deep")
    if args.data is None:
        raise ConfigError("configs/probe.py: give the labelled videos as data=FOLDER or data=LIST.csv")
    if args.test is None and listed(args.data):
        raise ConfigError(
            f"configs/probe.py: data={args.data} is the list of training videos; give that of the test videos as test="
        )
    clips = clips_of(args, checkpoint)
    train, test = (loader(args, part, **clips) for part in ("train", "held_out"))
    evaluator = {
        "linear": lambda: call("eval.probe", train=train),
        "knn": lambda: call("eval.knn", train=train),
        "retrieval": lambda: call("eval.knn.retrieval", train=train),
        "attentive": lambda: attentive(train, args),
    }[args.kind]()
    evaluation = call("train.settings.Evaluation", data=test, evaluators={args.kind: evaluator})
    return ConfigDict({"eval": evaluation}, sort_keys=False, convert_dict=False)


def attentive(train: ConfigDict, args: Any) -> ConfigDict:
    """Return the attentive probe, shallow or deep."""
    if not args.deep:
        return call("eval.attentive_probe", train=train, pool=call("models.pooling.attentive"))
    heads = {"rates": RATES, "weight_decays": WEIGHT_DECAYS, "warmup": 0.0, "clips": args.views}
    return call("eval.attentive_probe", train=train, pool=call("models.pooling.deep_attentive"), **heads)


def listed(path: str) -> bool:
    """Whether a path is a list of videos."""
    return path.endswith((".csv", ".txt", ".tsv"))


def clips_of(args: Any, checkpoint: str | None) -> dict[str, int]:
    """Return frames, size and channels of clips: as given, or else those that the checkpoint was trained on."""
    model = model_of(common.saved_method(checkpoint), "params/video")[0] or {}
    data: Any = common.saved_section(checkpoint, "data") or {}
    sizes = [one.size for one in data.get("transforms") or () if "size" in one]
    return {
        # A network of frames may have a method that reads more of them, for the flow between them.
        "frames": args.frames or (data.get("sampler") or {}).get("frames") or model.get("frames", 16),
        "size": args.size or model.get("resolution") or (sizes or [224])[-1],
        "channels": model.get("channels", 3),
    }


def loader(args: Any, part: str, *, frames: int, size: int, channels: int) -> ConfigDict:
    """Return the loader of the training ("train") or test videos ("held_out"), each once and in order."""
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
