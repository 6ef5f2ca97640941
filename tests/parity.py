"""What `generate()` gives one request alone, and how an output of ours compares with it."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from model_core.generation import GenerationParameters
from model_core.request import Output


@dataclass(frozen=True)
class Reference:
    """The hypotheses of `generate()`: tokens after the decoder start up to the first EOS.

    Scores are `sequences_scores`; for greedy search, which has none, the same formula over the
    log-softmax of the processed scores.
    """

    token_ids: list[tuple[int, ...]]
    scores: list[float]


@torch.inference_mode()
def generate_alone(
    model: PreTrainedModel, source_ids: tuple[int, ...], parameters: GenerationParameters
) -> Reference:
    source = torch.tensor([source_ids], device=model.device)
    generate: Any = model.generate
    result = generate(
        input_ids=source,
        attention_mask=torch.ones_like(source),
        **parameters.generate_kwargs(),
        return_dict_in_generate=True,
        output_scores=True,
    )
    rows = [_up_to_eos(row, parameters) for row in result.sequences[:, 1:].tolist()]
    if parameters.num_beams > 1:
        return Reference(rows, result.sequences_scores.tolist())
    log_probs = [
        float(step.log_softmax(-1)[0, token])
        for step, token in zip(result.scores, rows[0], strict=False)
    ]
    return Reference(rows, [sum(log_probs) / len(rows[0]) ** parameters.length_penalty])


def assert_same(output: Output, reference: Reference) -> None:
    assert [each.token_ids for each in output.hypotheses] == reference.token_ids
    ours = torch.tensor([each.score for each in output.hypotheses])
    torch.testing.assert_close(ours, torch.tensor(reference.scores), rtol=1e-4, atol=1e-4)


def _up_to_eos(row: list[int], parameters: GenerationParameters) -> tuple[int, ...]:
    ends = [index for index, token in enumerate(row) if token in parameters.eos_token_ids]
    return tuple(row[: ends[0] + 1] if ends else row)
