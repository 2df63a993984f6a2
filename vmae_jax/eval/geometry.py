"""The geometry of features Z [N, D] of N different clips: spread, correlations, effective dimensions, distribution.

A latent objective can be minimized by constant features (complete collapse) or by features in a few dimensions
(dimensional collapse), and its loss falls meanwhile. These functions show both. They are NumPy in float64.

Numbers of different N or D cannot be compared: an effective rank is at most min(N, D), one less for centred features.
"""

import numpy as np

__all__ = [
    "EPSILON",
    "alpha",
    "centred",
    "cosine",
    "describe",
    "effective_rank",
    "lidar",
    "normalized_std",
    "off_diagonal",
    "participation",
    "rankme",
    "sigreg",
    "singular_values",
    "trace_ratio",
]

EPSILON = 1e-7  # added to each share, as in RankMe
_DEAD = 1e-2  # of the mean spread: a dimension below it is dead
_ROUNDING = 8 * float(np.finfo(np.float32).eps)  # features are float32, and a network rounds more than once
_KNOTS, _END = 17, 3.0  # of the integral in SIGReg
_DIRECTIONS = 256


def describe(features: np.ndarray) -> dict[str, float]:
    """Return every statistic of features [N, D] that needs one view of each clip, by name."""
    features = np.asarray(features, np.float64)
    middle = centred(features)
    std = features.std(axis=0)
    raw, values = singular_values(features), singular_values(middle, noise=_noise(features))
    return {
        "rankme": effective_rank(raw),
        "rankme_centred": effective_rank(values),
        "eigen_rank": effective_rank(values**2),
        "participation": participation(values**2),
        "alpha": alpha(values**2),
        "std": float(std.mean()),
        "std_min": float(std.min()),
        "dead": float((std < _DEAD * std.mean()).mean()) if std.any() else 1.0,
        "normalized_std": normalized_std(features),
        "cosine": cosine(features),
        "cosine_centred": cosine(middle),
        "off_diagonal": off_diagonal(features),
        "sigreg": sigreg(features),
    }


def centred(features: np.ndarray) -> np.ndarray:
    """Return features [N, D] without their mean."""
    features = np.asarray(features, np.float64)
    return features - features.mean(axis=0)


def singular_values(features: np.ndarray, *, noise: float = 0.0) -> np.ndarray:
    """Return the singular values of features [N, D], descending; those of at most `noise` are 0."""
    values = np.linalg.svd(np.asarray(features, np.float64), compute_uv=False)
    return np.where(values > noise, values, 0.0)


def effective_rank(values: np.ndarray) -> float:
    """Return exp(-sum p log p) with p = values / sum(values) + 1e-7: the number of values, if all are equal.

    Of singular values it is RankMe, of the covariance's eigenvalues the effective rank of Roy & Vetterli (2007), which
    is much smaller. If all values are 0, it is 1: constant features have one value.
    """
    total = values.sum()
    if total <= 0:
        return 1.0
    share = values / total + EPSILON
    return float(np.exp(-(share * np.log(share)).sum()))


def rankme(features: np.ndarray) -> float:
    """Return RankMe of features [N, D] as they are, not centred (Garrido et al. 2023, arXiv 2210.02885)."""
    return effective_rank(singular_values(features))


def participation(eigenvalues: np.ndarray) -> float:
    """Return the participation ratio (sum λ)² / sum λ² of a covariance's eigenvalues; 1 if all are 0."""
    squares = np.square(eigenvalues).sum()
    return float(np.square(eigenvalues.sum()) / squares) if squares > 0 else 1.0


def alpha(eigenvalues: np.ndarray) -> float:
    """Return the exponent of λ_k ∝ k^-α: the negative slope of log λ over log k (Agrawal et al. 2022, α-ReQ).

    It is fitted from a tenth to half of the eigenvalues that are not 0: the first ones do not follow the law, and the
    last ones depend on the number of clips. With fewer than ten, all are fitted; with fewer than two it is 0.
    """
    known = np.sort(eigenvalues[eigenvalues > 0])[::-1]
    first, last = (len(known) // 10, len(known) // 2) if len(known) >= 10 else (0, len(known))
    if last - first < 2:
        return 0.0
    place = np.log(np.arange(first, last) + 1.0)
    return float(-np.polyfit(place, np.log(known[first:last]), 1)[0])


def normalized_std(features: np.ndarray) -> float:
    """Return the mean spread of the dimensions of Z / ‖Z‖, times √D: 1 if directions are uniform, 0 if constant."""
    return float(_unit(features).std(axis=0).mean() * np.sqrt(features.shape[1]))


def cosine(features: np.ndarray) -> float:
    """Return the mean cosine between the features of different clips; 0 counts for a clip without direction."""
    unit, n = _unit(features), len(features)
    alone = np.square(unit).sum()
    return float((np.square(unit.sum(axis=0)).sum() - alone) / (n * (n - 1))) if n > 1 else 1.0


def off_diagonal(features: np.ndarray) -> float:
    """Return the mean square of the covariance's entries off its diagonal (VICReg's term, times D - 1)."""
    n, d = features.shape
    if n < 2 or d < 2:
        return 0.0
    middle = centred(features)
    covariance = middle.T @ middle / (n - 1)
    return float((np.square(covariance).sum() - np.square(np.diag(covariance)).sum()) / (d * (d - 1)))


def sigreg(features: np.ndarray, directions: int = _DIRECTIONS, seed: int = 0) -> float:
    """Return the statistic S of SIGReg (LeJEPA, arXiv 2511.08544): how far Z is from a standard normal distribution.

    It compares the characteristic function along random directions with that of the normal distribution
    (Epps & Pulley 1983), at 17 knots from 0 to 3, and is multiplied by N. It is about 1.05 for a standard normal
    distribution, whatever N is, and .402 N for features that are all 0. Scale and mean count.

    Args:
      features: [N, D].
      directions: number of random directions.
      seed: of the directions.
    """
    features = np.asarray(features, np.float64)
    axes = np.random.default_rng(seed).normal(size=(features.shape[1], directions))
    shown = features @ (axes / np.linalg.norm(axes, axis=0))
    total = np.zeros(directions)
    for number, knot in enumerate(np.linspace(0.0, _END, _KNOTS)):
        gauss = np.exp(-0.5 * knot**2)
        weight = 2 * _END / (_KNOTS - 1) * gauss * (0.5 if number in (0, _KNOTS - 1) else 1.0)
        real, imaginary = np.cos(knot * shown).mean(axis=0), np.sin(knot * shown).mean(axis=0)
        total += weight * ((real - gauss) ** 2 + imaginary**2)
    return float(len(features) * total.mean())


def lidar(views: np.ndarray, delta: float = 1e-4) -> float:
    """Return LiDAR of several views of each clip (Thilak et al. 2023, arXiv 2312.04000).

    It is the effective rank of the covariance of the clips' means, whitened by the mean covariance within a clip: what
    varies within clips alone does not count. It is scale-free, so read it beside `trace_ratio`.

    Args:
      views: [clips, views, D], at least two of each.
      delta: added to the variances within a clip.
    """
    between, within = _scatter(views)
    values, vectors = np.linalg.eigh(within)
    whiten = vectors / np.sqrt(np.maximum(values, 0.0) + delta)
    found = np.linalg.eigvalsh(whiten.T @ between @ whiten)
    return effective_rank(np.maximum(found, 0.0))


def trace_ratio(views: np.ndarray) -> float:
    """Return the variance between clips over that within clips, of [clips, views, D]; infinite for equal views."""
    between, within = (np.trace(part) for part in _scatter(views))
    return float(between / within) if within > 0 else float("inf")


def _scatter(views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the covariance of the clips' means, and the mean covariance within a clip, [D D] each."""
    views = np.asarray(views, np.float64)
    n, q, d = views.shape
    means = views.mean(axis=1)
    between = centred(means)
    within = (views - means[:, None]).reshape(n * q, d)
    return between.T @ between / max(n - 1, 1), within.T @ within / (n * (q - 1))


def _unit(features: np.ndarray) -> np.ndarray:
    """Return the rows scaled to length 1; rows of length 0 stay."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.divide(features, length, out=np.zeros(features.shape), where=length > 0)


def _noise(features: np.ndarray) -> float:
    """Return a bound of the singular values of what rounding adds to features: equal clips must not have a rank."""
    n, d = features.shape
    return _ROUNDING * (np.sqrt(n) + np.sqrt(d)) * float(np.sqrt(np.square(features).mean()))
