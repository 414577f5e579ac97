"""Results that cannot be changed: a mirror gives the same object to many callers.

They are dictionaries and lists, compare as such, and can be sent as JSON. What `copy` and `pickle`
make of them, and their own `copy` method, are ordinary ones, which can be changed.
"""

from __future__ import annotations

from typing import Any


def _refuse(self: object, *_: object, **__: object) -> Any:
    raise TypeError("a mirror's results are shared and cannot be changed: change a copy.deepcopy")


class _FrozenDict(dict[str, Any]):
    __slots__ = ()

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce_ex__(self, _: object) -> Any:
        return dict, (dict(self),)


class _FrozenList(list[Any]):
    __slots__ = ()

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __reduce_ex__(self, _: object) -> Any:
        return list, (list(self),)


def frozen(value: Any) -> Any:
    """Decoded JSON that cannot be changed."""
    if type(value) is dict:
        return _FrozenDict({name: frozen(item) for name, item in value.items()})
    if type(value) is list:
        return _FrozenList(map(frozen, value))
    return value
