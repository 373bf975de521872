"""Eight numbers as one value inside a Numba function, so that sums stay in registers.

LLVM splits a vector into what the machine has. Nothing is reordered or assumed finite: infinities and NaN come out as
in plain arithmetic. `fma` may round once instead of twice, as in every BLAS.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models, register_default
from numba.core.extending import intrinsic

from .chains import LANES


class Vector(types.Type):
    """LANES numbers of a float type."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(name=f"Vector({dtype})")


@register_default(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        number = ir.FloatType() if vector.dtype == types.float32 else ir.DoubleType()
        super().__init__(manager, vector, ir.VectorType(number, LANES))


def _pointer(context: Any, builder: ir.IRBuilder, array_type: Any, array: Any, index: Any) -> Any:
    """Address of array[index]; nothing is checked."""
    return builder.gep(cgutils.create_struct_proxy(array_type)(context, builder, array).data, [index])


def _shuffled(builder: ir.IRBuilder, vector: Any, lanes: Sequence[int]) -> Any:
    return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(ir.IntType(32), LANES), lanes))


def _filled(builder: ir.IRBuilder, number: Any) -> Any:
    undefined = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    return _shuffled(builder, builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0)), [0] * LANES)


def _elementwise(emit: Callable[..., Any]) -> Callable[..., Any]:
    """Code of an operation on vectors alone: emit(builder, *vectors) -> vector."""
    return lambda context, builder, signature, arguments: emit(builder, *arguments)


@intrinsic
def load(typing, array, index):
    """array[index : index + LANES] of a contiguous array of one dimension."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(signature.return_type).as_pointer()
        pointer = builder.bitcast(_pointer(context, builder, array, *arguments), kind)
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return Vector(array.dtype)(array, types.uintp), generate


@intrinsic
def store(typing, array, index, vector):
    """array[index : index + LANES] = vector."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        *place, value = arguments
        pointer = builder.bitcast(_pointer(context, builder, array, *place), value.type.as_pointer())
        builder.store(value, pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(array, types.uintp, vector), generate


@intrinsic
def spread(typing, array, index):
    """array[index] in every lane."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return _filled(builder, builder.load(_pointer(context, builder, array, *arguments)))

    return Vector(array.dtype)(array, types.uintp), generate


@intrinsic
def fill(typing, number):
    """The number in every lane."""
    return Vector(number)(number), _elementwise(_filled)


@intrinsic
def add(typing, a, b):
    """a + b."""
    return a(a, a), _elementwise(lambda builder, a, b: builder.fadd(a, b))


@intrinsic
def mul(typing, a, b):
    """a * b."""
    return a(a, a), _elementwise(lambda builder, a, b: builder.fmul(a, b))


@intrinsic
def fma(typing, a, b, c):
    """a * b + c."""

    def emit(builder: ir.IRBuilder, *vectors: Any) -> Any:
        kind = vectors[0].type
        name = f"llvm.fmuladd.v{LANES}f{a.dtype.bitwidth}"
        return builder.call(
            cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name), vectors
        )

    return a(a, a, a), _elementwise(emit)


@intrinsic
def where_positive(typing, a, b):
    """b where a > 0 or a is NaN, else 0: the ReLU (a, a) and its gradient (activation, gradient)."""

    def emit(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
        zero = ir.Constant(a.type, None)
        return builder.select(builder.fcmp_unordered(">", a, zero), b, zero)

    return a(a, a), _elementwise(emit)


@intrinsic
def where_larger(typing, a, b, c, d):
    """c where a > b or a is NaN, else d: a NaN is a maximum, as in torch."""

    def emit(builder: ir.IRBuilder, a: Any, b: Any, c: Any, d: Any) -> Any:
        wins = builder.or_(builder.fcmp_ordered(">", a, b), builder.fcmp_unordered("uno", a, a))
        return builder.select(wins, c, d)

    return a(a, a, a, a), _elementwise(emit)


@intrinsic
def where_equal(typing, a, b, c):
    """c where a == b, else 0."""

    def emit(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
        return builder.select(builder.fcmp_ordered("==", a, b), c, ir.Constant(c.type, None))

    return a(a, a, a), _elementwise(emit)


@intrinsic
def sum_of_fours(typing, a):
    """In every lane the sum over lanes 0 to 3 or 4 to 7, to which it belongs."""

    def emit(builder: ir.IRBuilder, a: Any) -> Any:
        a = builder.fadd(a, _shuffled(builder, a, [1, 0, 3, 2, 5, 4, 7, 6]))
        return builder.fadd(a, _shuffled(builder, a, [2, 3, 0, 1, 6, 7, 4, 5]))

    return a(a), _elementwise(emit)


@intrinsic
def not_inlined(typing):
    """Written into a function: LLVM makes no copies of it in those that call it, which halves the time to compile."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.none(), generate


@intrinsic
def barrier(typing):
    """No load moves across, and no machine code comes of it. At the end of a loop's body it keeps LLVM from loading for
    later passes, for which there are no registers left (a third of the time of a product)."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], side_effect=True)
        return context.get_dummy_value()

    return types.none(), generate
