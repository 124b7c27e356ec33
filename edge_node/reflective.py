"""How a target that follows instructions is asked to look at a draft again: a turn as its chat template makes it.

Needs no model: the front tells by it whether the rule ``reflective`` can be granted, the engine what to write.
"""

from __future__ import annotations

from tokenizers import Tokenizer

from airdraft.chat_template import ChatTemplate, TemplateRefused

QUESTION = (
    "Look again at the last words of your answer. Write them once more: as they are where they are right, or say the "
    "same in other words, and corrected where they are wrong."
)
_ANSWER = "<answer-so-far>"
_MOST_TOKENS = 256
"""Of the turn: a template that makes more of it repeats something else at every question."""


class CannotReflect(ValueError):
    """The model cannot be asked; the message says why, in one line."""


def asking_ids(chat_template: str | None, tokenizer_json: str) -> tuple[int, ...]:
    """Return the ids that end an answer, ask to look at it again, and begin the answer to that.

    Raises CannotReflect.
    """
    turn = _turn(chat_template)
    try:
        ids: list[int] = Tokenizer.from_str(tokenizer_json).encode(turn, add_special_tokens=False).ids
    except Exception as error:  # the library raises no narrower one
        raise CannotReflect(f"its tokenizer cannot be read: {_line(error)}") from None
    if not 0 < len(ids) <= _MOST_TOKENS:
        raise CannotReflect(f"its chat template makes {len(ids)} tokens of a question")
    return tuple(ids)


def cannot_reflect(chat_template: str | None, tokenizer_json: str) -> str:
    """Return in one line why a model cannot be asked about its drafts; nothing where it can."""
    try:
        asking_ids(chat_template, tokenizer_json)
    except CannotReflect as error:
        return str(error)
    return ""


def _turn(chat_template: str | None) -> str:
    """Return what stands between an answer and the next one."""
    if not chat_template:
        raise CannotReflect("it has no chat template to ask by")
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": _ANSWER},
        {"role": "user", "content": QUESTION},
    ]
    # What transformers gives a template, but for the tokens that begin a text: here none begins.
    try:
        text = ChatTemplate(chat_template).filled(messages, add_generation_prompt=True, bos_token="", eos_token="")
    except TemplateRefused as error:
        raise CannotReflect(f"its chat template cannot be filled in: {error}") from None
    _, answer, turn = text.rpartition(_ANSWER)
    if not answer or QUESTION not in turn:
        raise CannotReflect("its chat template does not show an answer and a question after it")
    return turn


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
