"""Few-shot recognition with frozen features, for any checkpoint: `configs/few_shot.py:data=FOLDER`.

    vmae eval --checkpoint=runs/v2_base --config=configs/few_shot.py:data=FOLDER

Nothing of the encoder is trained. An episode is a task of 5 classes with 5 labelled videos each; there are 600, the
same for every model.

    logistic               logistic regression (the default)
    prototype              the nearest mean of the labelled videos' features

    data=FOLDER            one subfolder per class; or a list, data=LIST.csv (`path label` per line;
                           names=FILE has the class names)
    ways=5,shots=5         classes of an episode, labelled videos of each
    queries=15             videos of each class to be recognized
    episodes=600,seed=0    how many episodes, and which
    logits                 the outputs of the heads in place of features (CDFSL-V)
    frames=16,size=224     frames and pixels of the clips, as in `configs/probe.py`
    stride=4,views=1       distance between frames; clips per video, whose features are averaged

Everything else is an override, such as `--config.eval.evaluators.few_shot.layer=8`. The figures are ours [inferred].
"""

from ml_collections import ConfigDict

from vmae_jax.configs import common, probe
from vmae_jax.spec import ConfigError, call


def get_config(arguments: str | None = None, checkpoint: str | None = None) -> ConfigDict:
    args = common.parse(
        arguments,
        classifier=("logistic", "prototype"),
        data=None,
        names=None,
        ways=5,
        shots=5,
        queries=15,
        episodes=600,
        seed=0,
        logits=False,
        frames=int,
        size=int,
        stride=4,
        views=1,
    )
    if args.data is None:
        raise ConfigError("configs/few_shot.py: give the labelled videos as data=FOLDER or data=LIST.csv")
    evaluator = call(
        "eval.few_shot",
        **{name: args[name] for name in ("ways", "shots", "queries", "episodes", "seed", "classifier")},
        of="logits" if args.logits else "features",
    )
    args.test = args.data  # all of the videos
    data = probe.loader(args, "held_out", **probe.clips_of(args, checkpoint))
    evaluation = call("train.settings.Evaluation", data=data, evaluators={"few_shot": evaluator})
    return ConfigDict({"eval": evaluation}, sort_keys=False, convert_dict=False)
