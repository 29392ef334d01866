"""The proof: every formula measured against an independent oracle and against TRL, and written down in docs/proof.md.

`python -m proof` measures all claims, runs the tests that they name and writes the page; a false claim stops it.
The methods' files (`sft.py`, `preferences.py`, …) hold the claims, `oracles/` the definitions written out in plain
Python, `peers/` what drives TRL on the same numbers (the tests use it too), `page.py` the page.
"""
