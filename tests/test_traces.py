"""Traces: statistics by hand, the CSV round trip, and every malformed recording."""

import numpy as np
import pytest

from fedauto_core import InputError
from fedauto_core.network.traces import CAUSES, Cause, Trace, coverage, make_trace

ARRIVED = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 0], [1, 0, 1]], dtype=bool)
HEADER = "round,client,arrived\n"


def recorded(arrived=ARRIVED):
    return make_trace(arrived, Cause.TRANSIENT, np.full(arrived.shape, 0.5), np.full(arrived.shape[1], 0.5))


def read(tmp_path, text, n_clients=None):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return Trace.from_csv(path, n_clients)


def test_description_by_hand():
    table = recorded().describe()
    assert table.index.tolist() == [1, 2, 3] and table.index.name == "client"
    assert table["arrival_rate"].tolist() == [0.75, 0, 0.5]
    assert table["longest_gap"].tolist() == [1, 4, 2]
    np.testing.assert_array_equal(table["mean_on_run"], [1.5, np.nan, 1])
    np.testing.assert_array_equal(table["mean_off_run"], [1, 4, 2])
    assert table["long_run_rate"].tolist() == [0.5, 0.5, 0.5]


def test_coverage_by_hand():
    class_counts = np.array([[5, 0], [0, 7], [1, 2]])
    assert coverage(recorded(), class_counts).tolist() == [[6, 2], [5, 0], [0, 0], [6, 2]]


def test_hash_depends_on_values_and_shape():
    flipped = ARRIVED.copy()
    flipped[0, 0] = False
    hashes = {recorded(a).sha256 for a in (ARRIVED, flipped, ARRIVED.reshape(3, 4))}
    assert len(hashes) == 3 and recorded().sha256 == recorded(ARRIVED.copy()).sha256


def test_every_cause_has_a_name():
    assert len(CAUSES) == len(Cause)
    assert recorded().cause.tolist() == [[0, 1, 0], [0, 1, 1], [1, 1, 1], [0, 1, 0]]


def test_csv_round_trip(tmp_path):
    path = tmp_path / "trace.csv"
    recorded().to_csv(path)
    assert path.read_text().startswith("round,client,arrived,cause\n0,1,1,\n0,2,0,transient failure\n0,3,1,\n1,1,1,\n")
    again = Trace.from_csv(path)
    assert again.sha256 == recorded().sha256 and again.cause.tolist() == recorded().cause.tolist()
    assert again.long_run_probability.tolist() == [0.75, 0, 0.5]
    assert (again.success_probability == [0.75, 0, 0.5]).all() and again.success_probability.shape == (4, 3)
    lines = path.read_text().splitlines(keepends=True)
    assert read(tmp_path, lines[0] + "".join(reversed(lines[1:]))).sha256 == recorded().sha256


def test_every_cause_comes_back(tmp_path):
    lost = list(Cause)[1:]
    trace = make_trace(np.zeros((1, len(lost)), bool), np.array([lost]), np.zeros((1, len(lost))), np.zeros(len(lost)))
    trace.to_csv(tmp_path / "trace.csv")
    assert Trace.from_csv(tmp_path / "trace.csv").cause.tolist() == [lost]


def test_causes_of_others_are_recorded_failures(tmp_path):
    """As those of recordings without a cause; an arrival may be called one."""
    trace = read(tmp_path, "round,client,arrived,cause\n0,1,1,arrived\n0,2,0,error 3\n0,3,0,\n")
    assert trace.cause.tolist() == [[Cause.OK, Cause.RECORDED, Cause.RECORDED]]
    assert read(tmp_path, HEADER + "0,1,0\n").cause.tolist() == [[Cause.RECORDED]]


@pytest.mark.parametrize(
    ("text", "n_clients", "message"),
    [
        ("", None, "line 1: columns are ''"),
        ("round,client\n0,1\n", None, "line 1: columns are 'round,client'"),
        ("round,client,arrived,cause\n0,1,1\n", None, "line 2: 3 values instead of 4"),
        ("round,client,arrived,cause\n0,1,1,silenced\n", None, "line 2: arrived is 1, with the cause 'silenced'"),
        ("round,client,arrived,cause\n0,1,0,arrived\n", None, "line 2: arrived is 0, with the cause 'arrived'"),
        (HEADER, None, "line 1: round 0, client 1 is missing after this line"),
        (HEADER + "0,1,1\n0,2\n", None, "line 3: 2 values instead of 3"),
        ("round,client,client,arrived\n0,1,1,1\n", None, "line 1: columns are 'round,client,client,arrived'"),
        (HEADER + "0.5,1,1\n", None, "line 2: '0.5' is not a whole number >= 0"),
        (HEADER + "0,1,2\n", None, "line 2: arrived is 2"),
        (HEADER + "0,1,yes\n", None, "line 2: 'yes' is not a whole number >= 0"),
        (HEADER + "-1,1,1\n", None, "line 2: '-1' is not a whole number >= 0"),
        (HEADER + "0,1,1\n0,0,1\n", None, "line 3: unknown client 0"),
        (HEADER + "0,1,1\n0,3,1\n", 2, "line 3: unknown client 3 (there are 2)"),
        (HEADER + "0,1,1\n0,2,1\n0,1,0\n", None, "line 4: round 0, client 1 was already on line 2"),
        (HEADER + "0,1,1\n0,2,1\n1,2,0\n", None, "line 3: round 1, client 1 is missing after this line"),
        (HEADER + "0,1,1\n0,2,1\n2,1,0\n2,2,1\n", None, "line 3: round 1, client 1 is missing after this line"),
        (HEADER + "1,1,1\n", None, "line 1: round 0, client 1 is missing"),
        (HEADER + "0,1,1\n0,2,1\n1,1,0\n", None, "line 4: round 1, client 2 is missing after this line"),
        (HEADER + "0,1,1\n1,1,1\n", 2, "line 2: round 0, client 2 is missing after this line"),
    ],
)
def test_malformed_recordings_are_refused_with_their_line(tmp_path, text, n_clients, message):
    with pytest.raises(InputError) as error:
        read(tmp_path, text, n_clients)
    assert message in str(error.value) and "trace.csv" in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + HEADER + "0,1,1\n0,2,0\n",
        HEADER + "0,1,True\n0,2,False\n",
        HEADER + "0,1,TRUE\n0,2,false\n",
        HEADER + "0.0,1.0,1.0\n0,2,0.\n",
        HEADER + "\n0, 1, 1\n ,,\n0,2,0\n\n",
        HEADER.replace("\n", "\r\n") + "0,1,1\r\n0,2,0\r\n",
        "client , arrived,round\n1,1,0\n2,0,0\n",
    ],
    ids=["byte-order mark", "data frame", "spreadsheet", "decimals", "empty lines", "line ends", "order of columns"],
)
def test_recordings_are_read_as_programs_write_them(tmp_path, text, capsys):
    assert read(tmp_path, text).arrived.tolist() == [[True, False]]
    assert capsys.readouterr().err == ""


def test_other_columns_are_left_out_and_named_once(tmp_path, capsys):
    text = ",round,client,arrived,rssi\n0,0,1,True,-80\n1,0,2,False,\n"
    for _ in range(2):
        assert read(tmp_path, text).arrived.tolist() == [[True, False]]
    assert capsys.readouterr().err == f"{tmp_path / 'trace.csv'}: columns '', 'rssi' are not used\n"
