"""Rows of any source and format become tokens and masks: the one place where text meets tokens."""

IGNORE_INDEX = -100  # the label of a token that is read but not trained: the prompt, the padding
