"""Model loading, errors and little else: what every part of the toolkit needs."""

from auto_bot_tuner.utils.lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "UserError": "errors",
        "UsageError": "errors",
        "get_device": "model_loading",
        "load_model_and_tokenizer": "model_loading",
    },
)
