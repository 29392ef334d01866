"""`PreferenceDataset` and `RewardModelDataset`: the tokens of a pair, and what becomes of every row.

The oracle is the built-in template written out by hand, tokenised segment by segment.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auto_bot_tuner.data import cache
from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.data.response_groups import Group, ResponseGroups
from auto_bot_tuner.data.sources import load_split
from auto_bot_tuner.dpo import PreferenceDataset
from auto_bot_tuner.rlhf import RewardModelDataset
from auto_bot_tuner.utils.errors import UsageError, UserError

END = "<|endoftext|>"
ROWS = [
    {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."},
    {"prompt": "Add 1 and 2.", "chosen": "3", "rejected": "It is 4, I think."},
]
HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"
PARTED = {  # the sides part before the last turn
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant: Because.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: What?\n\nHuman: Nothing.\n\nAssistant: Fine.",
}
TEMPLATES = {
    "built-in": "",
    "chatml": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    # Headers and answers run into each other: tokenised as one text, "A:" + " yes" would merge over the boundary.
    "merging": "{% for m in messages %}{{ 'Q: ' if m.role == 'user' else 'A:' }}{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}",
}


def trained_text(tokenizer: Any, group: Group, side: int) -> str:
    return str(tokenizer.decode(group.input_ids[side][group.labels[side] != -100]))


def check_group(dataset: ResponseGroups, index: int) -> Group:
    """What holds for every group: the same prompt ids, nothing trained there, labels are ids or -100."""
    group = dataset.group(index)
    shared = group.prompt_length
    prompt = group.input_ids[0][:shared].tolist()
    for ids, labels in zip(group.input_ids, group.labels, strict=True):
        assert ids[:shared].tolist() == prompt
        assert (labels[:shared] == -100).all()
        assert ((labels == -100) | (labels == ids)).all()
        assert (labels != -100).any()
        assert ids.dtype == labels.dtype == torch.long
        assert len(ids) <= dataset.summary.max_length
    assert dataset.trained_tokens[index] == sum(int((labels != -100).sum()) for labels in group.labels)
    assert dataset.lengths[index] == shared + sum(len(ids) - shared for ids in group.input_ids)
    return group


def test_a_pair_is_the_template_written_out(gpt2_tokenizer: Any) -> None:
    dataset = PreferenceDataset(ROWS, gpt2_tokenizer)
    group = check_group(dataset, 1)
    prompt = gpt2_tokenizer("### Instruction:\nAdd 1 and 2.\n\n### Response:\n")["input_ids"]
    eos = gpt2_tokenizer.eos_token_id  # = pad: it is trained nevertheless
    sides = [[*gpt2_tokenizer(text)["input_ids"], eos] for text in ("3", "It is 4, I think.")]
    assert group.prompt_length == len(prompt)
    assert [ids.tolist() for ids in group.input_ids] == [prompt + side for side in sides]
    assert [labels.tolist() for labels in group.labels] == [[-100] * len(prompt) + side for side in sides]
    assert all(math.isnan(score) for score in group.scores)
    assert dataset.stop_token_ids == (eos,)
    assert dataset.trained_tokens[1] == sum(map(len, sides))


def test_an_item_has_the_names_of_the_sides(gpt2_tokenizer: Any) -> None:
    dataset = PreferenceDataset(ROWS, gpt2_tokenizer)
    item, group = dataset[0], dataset.group(0)
    for side, name in enumerate(("chosen", "rejected")):
        assert torch.equal(item[f"{name}_input_ids"], group.input_ids[side])
        assert torch.equal(item[f"{name}_labels"], group.labels[side])
        assert torch.equal(item[f"{name}_attention_mask"], torch.ones_like(group.input_ids[side]))
    assert item["prompt_length"].tolist() == [group.prompt_length]
    assert len(item) == 7
    assert len(list(dataset)) == 2  # a for loop ends
    assert torch.equal(dataset[-1]["chosen_input_ids"], dataset[1]["chosen_input_ids"])


def test_every_assistant_turn_of_a_response_is_trained_and_only_they(gpt2_tokenizer: Any) -> None:
    group = check_group(PreferenceDataset([PARTED], gpt2_tokenizer), 0)
    assert gpt2_tokenizer.decode(group.input_ids[0][: group.prompt_length]) == "### Instruction:\nHi\n\n### Response:\n"
    assert trained_text(gpt2_tokenizer, group, 0) == f"Hello.{END}Because.{END}"
    assert trained_text(gpt2_tokenizer, group, 1) == f"What?{END}Fine.{END}"


def test_assistant_turns_of_the_prompt_are_not_trained(gpt2_tokenizer: Any) -> None:
    dataset = PreferenceDataset([{"chosen": HH + " No, thanks.", "rejected": HH + " No."}], gpt2_tokenizer)
    group = check_group(dataset, 0)
    assert trained_text(gpt2_tokenizer, group, 0) == f"No, thanks.{END}"
    assert f"Hello.{END}" in gpt2_tokenizer.decode(group.input_ids[0][: group.prompt_length])


def test_the_prompt_ids_are_those_of_chat(gpt2_tokenizer: Any) -> None:
    dataset = PreferenceDataset([*ROWS, PARTED], gpt2_tokenizer, system_prompt="Be kind.")
    for index, row in enumerate(dataset.rows):
        group = dataset.group(index)
        assert group.input_ids[1][: group.prompt_length].tolist() == dataset.prompt_format.encode_prompt(row.prompt)
    assert dataset.prompts(1) == [
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Name a colour."}]
    ]


# --- truncation -----------------------------------------------------------------------------------------------------


def decoded(tokenizer: Any, group: Group) -> tuple[str, list[str]]:
    start = group.prompt_length
    return tokenizer.decode(group.input_ids[0][:start]), [tokenizer.decode(ids[start:]) for ids in group.input_ids]


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def test_oldest_turns_go_first_and_for_both_sides(gpt2_tokenizer: Any) -> None:
    """The chosen side would fit with all turns; the rejected does not, and both sides see the same prompt."""
    row = {"prompt": turns("one", "two", "three"), "chosen": "yes", "rejected": "no " * 30}
    dataset = PreferenceDataset([row], gpt2_tokenizer, max_length=46)
    prompt, sides = decoded(gpt2_tokenizer, check_group(dataset, 0))
    assert prompt == "### Instruction:\nthree\n\n### Response:\n"
    assert sides == [f"yes{END}", "no " * 30 + END]
    assert [tuple(cuts) for cuts in dataset.cuts(0)] == [(1, 0, 0), (1, 0, 0)]
    assert (dataset.summary.cut, dataset.summary.cut_turns, dataset.summary.cut_responses) == (1, 1, 0)


def test_then_the_start_of_the_prompt_then_the_end_of_the_response(gpt2_tokenizer: Any) -> None:
    words = " ".join(f"w{i}" for i in range(40))
    dataset = PreferenceDataset(
        [{"prompt": words, "chosen": "yes", "rejected": "no " * 60}], gpt2_tokenizer, max_length=48
    )
    group = check_group(dataset, 0)
    prompt, sides = decoded(gpt2_tokenizer, group)
    kept = prompt.removeprefix("### Instruction:\n").removesuffix("\n\n### Response:\n")
    assert words.endswith(kept)
    assert len(gpt2_tokenizer(kept)["input_ids"]) == 48 // 8  # the rest of a prompt that stays
    assert sides[0] == f"yes{END}"
    assert len(group.input_ids[1]) == 48
    assert END not in sides[1]  # cut: the model must not learn to stop here
    assert [cuts.response > 0 for cuts in dataset.cuts(0)] == [False, True]


def test_max_prompt_length_cuts_the_prompts_start(gpt2_tokenizer: Any) -> None:
    words = " ".join(f"w{i}" for i in range(40))
    row = {"prompt": turns("one", "two", words), "chosen": "yes", "rejected": "no"}
    dataset = PreferenceDataset([row], gpt2_tokenizer, max_length=512, max_prompt_length=30)
    group = check_group(dataset, 0)
    prompt, sides = decoded(gpt2_tokenizer, group)
    assert group.prompt_length <= 30
    assert prompt.endswith("w38 w39\n\n### Response:\n") and prompt.startswith("### Instruction:\n")
    assert sides == [f"yes{END}", f"no{END}"]
    whole = PreferenceDataset([row], gpt2_tokenizer)
    assert dataset.cuts(0)[0].turns == 1
    assert dataset.uncut(0).sides[0].input_ids == whole.group(0).input_ids[0].tolist()


def test_pairs_that_become_equal_are_dropped_and_counted(gpt2_tokenizer: Any) -> None:
    same = "word " * 40
    rows = [*ROWS, {"prompt": "Talk.", "chosen": same + "good", "rejected": same + "bad"}]
    dataset = PreferenceDataset(rows, gpt2_tokenizer, max_length=32)
    assert len(dataset) == 2
    assert dataset.summary.drop_reasons == {"equal after truncation": 1}
    assert [dataset.where(i) for i in range(2)] == ["row 0", "row 1"]


def test_every_row_that_is_lost_has_its_reason(gpt2_tokenizer: Any) -> None:
    long = "long " * 60
    rows = [
        *ROWS,
        {"prompt": "Hi", "chosen": "a", "rejected": "a"},
        {"prompt": "Hi", "chosen": None, "rejected": "a"},
        {"prompt": " ", "chosen": "a", "rejected": "b"},
        {"chosen": HH + " a", "rejected": "\n\nHuman: Ho\n\nAssistant: a"},
        {
            "prompt": [{"role": "system", "content": long}, {"role": "user", "content": "Hi"}],
            "chosen": "a",
            "rejected": "b",
        },
        {"prompt": "Hi", "chosen": long + "a", "rejected": long + "b"},
        {"prompt": "Alone", "response": "a", "score": 1},
        {"prompt": "Tied", "response": "a", "score": 1},
        {"prompt": "Tied", "response": "b", "score": 1},
    ]
    summary = PreferenceDataset(rows, gpt2_tokenizer, max_length=32).summary
    assert summary.drop_reasons == {
        "identical responses": 1,
        "empty response": 1,
        "empty prompt": 1,
        "no shared prompt": 1,
        "one response only": 1,
        "tied or identical responses": 1,
        "no room for a response": 1,
        "equal after truncation": 1,
    }
    assert (summary.rows, summary.kept, summary.dropped) == (11, 2, 8)
    assert "pairs    2 from 11 rows" in str(summary)


# --- rankings, scores, labels ---------------------------------------------------------------------------------------

RANKED = {"prompt": "Hi", "responses": ["c", "a", "d", "b"], "ranks": [3, 1, 3, 2], "category": "greeting"}
SCORED = [
    {"prompt": "Hi", "response": "b", "score": 2},
    {"prompt": "Ho", "response": "x", "score": 2},
    {"prompt": "Hi", "response": "a", "score": 5},
    {"prompt": "Hi", "response": "c", "score": 1},
]


def texts(dataset: ResponseGroups) -> list[str]:
    return [" ".join(m[0]["content"] for m in row.responses) for row in dataset.rows]


def test_a_ranking_gives_all_its_pairs_but_no_tied_ones(gpt2_tokenizer: Any) -> None:
    dataset = PreferenceDataset([RANKED], gpt2_tokenizer)
    assert texts(dataset) == ["a b", "a c", "a d", "b c", "b d"]
    assert [dataset.category(i) for i in range(5)] == ["greeting"] * 5
    group = check_group(dataset, 4)
    assert [trained_text(gpt2_tokenizer, group, k) for k in range(2)] == [f"b{END}", f"d{END}"]


def test_rankings_keep_their_order_and_one_of_each_tie(gpt2_tokenizer: Any) -> None:
    dataset = RewardModelDataset([RANKED, ROWS[0]], gpt2_tokenizer, kind="rankings")
    assert texts(dataset) == ["a b c", "Blue. Seven."]
    group = check_group(dataset, 0)
    assert [trained_text(gpt2_tokenizer, group, k) for k in range(3)] == [f"a{END}", f"b{END}", f"c{END}"]
    item = dataset[0]
    assert [len(ids) for ids in item["input_ids"]] == [len(ids) for ids in group.input_ids]


def test_scored_rows_of_one_prompt_become_pairs_with_their_numbers(gpt2_tokenizer: Any) -> None:
    dataset = PreferenceDataset(SCORED, gpt2_tokenizer)
    assert texts(dataset) == ["a b", "a c", "b c"]
    assert [dataset.group(i).scores for i in range(3)] == [[5, 2], [5, 1], [2, 1]]
    assert dataset.summary.drop_reasons == {"one response only": 1}
    assert texts(RewardModelDataset(SCORED, gpt2_tokenizer, kind="rankings")) == ["a b c"]


def test_scores_are_groups_with_numbers(gpt2_tokenizer: Any) -> None:
    rows = [
        SCORED[0],
        {"prompt": "Hi", "responses": ["a", "b"], "scores": [1, 3]},
        {"prompt": "Hi", "chosen": "a", "rejected": "b", "score_chosen": 4, "score_rejected": 0.5},
        {"prompt": "Hi", "completion": "a", "label": False},
    ]
    dataset = RewardModelDataset(rows, gpt2_tokenizer, kind="scores")
    assert [check_group(dataset, i).scores for i in range(4)] == [[2], [3, 1], [4, 0.5], [0]]
    assert dataset[2]["scores"].tolist() == [4, 0.5]


def test_a_margin_is_the_difference_of_the_scores(gpt2_tokenizer: Any) -> None:
    dataset = RewardModelDataset([ROWS[0] | {"margin": 1.5}], gpt2_tokenizer)
    chosen, rejected = dataset.group(0).scores
    assert chosen - rejected == 1.5


def test_unpaired_rows_and_pairs_as_good_and_bad(gpt2_tokenizer: Any) -> None:
    rows = [ROWS[0], {"prompt": "Hi", "completion": "Hello!", "label": True}]
    dataset = PreferenceDataset(rows, gpt2_tokenizer, unpaired=True)
    groups = [check_group(dataset, i) for i in range(3)]
    assert [(trained_text(gpt2_tokenizer, group, 0), group.scores) for group in groups] == [
        (f"Blue.{END}", [1]),
        (f"Seven.{END}", [0]),
        (f"Hello!{END}", [1]),
    ]


def test_identical_responses_of_a_ranking_are_left_out(gpt2_tokenizer: Any) -> None:
    row = {"prompt": "Hi", "responses": ["a", "b", "a", None], "ranks": [1, 2, 3, 4]}
    pairs = PreferenceDataset([row], gpt2_tokenizer)
    assert texts(pairs) == ["a b", "b a"]
    assert pairs.summary.drop_reasons == {}  # of the row much is left
    assert texts(RewardModelDataset([row], gpt2_tokenizer, kind="rankings")) == ["a b"]


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        ([{"prompt": "Hi", "completion": "a", "label": True}], {}, "row 0: a response with a label .*--loss kto"),
        ([RANKED], {"unpaired": True}, "row 0: a ranking or a score says .*another --loss than kto"),
        ([{"prompt": "Hi", "chosen": "a", "rejected": "a"}] * 2, {}, "no pairs are left to learn from .2 identical"),
        ([], {}, "no pairs are left to learn from .no rows given"),
        ([ROWS[0]], {"max_length": 8}, "1 no room for a response.*raise --max-length"),
        ([ROWS[0], {"prompt": "Hi", "chosen": "a"}], {}, "row 1: expected the columns of preference data"),
    ],
)
def test_bad_rows_are_one_line(gpt2_tokenizer: Any, rows: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        PreferenceDataset(rows, gpt2_tokenizer, **arguments)
    assert "\n" not in str(error.value)


def test_scores_are_refused_where_there_are_none(gpt2_tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"row 0: an order without numbers.*or learn from pairs"):
        RewardModelDataset(ROWS, gpt2_tokenizer, kind="scores")
    with pytest.raises(UsageError, match=r"choose a split, e\.g\. dataset\['train'\]"):
        RewardModelDataset({"train": ROWS}, gpt2_tokenizer)


# --- one path -------------------------------------------------------------------------------------------------------

CONTENT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda t: t.strip())


@pytest.fixture(scope="module")
def template_tokenizers(make_gpt2_tokenizer: Any) -> list[Any]:
    tokenizers = []
    for template in TEMPLATES.values():
        tokenizers.append(make_gpt2_tokenizer())
        tokenizers[-1].chat_template = template or None
    return tokenizers


@settings(max_examples=60, deadline=None)
@given(
    prompt=st.lists(CONTENT, min_size=1, max_size=5).filter(lambda contents: len(contents) % 2),
    sides=st.lists(st.lists(CONTENT, min_size=1, max_size=3).filter(lambda c: len(c) % 2), min_size=2, max_size=2),
    max_length=st.integers(24, 120),
    template=st.integers(0, len(TEMPLATES) - 1),
)
def test_both_sides_begin_with_the_same_ids(
    template_tokenizers: list[Any], prompt: list[str], sides: list[list[str]], max_length: int, template: int
) -> None:
    """Whatever text stands at the boundary, whatever the template, cut or not."""
    chosen, rejected = (turns("", *side)[1:] for side in sides)  # each begins with the assistant's turn
    row = {"prompt": turns(*prompt), "chosen": chosen, "rejected": rejected}
    try:
        dataset = PreferenceDataset([row], template_tokenizers[template], max_length, max_prompt_length=max_length // 2)
    except UserError as error:
        assert "no pairs are left" in str(error)
        return
    group = check_group(dataset, 0)
    if not dataset.summary.cut:
        # Independently: the opened prompt as chat writes it, and the answers' own text.
        assert group.input_ids[0][: group.prompt_length].tolist() == dataset.prompt_format.encode_prompt(row["prompt"])
        for side, messages in enumerate((chosen, rejected)):
            said = "".join(m["content"] + END for m in messages if m["role"] == "assistant")
            if template == 0:
                assert trained_text(template_tokenizers[0], group, side) == said


def test_a_tokenizer_with_bos_puts_it_once(gpt2_tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    bos = gpt2_tokenizer.bos_token
    gpt2_tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, gpt2_tokenizer.bos_token_id)]
    )
    group = check_group(PreferenceDataset(ROWS, gpt2_tokenizer), 0)
    assert all(ids.tolist().count(gpt2_tokenizer.bos_token_id) == 2 for ids in group.input_ids)  # bos = eos, at the end


def test_the_cache_gives_the_same_groups(gpt2_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SMALLEST", 1)
    long = {"prompt": "Hi", "chosen": "word " * 60 + "a", "rejected": "word " * 60 + "b"}
    rows = [*ROWS, PARTED, RANKED, long]
    first = PreferenceDataset(rows, gpt2_tokenizer, 48)

    def refuse(*_: Any) -> None:
        raise AssertionError("tokenised again")

    with monkeypatch.context() as patch:
        patch.setattr(PromptFormat, "encode_groups", refuse)
        again = PreferenceDataset(rows, gpt2_tokenizer, 48)
    assert again.summary == first.summary and again.lengths == first.lengths
    for index in range(len(first)):
        assert all(torch.equal(a, b) for a, b in zip(first.group(index).labels, again.group(index).labels, strict=True))
    # Other settings are other tokens.
    assert PreferenceDataset(rows, gpt2_tokenizer, 24).lengths != first.lengths
    assert PreferenceDataset(rows, gpt2_tokenizer, 48, 12).lengths != first.lengths
    assert len(PreferenceDataset([*ROWS, PARTED], gpt2_tokenizer, unpaired=True)) == 6


def test_every_kind_of_dataset_gives_the_same_pairs(gpt2_tokenizer: Any, tmp_path: Path) -> None:
    import datasets

    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    kinds = [ROWS, datasets.Dataset.from_list(ROWS), load_split(str(path))]
    made = [PreferenceDataset(kind, gpt2_tokenizer) for kind in kinds]
    assert texts(made[0]) == texts(made[1]) == texts(made[2]) == ["Blue. Seven.", "3 It is 4, I think."]
    assert [dataset.where(1) for dataset in made] == ["row 1", "row 1", "a.jsonl line 2"]


def test_real_pairs(gpt2_tokenizer: Any, shared_data: Path) -> None:
    for name in ("hh-rlhf/harmless-base-1156.jsonl", "preference/oasst-human-ranked-754.jsonl"):
        dataset = PreferenceDataset(load_split(str(shared_data / name), "train[:100]"), gpt2_tokenizer, 256)
        for index in range(len(dataset)):
            group = check_group(dataset, index)
            for side, response in enumerate(dataset.rows[index].responses):
                whole = "".join(m["content"] + END for m in response if m["role"] == "assistant")
                assert whole.startswith(trained_text(gpt2_tokenizer, group, side).rstrip("\ufffd"))
