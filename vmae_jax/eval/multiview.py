"""Multi-view testing: the scores of each video, averaged over its clips and crops.

The data determine the views: `data.clips.multiview` takes clips, `data.transforms.view_crop` with the
loader's `repeat` takes crops. The official test averages the softmax over all of them. The method declares the
meaning of its outputs (one class, several, or numbers; one head or more).
"""

import dataclasses
import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vmae_jax.eval.collect import About, Found, Results, per_video
from vmae_jax.eval.judge import jointly, judge
from vmae_jax.eval.scores import finite
from vmae_jax.registry import register
from vmae_jax.types import Array, Batch, Carried, Method, Output, Params

__all__ = ["Multiview", "multiview"]

ACTIVATIONS = {"one": jax.nn.softmax, "many": jax.nn.sigmoid, "numbers": lambda outputs: outputs}
ALONE = {"": Output("one", 0)}  # without a declaration: one class per column


@dataclasses.dataclass(frozen=True)
class Multiview:
    """See `multiview`."""

    pictures: bool

    def check(self, method: Method, params: Params, batch: Batch, carried: Carried) -> None:
        """Trace the outputs over shapes; raise ValueError if the method has none, or not for such clips."""
        del carried
        jax.eval_shape(_outputs(method), params, batch)

    def __call__(self, method: Method, params: Params, batches: Iterable[Batch], about: About | None = None) -> Results:
        """Return the metrics of every head, the tables videos.csv and classes.csv, predictions and pictures."""
        predict, heads, about = _outputs(method), method.heads or ALONE, about or About()

        def votes(params: Params, batch: Batch) -> Array:
            parts = _parts(predict(params, batch), heads)
            return jnp.concatenate([ACTIVATIONS[heads[name].kind](part) for name, part in parts.items()], axis=1)

        found = per_video(about.programs((predict,), votes), params, batches, [head.label for head in heads.values()])
        keys = found.index.tolist() if about.name is None else list(map(about.name, found.index.tolist()))
        finite(found.outputs, keys)
        scores = _parts(found.outputs, heads)
        truth = {name: _truth(found, head) for name, head in heads.items()}
        results = Results({"videos": float(len(found.index))})
        for name, head in heads.items():
            known = truth[name]
            if known is not None:
                names = about.label_names.get(head.label, ())
                judged = judge(head, scores[name], known, names, title=name, pictures=self.pictures)
                prefix = f"{name}_" if name else ""
                results.update({prefix + key: value for key, value in judged.items()})
                results.tables |= {prefix + file: rows for file, rows in judged.tables.items()}
                results.files |= {prefix + file: content for file, content in judged.files.items()}
        results.update(jointly(heads, scores, truth))
        results.tables["videos.csv"] = _videos(found, heads, scores, truth, about)
        results.files["predictions.npz"] = _predictions(found, scores, truth)
        return results


@register("evaluator")
def multiview(pictures: bool = True) -> Multiview:
    """The official test: scores averaged over all views of a video.

    Of one class: top1, top5 (of more than five classes), mean_class_accuracy and ece (the expected
    calibration error of the averaged scores), and of two classes auc (the area under the ROC curve); of several: map
    and ece; of numbers: mae, rmse, r2, pearson and spearman. With several heads each has its own, and joint_top1
    (joint_top5 for two) counts videos with all heads correct, as "action" for verb and noun. `vmae eval` also writes
    videos.csv, classes.csv, confusions.csv, calibration.csv, pictures of the last two, and predictions.npz with all
    scores.

    Args:
      pictures: whether to draw the confusion matrix and the calibration.
    """
    return Multiview(pictures)


def _outputs(method: Method) -> Callable[[Params, Batch], Array]:
    if method.predict is None:
        raise ValueError("multiview needs a method with outputs; for features there are eval.knn and eval.probe")
    if any(head.kind not in ACTIVATIONS for head in (method.heads or {}).values()):
        raise ValueError("multiview averages the clips of a video, but these outputs are of frames: use eval.frames")
    return method.predict


def _parts(outputs: Any, heads: Mapping[str, Output]) -> dict[str, Any]:
    """Return the columns of each head."""
    if heads is ALONE:
        return {"": outputs}
    ends = np.cumsum([head.outputs for head in heads.values()]).tolist()
    if ends[-1] != outputs.shape[1]:
        raise ValueError(f"the method has {outputs.shape[1]} outputs, its heads {ends[-1]}")
    return {name: outputs[:, end - head.outputs : end] for (name, head), end in zip(heads.items(), ends, strict=True)}


def _truth(found: Found, head: Output) -> np.ndarray | None:
    """Return the labels of a head, or None if there are none, or all are withheld (-1)."""
    truth = found.labels.get(head.label)
    if truth is None or (head.kind != "numbers" and head.numbered(truth) and (truth < 0).all()):
        return None
    return truth


def _videos(
    found: Found, heads: Mapping[str, Output], scores: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray | None], about: About,
) -> list[list[Any]]:  # fmt: skip
    """Return one row per video: its number (and name), and per head the label and the five best classes or numbers."""
    header: list[Any] = ["video"]
    columns: list[list[Any]] = [found.index.tolist()]
    if about.name is not None:
        header.append("name")
        columns.append([about.name(number) for number in columns[0]])
    for name, head in heads.items():
        known, prefix = truth[name], f"{name}_" if name else ""
        header.append(f"{prefix}label")
        columns.append([_cell(head, None if known is None else known[row]) for row in range(len(found.index))])
        if head.kind == "numbers":
            header += [f"{prefix}output{i + 1}" for i in range(scores[name].shape[1])]
            columns += [[round(float(value), 6) for value in column] for column in scores[name].T]
            continue
        best = np.argsort(-scores[name], axis=1, kind="stable")[:, :5]
        sure = np.take_along_axis(scores[name], best, axis=1)
        header += [f"{prefix}class{i + 1}" for i in range(best.shape[1])]
        header += [f"{prefix}score{i + 1}" for i in range(best.shape[1])]
        columns += [column.tolist() for column in best.T]
        columns += [[round(float(value), 6) for value in column] for column in sure.T]
    return [header, *(list(row) for row in zip(*columns, strict=True))]


def _cell(head: Output, value: Any) -> Any:
    """Return a label as a cell of a table."""
    if value is None:
        return ""
    if head.kind != "numbers" and np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.integer):
        return int(value)
    if head.kind == "many":
        return ";".join(map(str, np.flatnonzero(np.asarray(value) > 0.5)))
    return ";".join(f"{number:g}" for number in np.atleast_1d(value))


def _predictions(found: Found, scores: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray | None]) -> bytes:
    """Return all scores: `index`, and NAME_scores and NAME_label of each head."""
    arrays: dict[str, Any] = {"index": found.index}
    for name, part in scores.items():
        prefix, known = f"{name}_" if name else "", truth[name]
        arrays[f"{prefix}scores"] = part
        if known is not None:
            arrays[f"{prefix}label"] = known
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()
