"""Definitions written out in plain Python, on lists of float64: no tensor, no vectorisation, no code of the project."""
