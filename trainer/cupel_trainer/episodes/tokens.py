"""An episode as tokens, for training: what was sampled stays as it was sampled.

A turn that is decoded and encoded again may become other tokens, and the policy's gradient would be
that of a text which it never wrote. So sampled ids are kept; only what the environment says is
encoded, as the difference that it makes to a conversation by the chat template.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cupel_trainer.episodes.message import Messages, as_dicts, assistant, plain_text, user
from cupel_trainer.errors import PromptError

_ASKED, _SAID, _TOLD = "asked", "said", "told"  # stand-ins, of which the template must make no more


class TurnTemplate:
    """How a tokenizer writes conversations: with its chat template, or plain.

    Args:
        tokenizer: From transformers.
        chat: Use its chat template, where it has one.

    Raises:
        PromptError: The template writes earlier turns in another way once a later one is there: no
            turn could be appended.
    """

    # Any: transformers has no types that mypy --strict can use.
    def __init__(self, tokenizer: Any, *, chat: bool = True) -> None:
        self.tokenizer = tokenizer
        self.chat = bool(chat and tokenizer.chat_template)
        end_id = tokenizer.eos_token_id
        self._end_text: str = tokenizer.eos_token or ""
        self._end_id: int | None = end_id if isinstance(end_id, int) else None
        self._closing = self._check() if self.chat else self._end_text

    def prompt_ids(self, messages: Messages) -> tuple[int, ...]:
        """A conversation whose next turn is the policy's."""
        return self._encode(self._render(messages, ask=True), first=not self.chat)

    def observation_ids(self, content: str, *, ended: bool) -> tuple[int, ...]:
        """What stands between a turn of the policy and its next one.

        Args:
            content: What the environment says.
            ended: Whether the policy's turn ends with its end token, which then is not said twice.
        """
        if self.chat:
            asked = (user(_ASKED), assistant(_SAID))
            before = self._render(asked, ask=False)
            after = self._render((*asked, user(content)), ask=True)
            text = self._closing + after[len(before) :]
        else:
            text = self._closing + f"\n{content}\n"
        if ended and self._end_text and text.startswith(self._end_text):
            text = text[len(self._end_text) :]
        return self._encode(text, first=False)

    def ends(self, ids: Sequence[int]) -> bool:
        """Whether sampled ids end with the end token."""
        return bool(ids) and ids[-1] == self._end_id

    def _check(self) -> str:
        """That turns can be appended; what the template writes behind a turn of the policy."""
        asked = self._render((user(_ASKED),), ask=True)
        said = self._render((user(_ASKED), assistant(_SAID)), ask=False)
        told = self._render((user(_ASKED), assistant(_SAID), user(_TOLD)), ask=True)
        if not (said.startswith(asked + _SAID) and told.startswith(said)):
            raise PromptError(
                "the chat template writes earlier turns in another way once a later one is there "
                "(such as without their thoughts), so a conversation cannot be appended to: give "
                "the tokenizer a template for training, which leaves earlier turns as they are"
            )
        return said[len(asked + _SAID) :]

    def _render(self, messages: Messages, *, ask: bool) -> str:
        if not self.chat:
            return plain_text(messages, self._end_text)
        text: str = self.tokenizer.apply_chat_template(
            as_dicts(messages), tokenize=False, add_generation_prompt=ask
        )
        return text

    def _encode(self, text: str, *, first: bool) -> tuple[int, ...]:
        # The chat template has written the special tokens already.
        return tuple(self.tokenizer(text, add_special_tokens=first)["input_ids"])


class TokenTrack:
    """The tokens of one episode.

    Args:
        template: How the tokenizer writes turns; one serves all episodes.
        messages: The episode's messages before the first turn.
    """

    def __init__(self, template: TurnTemplate, messages: Messages) -> None:
        self._template = template
        self.prompt_ids = template.prompt_ids(messages)
        self._completion_ids: list[int] = []
        self._env_mask: list[int] = []
        self._logprobs: list[float] | None = []
        self._ended = False

    @property
    def completion_ids(self) -> tuple[int, ...]:
        """All that follows the prompt: turns as sampled, observations as encoded: (T,)."""
        return tuple(self._completion_ids)

    @property
    def env_mask(self) -> tuple[int, ...]:
        """1 where the policy sampled the token, 0 where the environment wrote it: (T,)."""
        return tuple(self._env_mask)

    @property
    def logprobs(self) -> tuple[float, ...] | None:
        """Of the sampled tokens, 0 for the environment's; None if a turn came without: (T,)."""
        return None if self._logprobs is None else tuple(self._logprobs)

    @property
    def context_ids(self) -> tuple[int, ...]:
        """What the policy's next turn is sampled after."""
        return self.prompt_ids + self.completion_ids

    def add_turn(self, ids: Sequence[int], logprobs: Sequence[float] | None = None) -> None:
        """Appends a turn of the policy.

        Args:
            ids: As sampled, with the end token if that was sampled.
            logprobs: One for each; None if they are not known.
        """
        self._ended = self._template.ends(ids)
        self._completion_ids += ids
        self._env_mask += [1] * len(ids)
        if logprobs is None:
            self._logprobs = None
        elif self._logprobs is not None:
            if len(logprobs) != len(ids):
                raise ValueError(f"{len(logprobs)} log-probabilities for {len(ids)} tokens")
            self._logprobs += logprobs

    def add_observation(self, content: str) -> None:
        """Appends a message of the environment, up to where the policy's next turn begins."""
        ids = self._template.observation_ids(content, ended=self._ended)
        self._completion_ids += ids
        self._env_mask += [0] * len(ids)
        if self._logprobs is not None:
            self._logprobs += [0.0] * len(ids)
