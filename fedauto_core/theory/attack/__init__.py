"""Attempts to break a theorem: searches, exact worst cases, bent assumptions, deliberate errors."""
