"""Classes of single frames: how well a method's scores along time follow the labels of the frames."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from vmae_jax.eval import scores
from vmae_jax.eval.collect import About, Results, whole
from vmae_jax.registry import register
from vmae_jax.types import Batch, Carried, Method, Output, Params

__all__ = ["Frames", "frames"]


@dataclasses.dataclass(frozen=True)
class Frames:
    """See `frames`."""

    def check(self, method: Method, params: Params, batch: Batch, carried: Carried) -> None:
        """Raise ValueError if the method has no outputs of frames, or the data no labels of these."""
        del carried
        for head in _heads(method).values():
            for name in (head.label, f"{head.label}_valid"):
                if name not in batch:
                    raise ValueError(f"the data have no stream {name!r}: set streams= of the loader, as in training")
        assert method.predict is not None
        jax.eval_shape(method.predict, params, batch)

    def __call__(self, method: Method, params: Params, batches: Iterable[Batch], about: About | None = None) -> Results:
        """Return each head's mAP, share of exact frames, share of frames with a class, number of frames, and table."""
        heads = _heads(method)
        assert method.predict is not None
        compiled = (about or About()).programs((method.predict,), method.predict)
        found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in heads}
        for batch in batches:
            outputs, valid, start = whole(compiled(params, batch)), whole(batch["valid"]).astype(bool), 0
            scores.finite(outputs[valid])
            for name, head in heads.items():
                there = valid & whole(batch[f"{head.label}_valid"]).astype(bool)
                truth = whole(batch[head.label])[there].astype(bool)
                own = outputs[there, start : start + head.outputs].reshape(truth.shape)
                found[name].append((own.reshape(-1, truth.shape[-1]), truth.reshape(-1, truth.shape[-1])))
                start += head.outputs
        results = Results({})
        for name in heads:
            score, truth = (np.concatenate(parts) for parts in zip(*found[name], strict=True))
            if not len(truth):
                raise ValueError("there is nothing to evaluate: none of the videos has labels beside it")
            precisions = [scores.average_precision(s, t) for s, t in zip(score.T, truth.T, strict=True)]
            known = [one for one in precisions if not np.isnan(one)]
            results[f"{name}_mAP"] = float(np.mean(known)) if known else float("nan")
            results[f"{name}_exact"] = float(((score > 0) == truth).all(axis=1).mean())
            results[f"{name}_foreground"] = float(truth.any(axis=1).mean())
            results[f"{name}_frames"] = float(len(truth))
            rows = zip(range(len(precisions)), truth.sum(axis=0).tolist(), precisions, strict=True)
            results.tables[f"{name}_frames.csv"] = [["class", "frames", "AP"], *(list(row) for row in rows)]
        return results


@register("evaluator")
def frames() -> Frames:
    """Scores of frames against the labels of frames, for methods of temporal segmentation.

    NAME_mAP is the mean over the classes that occur of the average precision of all frames; NAME_exact the share of
    frames whose classes, at a probability of one half, are exactly those shown; NAME_foreground the share of frames
    that show any, and NAME_frames their number. A frame that several clips show counts as often.
    """
    return Frames()


def _heads(method: Method) -> Mapping[str, Output]:
    heads: Any = method.heads or {}
    if method.predict is None or not heads or any(head.kind != "frames" for head in heads.values()):
        raise ValueError("eval.frames needs a method with outputs of frames, such as methods.segmentation")
    return heads
