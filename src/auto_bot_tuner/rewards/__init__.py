"""Reward sources: who says what a response is worth."""
