"""auto_bot_tuner: a base language model becomes an assistant.

Read one method's folder (`sft/` first) and you know them all: `config.py` what can be set, `dataset.py`
rows to tokens, `loss.py` the mathematics, `trainer.py` what a batch is worth. The loop that they share is
`training/loop.py`. Nothing heavy is imported here: `--help` must answer at once.
"""

__version__ = "0.1.0"
