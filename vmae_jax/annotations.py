"""Whether plain data (numbers, text, lists, mappings) fit an argument's annotation."""

import collections.abc
import inspect
import numbers
import types
import typing
from typing import Any

__all__ = ["fits", "in_words", "scalar", "shapes"]

_LISTS = (list, tuple, collections.abc.Sequence)
_MAPPINGS = (dict, collections.abc.Mapping)
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "none"}


def fits(value: Any, annotation: Any) -> bool:
    """Return whether a value is what an annotation asks for; annotations of other types accept everything."""
    origin, inner = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if annotation is None or annotation is type(None):
        return value is None
    if annotation in (int, float):
        kind = numbers.Integral if annotation is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    if annotation in (str, bool):
        return isinstance(value, annotation)
    if origin in _LISTS:
        return isinstance(value, list | tuple) and _all_fit(value, origin, inner)
    if origin in _MAPPINGS:
        pairs = inner or (Any, Any)
        return isinstance(value, collections.abc.Mapping) and all(
            fits(key, pairs[0]) and fits(one, pairs[1]) for key, one in value.items()
        )
    return True


def scalar(annotation: Any) -> type:
    """Return the scalar type that an annotation such as `int | None` asks for, else `object`."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    kinds = [one for one in (typing.get_args(annotation) if union else (annotation,)) if one in (int, float, str, bool)]
    return kinds[0] if len(kinds) == 1 else object


def shapes(annotation: Any) -> set[Any]:
    """Return what an argument of calls may be: `dict` or `list` of them, `bool`, `float`, None; `object`: one call."""
    origin = typing.get_origin(annotation) or annotation
    if origin in (typing.Union, types.UnionType):
        return {shape for one in typing.get_args(annotation) for shape in shapes(one)}
    if annotation is None or annotation is type(None):
        return {None}
    if origin in _MAPPINGS:
        return {dict}
    return {list} if origin in _LISTS else {annotation} if annotation in (bool, float) else {object}


def in_words(annotation: Any) -> str:
    """Return what an annotation accepts, for an error message."""
    origin, inner = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(in_words(one) for one in inner))
    if annotation in _WORDS:
        return _WORDS[annotation]
    if origin in _LISTS:
        return "a list" + (f" of ({in_words(inner[0])})" if inner else "")
    if origin in _MAPPINGS:
        return "a mapping" + (f" to ({in_words(inner[1])})" if inner else "")
    return "plain data"


def _all_fit(values: Any, origin: Any, inner: tuple[Any, ...]) -> bool:
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        return len(values) == len(inner) and all(map(fits, values, inner))
    return all(fits(one, inner[0]) for one in values) if inner and inner[0] is not inspect.Parameter.empty else True
