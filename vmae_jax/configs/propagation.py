"""Label propagation with frozen features, for any checkpoint: `configs/propagation.py:davis,data=FOLDER`.

    vmae eval --checkpoint=runs/v2_base --config=configs/propagation.py:davis,data=DAVIS

Nothing is trained: the labels of a video's first frame are carried through it by the similarity of features.

    davis    objects of DAVIS 2017 (the default): J, F and their mean
    vip      parts of people and clothes of VIP: mean intersection over union
    jhmdb    joints of JHMDB: PCK at 0.1 and 0.2
    drawn    shapes of drawn clips, which need no download: J and F

    data=FOLDER    the owners' files (see `data.sequences`)
    split=1        of JHMDB: 1, 2 or 3

The figures are those of the public evaluation of CropMAE [code], those of drawn clips ours [inferred].
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common
from vmae_jax.spec import ConfigError, call

BENCHMARKS = ("davis", "vip", "jhmdb", "drawn")
SIZES = {"davis": [480, 880], "vip": [880], "jhmdb": [320, 320], "drawn": [128, 128]}
TOPK = {"vip": 10}  # 7 of the others


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, kind=BENCHMARKS, data=None, split=1)
    if (args.data is None) != (args.kind == "drawn"):
        raise ConfigError(
            "configs/propagation.py: drawn clips have no data="
            if args.data
            else f"configs/propagation.py: give the owners' files of {args.kind} as data=FOLDER"
        )
    evaluator = call(
        "eval.propagation",
        sequences=_sequences(args),
        size=SIZES[args.kind],
        temperature=0.7,
        topk=TOPK.get(args.kind, 7),
        radius=20.0,
        context=20,
    )
    evaluation = call("train.settings.Evaluation", evaluators={args.kind: evaluator})
    return ConfigDict({"eval": evaluation}, sort_keys=False, convert_dict=False)


def _sequences(args: Any) -> ConfigDict:
    if args.kind == "drawn":
        drawing = call("data.synthetic.world.settings", test=20, size=128)
        return call("data.sequences.drawn", settings=drawing)
    split = {"split": args.split} if args.kind == "jhmdb" else {}
    return call(f"data.sequences.{args.kind}", directory=args.data, **split)
