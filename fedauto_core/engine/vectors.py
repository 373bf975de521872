"""Eight numbers as one value inside a Numba function, so that sums stay in registers.

LLVM splits a vector into what the machine has. Nothing is reordered or assumed finite: infinities and NaN come out as
in plain arithmetic. `fma` may round once instead of twice, as in every BLAS.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import binding, ir
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


def _filled(builder: ir.IRBuilder, number: Any, lanes: int = LANES) -> Any:
    undefined = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))


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
def where_smaller(typing, a, b, c, d):
    """c where a < b or one of them is NaN, else d."""

    def emit(builder: ir.IRBuilder, a: Any, b: Any, c: Any, d: Any) -> Any:
        return builder.select(builder.fcmp_unordered("<", a, b), c, d)

    return a(a, a, a, a), _elementwise(emit)


@intrinsic
def where_equal(typing, a, b, c):
    """c where a == b, else 0."""

    def emit(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
        return builder.select(builder.fcmp_ordered("==", a, b), c, ir.Constant(c.type, None))

    return a(a, a, a), _elementwise(emit)


AVX512 = bool(dict(binding.get_host_cpu_features()).get("avx512f"))
MANY_ROWS = 8 if AVX512 else 6  # whose sums fit into the registers


def _product_tile(n_rows: int, blocks: int, scattered: bool = False) -> Callable[..., None]:
    """An intrinsic that computes a tile of a product, `n_rows` rows by `blocks` blocks of lanes, as
    `products.multiply`, or `multiply_overlapping` where they are `scattered`: from row m on, repeated where there are
    too few (hence no place of c may occur twice in the rows of a tile), and from block n on."""
    lanes, bits = blocks * LANES, ir.IntType(32)
    pieces = blocks if scattered else 1  # that lie each by itself in c

    def chosen(numbers: Sequence[int]) -> ir.Constant:
        return ir.Constant(ir.VectorType(bits, len(numbers)), list(numbers))

    @intrinsic
    def tile(typing, a, rows, m, columns, b, n, width, c, to_rows, to_columns, accumulate):
        dtype, whole = a.dtype, types.uintp

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            a_, rows_, m_, columns_, b_, n_, width_, c_, to_rows_, to_columns_, accumulate_ = arguments
            number, align = context.get_data_type(dtype), dtype.bitwidth // 8
            kind, part_kind = ir.VectorType(number, lanes), ir.VectorType(number, lanes // pieces)
            load = functools.partial(builder.load, align=align)

            def pointer(array_type: Any, array: Any, index: Any) -> Any:
                return _pointer(context, builder, array_type, array, index)

            def length(array_type: Any, array: Any) -> Any:
                return cgutils.create_struct_proxy(array_type)(context, builder, array).nitems

            def plus(index: Any, more: int) -> Any:
                return builder.add(index, ir.Constant(index.type, more))

            last = plus(length(rows, rows_), -1)
            if scattered:
                across = [builder.load(pointer(to_columns, to_columns_, plus(n_, block))) for block in range(blocks)]
            else:
                across = [builder.mul(n_, ir.Constant(n_.type, LANES))]
            sources, targets = [], []
            for i in range(n_rows):
                row = plus(m_, i)
                row = builder.select(builder.icmp_unsigned("<", row, last), row, last)
                sources.append(pointer(a, a_, builder.load(pointer(rows, rows_, row))))
                to = builder.load(pointer(to_rows, to_rows_, row))
                places = [pointer(c, c_, builder.add(to, column)) for column in across]
                targets.append([builder.bitcast(place, part_kind.as_pointer()) for place in places])
            # LLVM keeps these in registers.
            sums = [cgutils.alloca_once_value(builder, ir.Constant(kind, None)) for _ in range(n_rows)]
            for total in sums:
                builder.store(ir.Constant(kind, None), total)
            with builder.if_then(accumulate_):
                for total, places in zip(sums, targets, strict=True):
                    parts = [load(place) for place in places]
                    while len(parts) > 1:
                        joint = chosen(range(2 * parts[0].type.count))
                        parts = [
                            builder.shuffle_vector(*pair, joint) for pair in zip(parts[::2], parts[1::2], strict=True)
                        ]
                    builder.store(parts[0], total)
            name = f"llvm.fmuladd.v{lanes}f{dtype.bitwidth}"
            multiply_add = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
            begin = builder.mul(n_, ir.Constant(n_.type, LANES))
            start = cgutils.alloca_once_value(builder, begin)
            builder.store(begin, start)
            with cgutils.for_range(builder, length(columns, columns_), intp=m_.type) as loop:
                column, k = builder.load(pointer(columns, columns_, loop.index)), builder.load(start)
                vector = load(builder.bitcast(pointer(b, b_, k), kind.as_pointer()))
                builder.store(builder.add(k, width_), start)
                for total, source in zip(sums, sources, strict=True):
                    factor = _filled(builder, builder.load(builder.gep(source, [column])), lanes)
                    builder.store(builder.call(multiply_add, [factor, vector, builder.load(total)]), total)
                # No load moves across, and no machine code comes of it: else LLVM loads for later passes, for which
                # there are no registers left (a third of the time of a product).
                builder.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], side_effect=True)
            for total, places in zip(sums, targets, strict=True):
                value = builder.load(total)
                for block, place in enumerate(places):
                    mine = chosen(range(block * lanes // pieces, (block + 1) * lanes // pieces))
                    builder.store(builder.shuffle_vector(value, value, mine), place, align=align)
            return context.get_dummy_value()

        given = a, rows, whole, columns, b, whole, whole, c, to_rows, to_columns, types.boolean
        return types.none(*given), generate

    return tile


many_by_four, four_by_four = _product_tile(MANY_ROWS, 4), _product_tile(4, 4)
many_by_two, four_by_two = _product_tile(MANY_ROWS, 2), _product_tile(4, 2)
eight_by_one, four_by_one = _product_tile(8, 1), _product_tile(4, 1)
many_by_two_apart, four_by_two_apart = _product_tile(MANY_ROWS, 2, True), _product_tile(4, 2, True)
eight_by_one_apart, four_by_one_apart = _product_tile(8, 1, True), _product_tile(4, 1, True)


@intrinsic
def sum_of_fours(typing, a):
    """In every lane the sum over lanes 0 to 3 or 4 to 7, to which it belongs."""

    def emit(builder: ir.IRBuilder, a: Any) -> Any:
        a = builder.fadd(a, _shuffled(builder, a, [1, 0, 3, 2, 5, 4, 7, 6]))
        return builder.fadd(a, _shuffled(builder, a, [2, 3, 0, 1, 6, 7, 4, 5]))

    return a(a), _elementwise(emit)


@intrinsic
def sum_of_eights(typing, a):
    """In every lane the sum over all lanes."""

    def emit(builder: ir.IRBuilder, a: Any) -> Any:
        for lanes in ([1, 0, 3, 2, 5, 4, 7, 6], [2, 3, 0, 1, 6, 7, 4, 5], [4, 5, 6, 7, 0, 1, 2, 3]):
            a = builder.fadd(a, _shuffled(builder, a, lanes))
        return a

    return a(a), _elementwise(emit)


@intrinsic
def not_inlined(typing):
    """Written into a function: LLVM makes no copies of it in those that call it, which halves the time to compile."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.none(), generate
