"""What of a round's replies is an upload, and what is read from Flower's records."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from math import prod
from typing import Literal, NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord

from fedauto_core.errors import is_number
from fedauto_core.server.coordinator import Lost

MAGIC = np.lib.format.magic(1, 0)  # the first bytes of nearly every array that NumPy writes


class Upload(NamedTuple):
    """What became of a client in a round (from 1); cause: why it was not heard, or ""."""

    round: int
    client: str
    arrived: bool
    cause: str


def read(reply: Message) -> tuple[dict[str, np.ndarray], MetricRecord]:
    """Arrays and metrics of a client's reply. Lost: there are none, or not one of each."""
    if reply.has_error():
        raise Lost(f"error {reply.error.code}: {reply.error.reason}")
    records = reply.content.values()
    arrays = [record for record in records if isinstance(record, ArrayRecord)]
    metrics = [record for record in records if isinstance(record, MetricRecord)]
    _lost_if(len(arrays) != 1 or len(metrics) != 1, f"{len(arrays)} ArrayRecords and {len(metrics)} MetricRecords")
    (sent,), (told,) = arrays, metrics
    return {name: _decoded(name, array) for name, array in sent.items()}, told


def identity(answer: Message) -> tuple[str, Sequence[float] | None]:
    """Name and label counts in the answer to a QUERY, where they are in it."""
    if answer.has_error():
        return "", None
    names = [str(record["name"]) for record in answer.content.config_records.values() if "name" in record]
    counts = [record["label-counts"] for record in answer.content.metric_records.values() if "label-counts" in record]
    return names[0] if names else "", counts[0] if counts else None


def means(records: Sequence[MetricRecord]) -> dict[str, float]:
    """Means, weighted by "num-examples", of the finite numbers that all of `records` tell."""
    weighed = [record for record in records if is_number(n := record.get("num-examples")) and n > 0]
    total = sum(record["num-examples"] for record in weighed)
    names = [name for name in (weighed[0] if weighed else ()) if name != "num-examples"]
    shared = [name for name in names if all(is_number(record.get(name)) for record in weighed)]
    return {name: sum(record["num-examples"] * record[name] for record in weighed) / total for name in shared}


def _lost_if(wrong: bool, why: str) -> None:
    if wrong:
        raise Lost(why)


def _in_place(array: Array) -> np.ndarray:
    """As `array.numpy()`, without a copy of its bytes where these are plain: to copy takes longer than to average."""
    if array.stype != "numpy.ndarray" or not array.data.startswith(MAGIC):
        return array.numpy()
    begin = len(MAGIC) + 2 + int.from_bytes(array.data[len(MAGIC) : len(MAGIC) + 2], "little")
    shape, order, dtype = _header(array.data[len(MAGIC) : begin])
    return np.frombuffer(array.data, dtype, prod(shape), begin).reshape(shape, order=order)


@lru_cache  # everybody sends arrays of the same shapes
def _header(data: bytes) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype]:
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(BytesIO(data))
    return shape, "F" if by_columns else "C", dtype


def _decoded(name: str, array: Array) -> np.ndarray:
    try:
        decoded = _in_place(array)
    except Exception as fault:  # whatever the bytes are, they cost their sender's update and nothing else
        raise Lost(f"array {name!r} cannot be read: {fault}") from fault
    _lost_if(not isinstance(decoded, np.ndarray), f"array {name!r} is none")
    return decoded
