"""Fine-tuning or probing on your own videos, whatever their labels: `configs/custom.py:B,classes=12,weights=WORKDIR`.

One of these selects what is predicted, and the columns of the list (a header is skipped):

    classes=12             one class per video         path,label     run.mp4,running
    several=157            any number of classes      path,label     run.mp4,running;talking
    verbs=97,nouns=300     two heads                  path,verb,noun run.mp4,take,cup
    numbers=2              regression                 path,label     run.mp4,0.5;12

The lists are `--config.data.source.path=train.csv --config.eval.data.source.path=test.csv`. Labels are numbers from
0, or names; then name the file with the class names once: `--config.data.source.names.label=FILE`. `folders` takes a
folder of videos with one subfolder per class instead, and holds a tenth of them out.

    attentive              cross-attention instead of the tokens' mean
    probe                  train only the head: the encoder stays bit-for-bit the same

The model and its clips are those of `weights=WORKDIR`, trained here or imported. With `weights=none`, training begins
from random values, and `B` (S, L, H, g, tiny) selects the model, with 16 frames and 224 pixels.

    frames=16,size=224     other clips than those of the weights; the positions are resized
    frames=1               images: the lists name pictures, or the folder contains them

The defaults are ours (`recipes.csv`). Try the learning rate and the length first:
`--config.optimizer.schedule.peak=` and `--config.train.length.epochs=`.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, finetune, recipes
from vmae_jax.models.variants import VARIANTS
from vmae_jax.spec import ConfigError, call


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(
        arguments,
        model=(None, "B", "S", "L", "H", "g", "tiny"),
        frames=int,
        size=int,
        classes=0,
        several=0,
        verbs=0,
        nouns=0,
        numbers=0,
        folders=False,
        attentive=False,
        probe=False,
        weights=None,
        smoke=False,
    )
    recipe = recipes.recipe("custom:B,classes=12" + (",attentive,probe" if args.probe else ""))
    heads, labels, columns = predicted(args)
    regular = finetune.regularised(recipe)
    head = {"classes": args.classes, **regular}
    if heads:
        head = {"heads": heads} | {
            name: regular[name] for name in ("dropout", "init_scale", "erase") if name in regular
        }
    pool = {"pool": call("models.pooling.attentive")} if args.attentive else {}
    model = network(args, recipe)
    method = call("methods.classify.build", model=model, **head, **pool)
    scratch = args.weights == "none"
    begin = {} if scratch else {"params/encoder": common.begin(args.weights, select="params/encoder")}
    names = dict.fromkeys(labels if isinstance(labels, dict) else ["label"])

    def source(split: str) -> ConfigDict:
        if args.folders:
            kind = "images" if args.frames == 1 else "folder"
            return call(f"data.sources.{kind}", labels="folders", part={"train": "train"}.get(split, "held_out"))
        return call("data.sources.csv", columns=columns, names=names)

    config: Any = finetune.supervised(method, recipe, begin, source=source, labels=labels)
    common.take_clips(config, model)
    if not args.folders:  # one override names the classes of both lists
        for name in names:
            config.eval.data.source.names[name] = config.data.source.names.get_ref(name)
    return common.smoke(config) if args.smoke else config


def network(args: Any, recipe: Any) -> Any:
    """Return the model of the weights, or of a size, with the given frames and pixels."""
    made: Any = finetune.network(args.model or "B", recipe)["model"]
    saved = common.saved_model(args.weights)
    if saved is not None and saved.get("call") != made.call:
        raise ConfigError(
            f"configs/custom.py: weights={args.weights} has a model {saved.get('call')!r}, but this config takes "
            f"only {made.call!r}; write a config of your own for it"
        )
    if saved is not None:
        saved = call(made.call, **{key: saved[key] for key in saved if key != "call"})
        dims, wanted = _dims(saved), _dims(made)
        if args.model and dims != wanted:
            raise ConfigError(
                f"configs/custom.py: {args.model} is a model of {_words(wanted)}, weights={args.weights} of "
                f"{_words(dims)}: leave {args.model} out, or give other weights="
            )
        made, remat = saved, "full" if dims["width"] >= VARIANTS["H"].width else "none"
        made.update(drop_path=recipe.drop_path, remat=remat)
    made.update({key: value for key, value in (("frames", args.frames), ("resolution", args.size)) if value})
    if args.frames == 1:
        made.tubelet = 1
    return made


def _dims(model: Any) -> dict[str, int]:
    """Return the encoder's dimensions, explicit or from the size."""
    variant = VARIANTS.get(model.size)
    if variant is None:
        raise ConfigError(f"configs/custom.py: unknown model size {model.size!r}; there are {', '.join(VARIANTS)}")
    return {name: model[name] or getattr(variant, name) for name in ("width", "depth", "heads", "patch")}


def _words(dims: dict[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in dims.items())


def predicted(args: ConfigDict) -> tuple[dict[str, ConfigDict], Any, str | None]:
    """Return the heads by name ({} for a single class), the labels of the loader, and the columns of the list."""
    kinds = [name for name in ("classes", "several", "verbs", "nouns", "numbers") if args[name]]
    if kinds == ["classes"]:
        return {}, True, "path,label"
    if args.folders:
        raise ConfigError("configs/custom.py: folders have one class per video: give classes=…")
    if kinds == ["several"]:
        count = args.several
        heads = {"classes": call("methods.labels.many", classes=count)}
        return heads, {"label": call("data.labels.many", classes=count)}, "path,label"
    if kinds == ["numbers"]:
        heads = {"numbers": call("methods.labels.numbers", outputs=args.numbers)}
        return heads, {"label": call("data.labels.numbers", size=args.numbers)}, "path,label"
    if kinds == ["verbs", "nouns"]:
        heads = {
            name: call("methods.labels.one", classes=args[f"{name}s"], smoothing=0.1, label=name)
            for name in ("verb", "noun")
        }
        return heads, {name: call("data.labels.one") for name in heads}, "path,verb,noun"
    raise ConfigError(
        f"configs/custom.py: give one of classes=…, several=…, verbs=…,nouns=… or numbers=…, "
        f"got {' and '.join(kinds) or 'none'}"
    )
