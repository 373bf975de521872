"""fedauto_core.theory.plots: the figures show the numbers of their frames."""

import pandas as pd
import pytest

from fedauto_core.theory import plots


def test_figures_draw_every_row_of_their_frame():
    frame = pd.DataFrame({"instance": "a", "rule": ["FedAuto", "FedAvg"], "E": 1, "point": "start", "round": [1, 1]})
    frame = frame.assign(ratio=[0.2, 0.4], measured=[1.0, 2.0], bound=[3.0, 4.0], step=[0.5, 1.0])
    palette = {"FedAuto": "C0", "FedAvg": "C1"}
    (axes,) = plots.bias(frame, palette).axes
    assert axes.collections[0].get_offsets().tolist() == [[3.0, 1.0], [4.0, 2.0]]
    bound, measured, _ = plots.descent(frame).axes[0].lines
    assert bound.get_ydata().tolist() == [3.0, 4.0] and measured.get_ydata().tolist() == [1.0, 2.0]
    assert plots.drift(frame).axes[0].lines[0].get_ydata().tolist() == pytest.approx([0.3])
    assert plots.ratios(frame.assign(ratio=[0.2, 1.4]), palette).axes[0].get_xlim()[1] >= 1.4
    drawn = [list(line.get_ydata()) for line in plots.summed(frame, palette).axes[0].lines]
    assert sorted(y for y in drawn if y) == [[1.0], [2.0], [3.0], [4.0]]
