"""Rows of any source and format become tokens and masks: the one place where text meets tokens."""
