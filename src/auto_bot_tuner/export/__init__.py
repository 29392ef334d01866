"""Models out: an adapter merged into its base, and folders that other tools load, each checked by loading it back."""

from auto_bot_tuner.utils.lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "Loaded": "source",
        "load": "source",
        "merge_adapter": "merge",
        "export_safetensors": "safetensors_folder",
        "export_gguf": "gguf_file",
        "export_ollama": "ollama",
    },
)
