"""Losses split by label whose constants are known: quadratics, regressions, and a small network."""
