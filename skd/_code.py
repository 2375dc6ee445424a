"""Digests of code: two functions with one digest do the same, as far as instructions and plain values tell."""

from __future__ import annotations

import functools
import hashlib
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def without_addresses(text: str) -> str:
    """A repr without the places in memory that change from process to process."""
    return _ADDRESS.sub("", text)


def code_of(thing: Any) -> str:
    """A digest of the code of a function, of a class' own methods, or of what a partial or an object calls."""
    found = hashlib.sha256()
    for function in _functions(thing):
        for text in _words(function.__code__, function.__doc__):
            found.update(text.encode())
        for value in (*(function.__defaults__ or ()), *(_cell(cell) for cell in function.__closure__ or ())):
            found.update(_value(value).encode())
    if isinstance(thing, functools.partial):
        found.update(" ".join(map(_value, (*thing.args, *sorted(thing.keywords.items())))).encode())
    return found.hexdigest()[:12]


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _value(value: Any) -> str:
    """What a default, a closed-over variable or an argument is, as far as it says so; functions by their code."""
    if isinstance(value, types.FunctionType):
        return f"{value.__qualname__}"  # not its code: functions may close over each other
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(map(_value, value)) + ")"
    return type(value).__qualname__


def _functions(thing: Any) -> Iterator[types.FunctionType]:
    if isinstance(thing, types.FunctionType):
        yield thing
    elif isinstance(thing, types.MethodType):
        yield from _functions(thing.__func__)
    elif isinstance(thing, type):
        for _, member in sorted(vars(thing).items()):
            inner: Callable[..., Any] | None = getattr(member, "__func__", None) or getattr(member, "fget", None)
            if isinstance(member, types.FunctionType) or inner is not None:
                yield from _functions(inner or member)
    elif hasattr(thing, "func"):
        yield from _functions(thing.func)
    elif not isinstance(thing, types.BuiltinFunctionType):
        yield from _functions(type(thing))


def _words(code: types.CodeType, doc: str | None) -> Iterator[str]:
    yield code.co_code.hex()
    yield " ".join(code.co_names)
    first, *others = code.co_consts or (None,)
    for constant in others if first is None or first == doc else code.co_consts:  # a docstring, or its absence
        if isinstance(constant, types.CodeType):
            yield from _words(constant, None)
        elif isinstance(constant, frozenset):
            yield repr(sorted(constant, key=repr))  # its own order changes from process to process
        else:
            yield repr(constant)
