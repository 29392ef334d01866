"""Learning from rewards: a reward model is fitted to human preferences, and a policy is trained against it."""

from auto_bot_tuner.utils.lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "PPOConfig": "config",
        "PPOTrainer": "ppo_trainer",
        "PromptDataset": ".rollouts.dataset",
        "RewardEnsemble": "ensemble",
        "RewardModel": "reward_model",
        "RewardModelConfig": "config",
        "RewardModelDataset": "dataset",
        "RewardModelTrainer": "trainer",
        "ValueNetwork": "value_network",
        "compute_gae": "ppo_loss",
        "create_reward_model_from_pretrained": "reward_model",
        "create_value_network_from_policy": "value_network",
        "create_value_network_from_reward_model": "value_network",
        "entropy_bonus": "ppo_loss",
        "kl_penalty": "ppo_loss",
        "kwise_loss": "loss",
        "load_reward_model": "reward_model",
        "policy_loss": "ppo_loss",
        "ranking_loss": "loss",
        "regression_loss": "loss",
        "reward_model_from_config": "reward_model",
        "score_responses": "scoring",
        "share_backbone": "shared_backbone",
        "value_loss": "ppo_loss",
        "whiten": "ppo_loss",
    },
)
