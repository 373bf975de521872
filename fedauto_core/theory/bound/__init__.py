"""The theorems, their terms told once, and every inequality as a check."""
