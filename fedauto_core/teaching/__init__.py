"""Predictions that pay off, exercises that check themselves, and the two editions of the notebooks."""
