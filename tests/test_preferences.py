"""Preference rows of every shape → `Preference`: expected values written out by hand from the data's own documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from auto_bot_tuner.data.formats import opening
from auto_bot_tuner.data.preferences import Preference, drop_reason, read_preference
from auto_bot_tuner.data.sources import load_rows
from auto_bot_tuner.data.transcripts import parse_transcript, shared_turns
from auto_bot_tuner.training.config import DatasetConfig
from auto_bot_tuner.utils.errors import UserError


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def system(content: str) -> dict[str, str]:
    return {"role": "system", "content": content}


def read(row: Any, **settings: Any) -> Preference:
    return read_preference(row, "row 0", **settings)[1]


HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"
PAIR = ([user("Hi")], [[assistant("Good.")], [assistant("Bad.")]])
TALK = [user("Hi"), assistant("Hello."), user("Why?")]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "Good.", "rejected": "Bad."},
        {"prompt": [user("Hi")], "chosen": [assistant("Good.")], "rejected": [assistant("Bad.")]},
        {"prompt": [user("Hi")], "chosen": assistant("Good."), "rejected": assistant("Bad.")},
        {"prompt": [user("Hi")], "chosen": "Good.", "rejected": [assistant("Bad.")]},
        {"chosen": [user("Hi"), assistant("Good.")], "rejected": [user("Hi"), assistant("Bad.")]},
        {"prompt": "Hi", "chosen": [user("Hi"), assistant("Good.")], "rejected": [user("Hi"), assistant("Bad.")]},
        {"prompt": None, "chosen": [user("Hi"), assistant("Good.")], "rejected": [user("Hi"), assistant("Bad.")]},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Good.", "rejected": "\n\nHuman: Hi\n\nAssistant: Bad."},
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " Good.", "rejected": " Bad."},
        {"prompt": "\n\nHuman: Hi", "chosen": "Good.", "rejected": "Bad."},
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": [assistant("Good.")], "rejected": [assistant("Bad.")]},
        {
            "prompt": "\n\nHuman: Hi\n\nAssistant:",
            "chosen": "\n\nHuman: Hi\n\nAssistant: Good.",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Bad.",
        },
        {
            "prompt": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Good."},
            "rejected": {"from": "gpt", "value": "Bad."},
        },
        {"prompt": "Hi", "responses": ["Bad.", "Good."], "ranking": [1, 0]},
        {"prompt": "Hi", "responses": ["Bad.", "Good."], "ranking": [2, 1]},
        {"prompt": "Hi", "responses": ["Bad.", "Good."], "ranks": [7, 3]},
        {"prompt": "Hi", "responses": ["Bad.", "Good."], "scores": [0.25, 0.75]},
    ],
)
def test_one_comparison_in_every_shape(row: dict[str, Any]) -> None:
    preference = read(row)
    assert (preference.prompt, preference.responses) == PAIR
    assert preference.ranks[0] < preference.ranks[1]
    assert drop_reason(preference) is None


def test_formats_are_named() -> None:
    rows = [
        {"prompt": "Hi", "chosen": "a", "rejected": "b"},
        {"chosen": HH + " a", "rejected": HH + " b"},
        {"prompt": "Hi", "responses": ["a", "b"], "ranks": [1, 2]},
        {"prompt": "Hi", "response": "a", "score": 3},
        {"prompt": "Hi", "completion": "a", "label": True},
    ]
    assert [read_preference(row, "")[0] for row in rows] == ["pair", "HH transcripts", "ranking", "scored", "unpaired"]


# --- transcripts ----------------------------------------------------------------------------------------------------


def test_the_prompt_is_whole_turns_not_a_common_prefix_of_characters() -> None:
    """Both answers begin with "No, ": a common prefix would leave "thanks." and "never."."""
    preference = read({"chosen": HH + " No, thanks.", "rejected": HH + " No, never."})
    assert preference.prompt == TALK
    assert preference.responses == [[assistant("No, thanks.")], [assistant("No, never.")]]


def test_sides_that_part_before_the_last_turn() -> None:
    chosen = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant: Because."
    rejected = "\n\nHuman: Hi\n\nAssistant: What?\n\nHuman: Nothing.\n\nAssistant: Fine."
    assert read({"chosen": chosen, "rejected": rejected})[:2] == (
        [user("Hi")],
        [
            [assistant("Hello."), user("Why?"), assistant("Because.")],
            [assistant("What?"), user("Nothing."), assistant("Fine.")],
        ],
    )


def test_sides_that_part_in_a_human_turn_keep_the_answer_before_it() -> None:
    """A prompt ends where the assistant is to speak: the last such place that both share is after "Hi"."""
    preference = read({"chosen": HH + " Because.", "rejected": HH.replace("Why", "What") + " Nothing."})
    assert preference.prompt == [user("Hi")]
    assert preference.responses[0] == [assistant("Hello."), user("Why?"), assistant("Because.")]


def test_one_side_that_ends_where_the_other_goes_on() -> None:
    preference = read({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.", "rejected": HH + " Because."})
    assert preference.prompt == [user("Hi")]
    assert preference.responses == [[assistant("Hello.")], [*TALK[1:], assistant("Because.")]]


def test_a_trailing_human_turn_is_no_response() -> None:
    preference = read({"chosen": HH + " A.\n\nHuman: Thanks!", "rejected": HH + " B."})
    assert preference.responses == [[assistant("A.")], [assistant("B.")]]


def test_a_begun_answer_in_the_prompt_is_part_of_both_responses() -> None:
    preference = read({"prompt": HH + " Well,", "chosen": " yes.", "rejected": " no."})
    assert preference[:2] == (TALK, [[assistant("Well, yes.")], [assistant("Well, no.")]])


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        (HH, [*TALK, assistant("")]),
        ("Human: a\n\nb\nHuman: c\n\nAssistant: d", [user("a\n\nb\nHuman: c"), assistant("d")]),
        ("\n\nHuman: a\n\nHuman: b\n\nAssistant:\n\nAssistant: c", [user("a\n\nb"), assistant("c")]),
        ("\n\nHuman: a\r\n\n\nAssistant:  b \n", [user("a"), assistant("b")]),
    ],
)
def test_transcripts_are_cut_at_their_speakers(text: str, turns: list[dict[str, str]]) -> None:
    assert parse_transcript(text) == turns


def test_shared_turns_of_equal_conversations_leave_their_last_answer() -> None:
    assert shared_turns([[*TALK, assistant("a")]] * 2) == 3
    assert shared_turns([[user("a"), assistant("b")], [user("c"), assistant("b")]]) == 0


# --- what else rows may say -----------------------------------------------------------------------------------------


def test_an_explicit_prompt_ends_where_the_data_says() -> None:
    """Here the sides share a first answer, but the data calls it part of the response: so it is trained."""
    rest = [assistant("Hello."), user("Why?")]
    row = {"prompt": [user("Hi")], "chosen": [*rest, assistant("a")], "rejected": [*rest, assistant("b")]}
    assert read(row)[:2] == ([user("Hi")], [[*rest, assistant("a")], [*rest, assistant("b")]])


def test_system_messages() -> None:
    sides = {"chosen": [user("Hi"), assistant("a")], "rejected": [user("Hi"), assistant("b")]}
    assert read(sides, system_prompt="Be kind.").prompt == [system("Be kind."), user("Hi")]
    own = {side: [system("Be brief."), *turns] for side, turns in sides.items()}
    assert read(own, system_prompt="Be kind.").prompt == [system("Be brief."), user("Hi")]
    assert read({"prompt": [system("Be brief."), user("Hi")], **sides}).prompt == [system("Be brief."), user("Hi")]


def test_scores_margin_and_category() -> None:
    row = {"prompt": "Hi", "chosen": "a", "rejected": "b"}
    assert read(row | {"score_chosen": 4, "score_rejected": "1.5"}).scores == [4.0, 1.5]
    assert read(row | {"chosen_score": 4, "rejected_score": 2}).scores == [4.0, 2.0]
    assert read(row | {"score_chosen": 4, "score_rejected": None}).scores is None
    assert read(row | {"margin": 0.5}).margin == 0.5
    assert read(row | {"task": "sums", "category": "rude"}).category == "rude"
    assert read(row | {"subset": 3}).category == "3"
    assert read(row).category == ""


def test_rankings_are_put_best_first() -> None:
    row = {"prompt": "Hi", "responses": ["a", "b", "c"]}
    by = {
        "ranking": ([2, 0, 1], "cab"),  # positions, best first
        "ranks": ([3, 1, 2], "bca"),  # one rank per response, the lowest is best
        "scores": ([0.1, 0.3, 0.9], "cba"),  # one score per response, the highest is best
    }
    for column, (values, order) in by.items():
        assert "".join(turns[0]["content"] for turns in read(row | {column: values}).responses) == order
    assert read(row | {"scores": [0.1, 0.3, 0.9]}).scores == [0.9, 0.3, 0.1]
    assert read(row | {"ranks": [1, 1, 0]}).ranks == [0, 1, 1]  # tied ones stay tied


@pytest.mark.parametrize(("value", "label"), [(True, True), (0, False), (1.0, True), ("False", False), ("true", True)])
def test_labels(value: Any, label: bool) -> None:
    assert read({"prompt": "Hi", "completion": "a", "label": value}).label is label


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Hi", "chosen": "a", "rejected": "a"}, "identical responses"),
        ({"prompt": "Hi", "chosen": "a", "rejected": None}, "empty response"),
        ({"prompt": "Hi", "chosen": " ", "rejected": "a"}, "empty response"),
        ({"prompt": "Hi", "chosen": [], "rejected": [assistant("a")]}, "empty response"),
        ({"prompt": "Hi", "chosen": [assistant(" ")], "rejected": [assistant("a")]}, "empty response"),
        ({"chosen": None, "rejected": None}, "empty response"),
        ({"chosen": HH, "rejected": HH + " a"}, "empty response"),
        ({"chosen": HH + " a", "rejected": None}, "empty response"),
        ({"chosen": HH + " a", "rejected": HH.removesuffix("\n\nAssistant:")}, "empty response"),
        ({"prompt": "Hi", "completion": "", "label": True}, "empty response"),
        ({"prompt": "Hi", "responses": ["a", None, ""], "ranks": [1, 2, 3]}, "empty response"),
        ({"prompt": "Hi", "responses": ["a", "a", "a"], "ranks": [1, 2, 3]}, "identical responses"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "empty prompt"),
        ({"prompt": None, "chosen": "a", "rejected": "b"}, "empty prompt"),
        ({"chosen": HH + " a", "rejected": HH.replace("Hi", "Ho") + " a"}, "no shared prompt"),
        ({"prompt": "Hi", "responses": ["a", None, "b"], "ranks": [1, 2, 3]}, None),
    ],
)
def test_rows_that_compare_nothing(row: dict[str, Any], reason: str | None) -> None:
    assert drop_reason(read(row)) == reason


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("hello", "row 0: expected an object with named columns, found text"),
        ({"prompt": "Hi", "text": "a"}, "row 0: expected the columns of preference data (pair: chosen + rejected; "),
        ({"chosen": "a", "rejected": "b"}, "row 0: no prompt: expected a column prompt"),
        ({"chosen": [assistant("a")], "rejected": [assistant("b")]}, "row 0: no prompt: expected a column prompt"),
        ({"prompt": 5, "chosen": "a", "rejected": "b"}, "column prompt: expected text, found the int 5"),
        ({"prompt": "Hi", "chosen": 5, "rejected": "b"}, "column chosen: expected text, found the int 5"),
        ({"prompt": "Hi", "chosen": "\ud800", "rejected": "b"}, "column chosen: character 0 is half of a surrogate"),
        ({"prompt": "Hi", "chosen": [user("a"), user("b")], "rejected": "b"}, "message 1: role user after user"),
        ({"prompt": [*TALK, assistant("a")], "chosen": "b", "rejected": "c"}, "column prompt: it ends with a turn of"),
        ({"prompt": "Hi", "response": "a", "score": None}, "column score: expected a number, found null"),
        ({"prompt": "Hi", "response": "a", "score": "nan"}, "column score: expected a number"),
        ({"prompt": "Hi", "completion": "a", "label": "maybe"}, "column label: expected true (good) or false (bad)"),
        ({"prompt": "Hi", "responses": ["a"], "ranks": [1]}, "column responses: expected a list of two or more"),
        ({"prompt": "Hi", "responses": ["a", "b"], "ranks": [1]}, "column ranks: expected 2 numbers"),
        ({"prompt": "Hi", "responses": ["a", "b"], "ranks": 1}, "column ranks: expected 2 numbers"),
        ({"prompt": "Hi", "responses": ["a", "b"], "ranking": [1, 1]}, "column ranking: expected the positions"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "b", "margin": "x"}, "column margin: expected a number"),
    ],
)
def test_bad_rows_are_one_line(row: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(row)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# --- splits ---------------------------------------------------------------------------------------------------------


def test_rows_of_one_thread_open_alike() -> None:
    """Whatever the shape, the first thing asked decides; turns that follow and answers do not."""
    hh = {"chosen": HH + " a", "rejected": HH + " b"}
    later = {"chosen": "\n\nHuman: Hi\n\nAssistant: c", "rejected": "\n\nHuman: Hi\n\nAssistant: d"}
    lists = {"chosen": [user("Hi"), assistant("a")], "rejected": [user("Hi"), assistant("b")]}
    assert opening(hh) == opening(later) == opening(lists) == opening({"prompt": HH, "chosen": "a", "rejected": "b"})
    assert opening(hh) != opening({"chosen": "\n\nHuman: Ho\n\nAssistant: a", "rejected": ""})
    assert opening({"prompt": "Hi", "chosen": "a"}) != opening({"prompt": "Ho", "chosen": "a"})


def test_held_out_rows_share_no_opening_with_training(tmp_path: Path) -> None:
    path = tmp_path / "hh.jsonl"
    asked = [f"\n\nHuman: question {i // 3}\n\nAssistant:" for i in range(60)]
    path.write_text(
        "".join(json.dumps({"chosen": f"{a} {i}", "rejected": f"{a} no"}) + "\n" for i, a in enumerate(asked))
    )
    train, held_out = load_rows(DatasetConfig(name=str(path), eval_fraction=0.2))
    assert held_out is not None
    assert (len(train), len(held_out)) == (48, 12)
    first = [{row["chosen"].split("\n\nAssistant")[0] for row in rows} for rows in (train, held_out)]
    assert not first[0] & first[1]


# --- real data ------------------------------------------------------------------------------------------------------


def test_every_real_hh_row_gives_back_its_text(shared_data: Path) -> None:
    """Written out again, prompt and response are the transcript, but for white space and joined assistant turns."""

    def words(transcript: str) -> list[str]:
        return transcript.replace("\n\nAssistant:", " ").split()

    kept = 0
    for line in (shared_data / "hh-rlhf" / "harmless-base-1156.jsonl").read_text().splitlines():
        row = json.loads(line)
        preference = read(row)
        if reason := drop_reason(preference):
            assert (reason, row["chosen"].rstrip()[-10:]) == ("empty response", "Assistant:")
            continue
        kept += 1
        for side, response in zip((row["chosen"], row["rejected"]), preference.responses, strict=True):
            names = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
            assert words("".join(names[m["role"]] + m["content"] for m in [*preference.prompt, *response])) == words(
                side
            )
            assert len(response) == 1
    assert kept == 1152
