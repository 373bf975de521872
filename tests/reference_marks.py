"""The slow twin of the marks: one comparison after another, written from the definitions."""

import math

from scipy import stats


def t_interval(values, level):
    """Mean -+ t sd / sqrt(n), with the sums spelt out."""
    n = len(values)
    mean = sum(values) / n
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    reach = stats.t.ppf((1 + level) / 2, n - 1) * math.sqrt(variance / n)
    return mean, mean - reach, mean + reach


def rejected_by_holm(p_values, alpha):
    """Which hypotheses Holm's procedure rejects: the smallest p against alpha / m, the next against alpha / (m - 1) and
    so on, until one fails."""
    left, out = dict(enumerate(p_values)), set()
    while left:
        smallest = min(left, key=left.get)
        if left[smallest] > alpha / len(left):
            break
        out.add(smallest)
        del left[smallest]
    return [i in out for i in range(len(p_values))]


def comparison_mark(values, margin, survives, settled):
    """Mark of one rival in one scenario; survives: whether the difference survives the correction of the claim."""
    _, low, high = t_interval(values, 0.95)
    if not settled:
        return "~"
    if low >= -margin and high <= margin:
        return "="
    if low > 0:
        return "Re"
    return "¬Re" if high < 0 and survives else "~"


def late_slope(rounds, values, length):
    """What the least-squares line through (rounds, values) climbs over `length` rounds."""
    n = len(rounds)
    x, y = sum(rounds) / n, sum(values) / n
    above = sum((r - x) * (v - y) for r, v in zip(rounds, values, strict=True))
    return length * above / sum((r - x) ** 2 for r in rounds)
