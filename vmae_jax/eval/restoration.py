"""How well hidden pixels are restored: PSNR and SSIM of reconstructed frames."""

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from vmae_jax.eval.collect import About, Results, per_video
from vmae_jax.registry import register
from vmae_jax.types import Batch, Carried, Context, Method, Params, Pictures

__all__ = ["Restoration", "psnr", "restoration", "ssim"]

RANGE = 255.0
BEST = 100.0  # decibels of equal frames
WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
GIVEN = ("original", "reference", "masked")  # rows that are no reconstruction
RESTORED = "reconstructed"  # the first word of the rows that need no word in the names of metrics


@dataclasses.dataclass(frozen=True)
class Restoration:
    """See `restoration`."""

    masks: Mapping[str, Any]
    seed: int
    reads_views: ClassVar[bool] = True

    def check(self, method: Method, params: Params, batch: Batch, carried: Carried) -> None:
        """Trace the reconstructions over shapes; raise ValueError if the method has none, or the data lack a stream."""
        if method.reconstruct is None:
            raise ValueError("the method reconstructs no pixels")
        if self.masks and "mask" not in inspect.signature(method.reconstruct).parameters:
            raise ValueError("masks: the method's reconstruction takes no other mask than its own")
        try:
            jax.eval_shape(self._measure(method), params, batch, carried)
        except KeyError as error:
            raise ValueError(f"the reconstruction needs {error}, which the data do not have") from error

    def __call__(self, method: Method, params: Params, batches: Iterable[Batch], about: About | None = None) -> Results:
        """Return PSNR and SSIM for each mask, averaged over frames and videos, and a table of the videos."""
        about = about or About()
        carried = about.carried()
        rows = iter(batches)
        first = next(rows, None)
        if first is None:
            raise ValueError("there is nothing to evaluate")
        names = self._names(method, params, first, carried)
        compiled = about.programs((method.reconstruct, *self.masks.items(), self.seed), self._measure(method))
        found = per_video(lambda p, b: compiled(p, b, carried), params, itertools.chain([first], rows), ())
        title = about.name or str
        table = [["video", *names], *([title(int(n)), *one] for n, one in zip(found.index, found.outputs.tolist()))]
        means = dict(zip(names, found.outputs.mean(axis=0).tolist(), strict=True))
        return Results(means | {"videos": float(len(found.index))}, {"videos.csv": table})

    def _pictures(self, method: Method) -> dict[str, Callable[..., Pictures]]:
        """Return (params, batch, context) -> Pictures for each mask, by the beginning of its metrics' names."""
        reconstruct = method.reconstruct
        assert reconstruct is not None

        def of(mask: Any) -> Callable[..., Pictures]:
            return lambda params, batch, context: reconstruct(params, batch, context, mask=mask)

        return {f"{name}_": of(mask) for name, mask in self.masks.items()} if self.masks else {"": reconstruct}

    def _context(self, carried: Carried) -> Context:
        return carried.context(jax.random.key(self.seed))

    def _names(self, method: Method, params: Params, batch: Batch, carried: Carried) -> list[str]:
        """Return the names of the columns of `_measure`."""
        names = []
        for prefix, make in self._pictures(method).items():
            pictures = jax.eval_shape(lambda p, b, c, make=make: make(p, b, self._context(c)), params, batch, carried)
            for name in pictures.names:
                if name not in GIVEN:
                    word = name.partition(",")[0]
                    of = "" if word == RESTORED else f"{word}_"
                    of += "true_statistics_" if name in pictures.borrowed else ""
                    names += [f"{prefix}{of}{metric}" for metric in ("psnr", "ssim")]
        return names

    def _measure(self, method: Method) -> Callable[..., Array]:
        """Return (params, batch, carried) -> the metrics of each clip, [b metrics]."""

        def measure(params: Params, batch: Batch, carried: Carried) -> Array:
            columns = []
            for make in self._pictures(method).values():
                rows = make(params, batch, self._context(carried)).rows
                for name, video in rows.items():
                    if name not in GIVEN:
                        columns += [metric(rows["original"], video).mean(axis=1) for metric in (psnr, ssim)]
            # A method of several views restores one row of each video; the metrics of its others are the same.
            return jnp.repeat(jnp.stack(columns, axis=1), method.views, axis=0)

        return measure


@register("evaluator", masks="mask")
def restoration(masks: Mapping[str, Any] | None = None, seed: int = 0) -> Restoration:
    """PSNR and SSIM of reconstructed frames, whose visible pixels are kept.

    A reconstruction that uses the true mean and deviation of hidden patches is measured as well, under names with
    true_statistics: a model does not have them. Further rows of a reconstruction, such as samples, have names of their
    own: `sampled_psnr`. Of methods that read several views of a video, the frames of the view that they restore are
    measured.

    Args:
      masks: masks by name, such as {"75": call("masking.random", ratio=0.75)}; the metrics are then NAME_psnr and
        NAME_ssim. None uses the method's own mask.
      seed: of random draws that belong to no example; masks follow the seeds of the examples.
    """
    return Restoration(dict(masks or {}), seed)


def psnr(truth: UInt8[Array, "b t h w c"], found: UInt8[Array, "b t h w c"]) -> Float[Array, "b t"]:
    """Return the peak signal-to-noise ratio of each frame in decibels, at most 100."""
    error = jnp.square(truth.astype(jnp.float32) - found.astype(jnp.float32)).mean(axis=(2, 3, 4))
    return jnp.minimum(10 * jnp.log10(RANGE**2 / jnp.maximum(error, 1e-20)), BEST)


def ssim(truth: UInt8[Array, "b t h w c"], found: UInt8[Array, "b t h w c"]) -> Float[Array, "b t"]:
    """Return the structural similarity of each frame (Wang et al. 2004), the mean of its channels.

    The window is a Gaussian of 11 x 11 pixels with a deviation of 1.5, and is within the frame.

    Raises:
      ValueError: if a frame is smaller than the window.
    """
    if min(truth.shape[2:4]) < WINDOW:
        raise ValueError(f"SSIM needs frames of at least {WINDOW} pixels a side, got {truth.shape[2]}x{truth.shape[3]}")
    b, t, h, w = truth.shape[:4]
    x, y = (jnp.moveaxis(one.astype(jnp.float32), -1, 2).reshape(-1, h, w, 1) for one in (truth, found))
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    light = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (var_x + var_y + C2)
    return (light * structure).reshape(b, t, -1).mean(axis=2)


def _blurred(x: Float[Array, "n h w 1"]) -> Float[Array, "n y x 1"]:
    offset = np.arange(WINDOW) - WINDOW // 2
    kernel = np.exp(-(offset**2) / (2 * SIGMA**2))
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for shape in ((WINDOW, 1, 1, 1), (1, WINDOW, 1, 1)):
        x = jax.lax.conv_general_dilated(
            x, kernel.reshape(shape), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
        )
    return x
