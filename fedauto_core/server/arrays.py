"""Named arrays as one vector, and back: what a method averages, of what participants send."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod

import numpy as np

from fedauto_core.errors import InputError, require

Parameters = Mapping[str, np.ndarray]
"""Name -> array, as in a state_dict: a whole model, or its adapters alone."""


@dataclass(frozen=True)
class Layout:
    """Names, shapes and dtypes of arrays, in the order in which they stand in the vector [P].

    The vector's dtype is the smallest float, of at least 32 bits, that holds all of them. Integers and booleans
    (counters, masks) are averaged as numbers and rounded.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype]

    @classmethod
    def of(cls, arrays: Parameters) -> Layout:
        """That of `arrays`. InputError where there is none, or one of no real numbers."""
        require(len(arrays) > 0, "no arrays", allowed="one or more", remedy="start from the arrays of the model")
        for name, array in arrays.items():
            require(
                array.dtype.kind in "fiub",
                f"array {name!r} has dtype {array.dtype}",
                allowed="floats, integers, booleans",
                remedy="send real numbers; complex ones as two arrays",
            )
        return cls(
            {name: array.shape for name, array in arrays.items()}, {name: array.dtype for name, array in arrays.items()}
        )

    @property
    def dtype(self) -> np.dtype:
        return np.result_type(np.float32, *self.dtypes.values())

    @property
    def size(self) -> int:
        """P."""
        return sum(map(prod, self.shapes.values()))

    def rounded(self, vector: np.ndarray) -> np.ndarray:
        """Vector [P] as it comes back from the arrays, of narrower dtypes and of integers."""
        exact = {*self.dtypes.values()} == {self.dtype}
        return vector if exact else self.flatten(self.unflatten(vector))

    @property
    def floats(self) -> slice | np.ndarray:
        """Where the vector holds floats, whose size says whether training goes well; a counter's does not."""
        kinds = [dtype.kind == "f" for dtype in self.dtypes.values()]
        return slice(None) if all(kinds) else np.repeat(kinds, [*map(prod, self.shapes.values())])

    def parts(self, arrays: Parameters) -> Iterator[tuple[slice, np.ndarray]]:
        """Each array, flat, and where it stands in the vector; `arrays` may have any order and any real dtype.
        InputError where names or shapes differ."""
        if names := arrays.keys() ^ self.shapes.keys():
            raise InputError(
                f"arrays {sorted(names)} on one side only",
                allowed=f"the {len(self.shapes)} arrays of the model",
                remedy="send the arrays that were received",
            )
        begin = 0
        for name, shape in self.shapes.items():
            array, end = arrays[name], begin + prod(shape)
            if array.shape != shape or array.dtype.kind not in "fiub":
                raise InputError(
                    f"array {name!r} has shape {array.shape} and dtype {array.dtype}",
                    allowed=f"real numbers of shape {shape}",
                    remedy="send the arrays that were received",
                )
            yield slice(begin, end), array.reshape(-1)
            begin = end

    def flatten(self, arrays: Parameters) -> np.ndarray:
        """Vector [P] of `arrays`."""
        vector = np.empty(self.size, self.dtype)
        for place, part in self.parts(arrays):
            vector[place] = part
        return vector

    def difference(self, arrays: Parameters, vector: np.ndarray, out: np.ndarray) -> float:
        """Write `arrays` less `vector` [P] into `out` [P]; the sum of that, not finite unless all of it is."""
        total, subtract = 0.0, _compiled_subtraction()
        with np.errstate(over="ignore"):
            for place, part in self.parts(arrays):
                total += subtract(part.astype(self.dtype, copy=False), vector[place], out[place])
        return total

    def unflatten(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays in `vector` [P], each of its own dtype."""
        arrays, begin = {}, 0
        for name, shape in self.shapes.items():
            end = begin + prod(shape)
            arrays[name] = _as_dtype(vector[begin:end], self.dtypes[name]).reshape(shape)
            begin = end
        return arrays


@cache
def _compiled_subtraction() -> Callable[[np.ndarray, np.ndarray, np.ndarray], float]:
    """out = a - b, and its sum, in one pass: to read `out` once more takes a third of the time again."""
    from numba import njit  # takes a moment, so only who needs it does

    @njit(fastmath={"reassoc"})  # a sum in any order, which vector instructions need
    def subtract(a, b, out):
        total = out.dtype.type(0)
        for i in range(len(out)):
            out[i] = a[i] - b[i]
            total += out[i]
        return total

    return subtract


def _as_dtype(part: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f":
        return part.astype(dtype, copy=False)
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    largest = part.dtype.type(high)
    if int(largest) > high:  # the largest 64-bit integers are no floats
        largest = np.nextafter(largest, part.dtype.type(0))
    return np.clip(np.rint(part), low, largest).astype(dtype)
