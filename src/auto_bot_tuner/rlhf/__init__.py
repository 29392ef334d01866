"""Learning from rewards: a reward model is fitted to human preferences, and a policy is trained against it."""

from auto_bot_tuner.utils.lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "RewardEnsemble": "ensemble",
        "RewardModel": "reward_model",
        "RewardModelConfig": "config",
        "RewardModelDataset": "dataset",
        "RewardModelTrainer": "trainer",
        "create_reward_model_from_pretrained": "reward_model",
        "kwise_loss": "loss",
        "load_reward_model": "reward_model",
        "ranking_loss": "loss",
        "regression_loss": "loss",
        "reward_model_from_config": "reward_model",
        "score_responses": "scoring",
    },
)
