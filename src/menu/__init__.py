"""The parts of the menu; `src/interactive.py` puts them together.

    screen    what is drawn, what is asked: the only file that knows questionary
    settings  a setting as a question, an answer as words of the command line
    stock     what is here, and lists to choose models, data and rewards from
    advice    what makes sense next, and why
    home      the first screen
    launch    the line that does the same, the dry run, the start
    training, tools, learn    the entries of the menu

Nothing is set here. Questions, defaults and checks come from the config dataclasses, answers become flags, and flags
go to the handlers of `commands/`: whatever the menu does can be done again, or put into a script.
"""
