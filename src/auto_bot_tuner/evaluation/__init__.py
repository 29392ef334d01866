"""Generation and measurement: what a model writes, and how good it is."""

from auto_bot_tuner.utils.lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "BestOf": "best_of",
        "GenerationConfig": "config",
        "RewardReport": "report_card",
        "Share": "intervals",
        "WinRate": "win_rates",
        "bag_of_words": "baselines",
        "batch_generate": "generation",
        "best_of_kl": "best_of",
        "bootstrap_interval": "intervals",
        "compare_model_outputs": "quality",
        "compute_diversity_metrics": "quality",
        "compute_perplexity": "perplexity",
        "compute_perplexity_on_dataset": "perplexity",
        "draw_reward_report": "charts",
        "evaluate_generation_quality": "quality",
        "evaluate_reward_model": "reward_evaluation",
        "expected_best": "best_of",
        "generate_response": "generation",
        "generate_text": "generation",
        "outcomes_of_scores": "win_rates",
        "read_pairs": "reward_evaluation",
        "reward_report": "report_card",
        "stream_response": "generation",
        "win_rate": "win_rates",
    },
)
