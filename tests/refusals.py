"""What every refusal of bad input has in common."""

from collections.abc import Callable

import pytest


def refusal(error: type[Exception], call: Callable[[], object], *words: str) -> str:
    """The message with which the call is refused; one paragraph that has these words in it."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    for word in words:
        assert word in message
    assert "\n" not in message
    return message
