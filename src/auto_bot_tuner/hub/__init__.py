"""The Hugging Face hub: what is fetched from it, what is kept of it here, what is sent to it, and what to say when that
fails. Training from a hub name needs no more than `utils/model_source.py` and `data/hub.py`, which stand on this.
"""
