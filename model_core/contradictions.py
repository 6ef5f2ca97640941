"""Values that are in their bounds, one by one, and still make no sense together."""

from model_core.bounds import MAX_DECAY
from model_core.errors import InvalidParameterError
from model_core.generation import GenerationParameters


def check_together(parameters: GenerationParameters, vocab_size: int) -> None:
    """Refuse parameters that contradict each other.

    Raises:
        InvalidParameterError: Names one of them.
    """
    _check_num_return_sequences(parameters)
    suppressed = set(parameters.suppress_tokens)
    banned = suppressed.union(word[0] for word in parameters.bad_words_ids if len(word) == 1)
    if parameters.min_length > 1:
        banned |= set(parameters.eos_token_ids)
    if len(banned | set(parameters.begin_suppress_tokens)) >= vocab_size:
        expected = "some token left to choose (bad_words_ids and min_length ban others)"
        raise InvalidParameterError("suppress_tokens", "every token", expected)
    forced_bos = parameters.forced_bos_token_id
    if forced_bos in suppressed:
        raise InvalidParameterError("forced_bos_token_id", forced_bos, "not suppressed")
    forced_eos = parameters.forced_eos_token_ids
    if parameters.max_length == parameters.prompt_len + 1:
        suppressed |= set(parameters.begin_suppress_tokens)
    if forced_eos and suppressed.issuperset(forced_eos):
        raise InvalidParameterError("forced_eos_token_id", list(forced_eos), "not suppressed")
    _check_decay(parameters)


def _check_num_return_sequences(parameters: GenerationParameters) -> None:
    wanted = parameters.num_return_sequences
    if parameters.do_sample and parameters.num_beams == 1:
        return
    if wanted > parameters.num_beams:
        expected = f"at most num_beams, {parameters.num_beams}, unless do_sample is true"
        raise InvalidParameterError("num_return_sequences", wanted, expected)


def _check_decay(parameters: GenerationParameters) -> None:
    decay = parameters.exponential_decay_length_penalty
    if decay is None:
        return
    if not parameters.eos_token_ids:
        expected = "none without an eos_token_id"
        raise InvalidParameterError("exponential_decay_length_penalty", decay, expected)
    if parameters.remove_invalid_values:  # its stand-in for infinity overflows at once
        expected = "none together with remove_invalid_values"
        raise InvalidParameterError("exponential_decay_length_penalty", decay, expected)
    start, factor = decay
    steps = max(0, parameters.max_length - parameters.prompt_len - start)
    if factor > 1 and factor > MAX_DECAY ** (1 / max(1, steps)):
        expected = f"a factor that stays below {MAX_DECAY:g} until the maximum length"
        raise InvalidParameterError("exponential_decay_length_penalty", decay, expected)
