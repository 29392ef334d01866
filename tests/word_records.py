"""The commands behind figures in words that their page does not show; `record_words.py` runs them after its own."""

from __future__ import annotations

DEMO, SFT, PLAIN = "checkpoints/demo", "checkpoints/sft/tiny/final", "checkpoints/dpo/tiny-plain/final"
AGAINST = f"--against {SFT} --dataset tiny-instructions --max-samples 500 --judge gold"
MORE = {
    "README.md": {
        "train-mine-alone": f"python main.py train-sft --model {DEMO}/sft/final --dataset mine.jsonl --epochs 40 "
        "--batch-size 6 --grad-accum 1 --learning-rate 3e-3 --eval-fraction 0 --num-samples 6 "
        "--output-dir checkpoints/mine-alone",
        "accuracy-mine-alone": "python main.py evaluate accuracy --model checkpoints/mine-alone/final --show 0",
    },
    "docs/sft.md": {
        "inspect-tiny-loss": "python main.py inspect --model tiny --dataset tiny-instructions --rows 2 --loss",
        "accuracy-sft": f"python main.py evaluate accuracy --model {SFT} --show 0",
    },
    "docs/dpo.md": {
        "dpo-metrics": f"grep -h eval_ {DEMO}/dpo/metrics.jsonl",
        "dpo-plain-metrics": "grep -h eval_ checkpoints/dpo/tiny-plain/metrics.jsonl",
        "accuracy-dpo-plain": f"python main.py evaluate accuracy --model {PLAIN} --show 0",
        "winrate-dpo-plain": f"python main.py evaluate winrate --model {PLAIN} {AGAINST} --show 0",
        "winrate-dpo-plain-sampled": f"python main.py evaluate winrate --model {PLAIN} {AGAINST} "
        "--temperature 1 --show 0",
    },
    "docs/grpo.md": {
        "best-of-puzzles": "python main.py evaluate accuracy --model checkpoints/best-of/final "
        "--dataset tiny-puzzles --show 0",
        "best-of-puzzles-sampled": "python main.py evaluate accuracy --model checkpoints/best-of/final "
        "--dataset tiny-puzzles --temperature 1 --show 0",
        "best-of-accuracy": "python main.py evaluate accuracy --model checkpoints/best-of/final --show 0",
    },
    "docs/reward-models.md": {
        "reward-card": f"python main.py evaluate reward --model {DEMO}/reward/final --dataset tiny-preferences "
        "--plot card.png",
    },
    "docs/reward-hacking.md": {
        "reward-hacking-gold": "grep -ho 'eval_reward_gold[^,]*' checkpoints/reward-hacking/no-kl/metrics.jsonl",
    },
    "docs/evaluation.md": {
        "perplexity-answers-base": "python main.py evaluate perplexity --model tiny --dataset tiny-instructions "
        "--max-samples 200",
        "perplexity-text": f"python main.py evaluate perplexity --model {DEMO}/sft/final --dataset tiny-text",
        "perplexity-text-base": "python main.py evaluate perplexity --model tiny --dataset tiny-text",
        "accuracy-puzzles-greedy": f"python main.py evaluate accuracy --model {DEMO}/sft/final --dataset tiny-puzzles "
        "--max-samples 50 --show 0",
        "winrate-dpo-reward": f"python main.py evaluate winrate --model {DEMO}/dpo/final --against {DEMO}/sft/final "
        f"--max-samples 100 --show 0 --judge {DEMO}/reward/final",
        "benchmark-opposites": "python main.py evaluate benchmark --model tiny --tasks opposites.yaml",
    },
    "docs/export.md": {
        "export-gguf": "python main.py convert export --checkpoint checkpoints/merged --format gguf --dtype q8_0 "
        "--output gg --name mine",
        "rounding": f"python -m tests.record_rounding {DEMO}/sft/final 2>/dev/null",
    },
}  # fmt: skip
