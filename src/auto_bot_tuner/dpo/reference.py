"""DPO's reference is everybody's: see `training/reference.py`."""

from auto_bot_tuner.training.reference import create_reference_model

__all__ = ["create_reference_model"]
