"""Generation and measurement: what a model writes, and how good it is."""

from auto_bot_tuner.utils.lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "GenerationConfig": "config",
        "batch_generate": "generation",
        "compare_model_outputs": "quality",
        "compute_diversity_metrics": "quality",
        "compute_perplexity": "perplexity",
        "compute_perplexity_on_dataset": "perplexity",
        "evaluate_generation_quality": "quality",
        "generate_response": "generation",
        "generate_text": "generation",
        "stream_response": "generation",
    },
)
