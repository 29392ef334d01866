"""What drives TRL on the same numbers: its trainers' own methods on a stub of `self`, or its trainers whole.

The tests of parity import from here. TRL is nobody's dependency but of tests, benchmarks and this proof.
"""
