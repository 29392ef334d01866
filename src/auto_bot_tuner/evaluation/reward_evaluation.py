"""A reward model meets held-out pairs: rows → pairs → scores, lengths, baselines, probes → `RewardReport`."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from auto_bot_tuner.data.chat_template import Conversation
from auto_bot_tuner.data.grouping import Grouped, group_responses
from auto_bot_tuner.data.preferences import drop_reason, read_preference
from auto_bot_tuner.data.rows import each_row, whereabouts
from auto_bot_tuner.evaluation.baselines import TextPair, bag_of_words
from auto_bot_tuner.evaluation.probes import Scorer, probe
from auto_bot_tuner.evaluation.report_card import RewardReport, reward_report
from auto_bot_tuner.utils.errors import UserError


class Pairs(NamedTuple):
    """What rows of preference data compare."""

    pairs: list[Grouped]  # responses: [better, worse]
    left_out: dict[str, int]  # reason → rows


def read_pairs(rows: Any) -> Pairs:
    """Every better response of a row against every worse one, in any format that training reads.

    Raises:
        UserError: a row is no preference data, has a label and no partner, or none of the rows compares anything.
    """
    where, reasons, read = whereabouts(rows), Counter[str](), []
    for index, row in enumerate(each_row(rows)):
        preference = read_preference(row, where(index))[1]
        if reason := drop_reason(preference):
            reasons[reason] += 1
        else:
            read.append((index, preference))
    pairs, incomparable = group_responses(read, "pairs", where)
    left_out = dict(reasons + incomparable)
    if not pairs:
        told = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "no rows given"
        raise UserError(f"there is no pair to measure ({told}): give rows whose responses differ")
    return Pairs(pairs, left_out)


def evaluate_reward_model(
    reward_model: Any,
    tokenizer: Any,
    pairs: Sequence[Grouped],
    train_pairs: Sequence[Grouped] = (),
    most_probes: int = 200,
    batch_size: int = 16,
) -> RewardReport:
    """The report card on `pairs`.

    Args:
        reward_model: a `RewardModel`, or an ensemble of them.
        tokenizer: its own.
        pairs: from `read_pairs`, not trained on.
        train_pairs: what the bag-of-words baseline is fitted on. Empty: no such baseline.
        most_probes: pairs whose chosen answers are probed, drawn by a seeded lot. 0: none.
        batch_size: answers scored at once.
    """
    from auto_bot_tuner.rlhf.scoring import score_responses

    def score(prompts: Sequence[Conversation], answers: Sequence[str], ended: Sequence[bool]) -> list[float]:
        return score_responses(reward_model, tokenizer, prompts, answers, batch_size, ended)

    texts = [texts_of(pair) for pair in pairs]
    train_texts = [texts_of(pair) for pair in train_pairs]
    prompts = [json.dumps(pair.prompt) for pair in pairs]
    probed = random.Random(0).sample(list(pairs), min(most_probes, len(pairs)))
    return reward_report(
        score_all(score, pairs, 0),
        score_all(score, pairs, 1),
        # In tokens, as training's eval_length_accuracy. The demo's table counts characters, and differs a little.
        [len(tokenizer(chosen)["input_ids"]) for chosen, _ in texts],
        [len(tokenizer(rejected)["input_ids"]) for _, rejected in texts],
        categories=[pair.category for pair in pairs],
        baselines={"a bag of words": bag_of_words(train_texts, texts, prompts)} if train_pairs else {},
        probes=probe(score, *split_last_turn([(pair.prompt, pair.responses[0]) for pair in probed])) if probed else [],
        clusters=prompts,
    )


def texts_of(pair: Grouped) -> TextPair:
    """What the assistant says on either side; a response may run over several turns (HH)."""
    chosen, rejected = (
        "\n".join(turn["content"] for turn in response if turn["role"] == "assistant") for response in pair.responses
    )
    return chosen, rejected


def score_all(score: Scorer, pairs: Sequence[Grouped], side: int) -> Sequence[float]:
    """Scores of one side of every pair, each with its end token."""
    return score(*split_last_turn([(pair.prompt, pair.responses[side]) for pair in pairs]), [True] * len(pairs))


def split_last_turn(whole: Sequence[tuple[Conversation, Conversation]]) -> tuple[list[Conversation], list[str]]:
    """(conversations up to the last answer, last answers): a response of several turns (HH) is scored at its end."""
    return [[*prompt, *response[:-1]] for prompt, response in whole], [response[-1]["content"] for _, response in whole]
