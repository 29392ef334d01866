"""The scripts of `completion`: what a shell needs to know, in its own language."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from commands.completion import Command

BASH = r"""# Completion of `python main.py`, made by: python main.py completion bash
# No associative arrays: the bash of macOS is of 2007.

# The words that may stand after a command (without flags), its flags, and the values of a flag.
_main_py_words() {
    case "$1" in
%(words)s
    esac
}
_main_py_flags() {
    case "$1" in
%(flags)s
    esac
}
_main_py_values() {
    case "$1" in
%(values)s
    esac
}
# Flags with something behind them that is no file, and flags with nothing: after both no file is offered.
_main_py_takes() {
    case "$1" in
%(takes)s
    *) echo file ;;
    esac
}

_main_py() {
    local cur="${COMP_WORDS[COMP_CWORD]}" before="" path="" flag="" i word
    COMPREPLY=()
    # `python main.py VERB`: the command begins behind the file. After another file this is not our business.
    case "${COMP_WORDS[0]##*/}" in
    python*)
        case "${COMP_WORDS[1]##*/}" in
        main.py) [ "$COMP_CWORD" -ge 2 ] || return 0 ;;
        *) return 0 ;;
        esac ;;
    esac
    for ((i = 1; i < COMP_CWORD; i++)); do
        word="${COMP_WORDS[i]}"
        case "$word" in
        -*) flag="$word" ;;
        =) ;;
        *)
            before="${path:+$path }$word"
            if [ -z "$flag" ] && [ -n "$(_main_py_flags "$before")" ]; then path="$before"; fi ;;
        esac
    done
    # The flag that is being given a value: the word before, or the one before a "=", which bash takes for a word.
    word="${COMP_WORDS[COMP_CWORD-1]}"
    if [ "$cur" = "=" ]; then cur=""; flag="$word"
    elif [ "$word" = "=" ]; then flag="${COMP_WORDS[COMP_CWORD-2]}"
    else case "$word" in -*) flag="$word" ;; *) flag="" ;; esac
    fi
    case "$cur" in
    -*) COMPREPLY=($(compgen -W "$(_main_py_flags "$path")" -- "$cur")); return 0 ;;
    esac
    if [ -n "$flag" ]; then
        case "$(_main_py_takes "$path $flag")" in
        nothing) COMPREPLY=($(compgen -W "$(_main_py_words "$path")" -- "$cur")) ;;
        text) COMPREPLY=($(compgen -W "$(_main_py_values "$path $flag")" -- "$cur")) ;;
        file) COMPREPLY=($(compgen -W "$(_main_py_values "$path $flag")" -- "$cur") $(compgen -f -- "$cur")) ;;
        esac
        return 0
    fi
    COMPREPLY=($(compgen -W "$(_main_py_words "$path")" -- "$cur"))
}

complete -o default -F _main_py main.py ./main.py python python3
"""

ZSH = """# Completion of `python main.py`, made by: python main.py completion zsh
autoload -U +X compinit && compinit -u
autoload -U +X bashcompinit && bashcompinit
"""

FISH = """# Completion of `python main.py`, made by: python main.py completion fish
function __main_py_command
    # The command that is being written, without flags: "train-sft", "evaluate perplexity". Fails if it is not ours.
    set -l words (commandline -opc)
    if string match -qr '(^|/)python[0-9.]*$' -- $words[1]
        string match -qr '(^|/)main\\.py$' -- $words[2]; or return 1
        set -e words[1]
    end
    set -e words[1]
    set -l path
    for word in $words
        string match -q -- '-*' $word; and break
        set path $path $word
    end
    echo "$path"
end
function __main_py_at
    set -l now (__main_py_command); or return 1
    test "$now" = "$argv"; or string match -q -- "$argv *" "$now"; and test -n "$argv"
end
"""


def bash(commands: Sequence[Command]) -> str:
    values = {(c.path, flag.word): flag.values for c in commands for flag in c.flags if flag.values}
    takes: dict[str, list[str]] = {}
    for command in commands:
        for flag in command.flags:
            if flag.takes != "file":
                takes.setdefault(flag.takes, []).append(f"{command.path} {flag.word}")
    return BASH % {
        "words": cases({command.path: command.words for command in commands if command.words}),
        "flags": cases({command.path: [flag.word for flag in command.flags] for command in commands}),
        "values": cases({f"{path} {word}": known for (path, word), known in values.items()}),
        "takes": "\n".join(f"    {'|'.join(map(quoted, paths))}) echo {kind} ;;" for kind, paths in takes.items()),
    }


def zsh(commands: Sequence[Command]) -> str:
    """bash's own, by the adapter that zsh brings."""
    return ZSH + bash(commands)


def fish(commands: Sequence[Command]) -> str:
    lines = [FISH.rstrip()]
    for program in ("main.py", "python", "python3"):
        for command in commands:
            lines += fish_lines(program, command)
    return "\n".join(lines) + "\n"


def fish_lines(program: str, command: Command) -> list[str]:
    """What follows one command."""
    exact = f"""test (__main_py_command; or echo -) = '{command.path}'""" if command.path else (
        """test -z (__main_py_command; or echo -)"""
    )  # fmt: skip
    start = f"complete -c {program}"
    lines = [f'{start} -f -n "{exact}" -a {shlex.quote(" ".join(command.words))}'] if command.words else []
    if not command.path:
        return lines
    for flag in command.flags:
        how = {"nothing": "", "text": " -x", "file": " -r -F"}[flag.takes]
        known = f" -a {shlex.quote(' '.join(flag.values))}" if flag.values else ""
        lines.append(f"{start} -n \"__main_py_at '{command.path}'\" -l {flag.word[2:]}{how}{known}")
    return lines


def cases(words: dict[str, Sequence[str]]) -> str:
    """Branches of a shell's `case`."""
    return "\n".join(f"    {quoted(key)}) echo {quoted(' '.join(found))} ;;" for key, found in words.items())


def quoted(text: str) -> str:
    return f"'{text}'" if text else "''"
