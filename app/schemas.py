"""Bodies of the HTTP API; kept apart from the engine's own dataclasses."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from model_core.generation import (
    MAX_LENGTH_PENALTY,
    MAX_REPETITION_PENALTY,
    GenerationOverrides,
)
from model_core.request import FinishReason

Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1)]


_ONE, _LIST = UNION_TAGS = ("<one text>", "<list of texts>")
"""Tell the kinds of `text` apart; no part of the path of a field."""


def _one_or_list(value: object) -> str:
    return _LIST if isinstance(value, list) else _ONE


# With a discriminator an error is about what was given, not about each thing it could have been.
TextOrTexts = Annotated[
    Annotated[Text, Tag(_ONE)] | Annotated[Texts, Tag(_LIST)], Discriminator(_one_or_list)
]
TokenId = Annotated[int, Field(ge=0)]
Length = Annotated[int, Field(ge=0, le=1_000_000)]
NgramSize = Annotated[int, Field(ge=0, le=1000)]
Language = Annotated[str, Field(min_length=1, max_length=64)]


class RequestBody(BaseModel):
    """What every request body keeps to: no unknown fields, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Parameters(RequestBody):
    """Generation parameters with transformers' names; left out or null: the checkpoint's."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"num_beams": 4, "max_length": 60},
                {"num_beams": 4, "num_return_sequences": 2, "early_stopping": True},
            ]
        }
    )

    num_beams: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Hypotheses kept at each step; 1 is greedy search."
    )
    num_return_sequences: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Answers to give, best first; at most `num_beams`."
    )
    length_penalty: (
        Annotated[float, Field(ge=-MAX_LENGTH_PENALTY, le=MAX_LENGTH_PENALTY)] | None
    ) = Field(
        None,
        description="Scores are divided by `length ** length_penalty`: above 0 favours length.",
    )
    early_stopping: bool | Literal["never"] | None = Field(
        None, description="When a beam search ends: true, false or `never`, as in transformers."
    )
    max_length: Length | None = Field(
        None, description="Most target tokens, the decoder start token included."
    )
    max_new_tokens: Length | None = Field(
        None, description="Most target tokens, the decoder start token not included."
    )
    min_length: Length | None = Field(
        None, description="Fewest target tokens, the decoder start token included."
    )
    min_new_tokens: Length | None = Field(
        None, description="Fewest target tokens, the decoder start token not included."
    )
    no_repeat_ngram_size: NgramSize | None = Field(
        None, description="No run of so many tokens occurs twice in an answer; 0 allows it."
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=MAX_REPETITION_PENALTY)] | None = Field(
        None, description="Above 1 makes tokens that occurred already less likely."
    )
    eos_token_id: TokenId | Annotated[list[TokenId], Field(min_length=1, max_length=64)] | None = (
        Field(None, description="Tokens that end an answer.")
    )
    forced_bos_token_id: TokenId | None = Field(
        None, description="First target token; language pairs set it by themselves."
    )
    forced_eos_token_id: (
        TokenId | Annotated[list[TokenId], Field(min_length=1, max_length=64)] | None
    ) = Field(None, description="Token forced at the greatest length.")
    suppress_tokens: Annotated[list[TokenId], Field(max_length=10_000)] | None = Field(
        None, description="Tokens that never occur."
    )
    bad_words_ids: (
        Annotated[
            list[Annotated[list[TokenId], Field(min_length=1, max_length=64)]],
            Field(max_length=1000),
        ]
        | None
    ) = Field(None, description="Runs of tokens that never occur.")

    def overrides(self) -> GenerationOverrides:
        """The same parameters as the engine takes them."""
        return GenerationOverrides(**self.model_dump(exclude_none=True))


class TextRequest(RequestBody):
    """What `/translate` and `/summarize` have in common."""

    text: TextOrTexts = Field(
        description="One text or several; each is a request of its own, answers keep the order."
    )
    parameters: Parameters = Field(default_factory=Parameters)
    overflow: Literal["error", "truncate"] = Field(
        "error",
        description="What to do with a text that is longer than the checkpoint takes: refuse it, "
        "or answer for its beginning with `truncated: true`.",
    )
    timeout_s: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Time for the whole call; beyond: 504. Left out: the server's default."
    )

    @property
    def texts(self) -> list[str]:
        """The texts, also where there is one."""
        return [self.text] if isinstance(self.text, str) else self.text


class TranslateRequest(TextRequest):
    """Body of `POST /translate`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "The coffee is cold."},
                {
                    "text": ["The coffee is cold.", "Where is the station?"],
                    "source_lang": "en",
                    "target_lang": "de",
                    "parameters": {"num_beams": 4, "num_return_sequences": 2},
                },
            ]
        }
    )

    source_lang: Language | None = Field(
        None, description="May be left out where there is no choice."
    )
    target_lang: Language | None = Field(
        None, description="May be left out where there is no choice."
    )


class SummarizeRequest(TextRequest):
    """Body of `POST /summarize`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "text": "Bridges age, and inspecting them is expensive. We present a method "
                    "that detects cracks in concrete bridges from photographs taken by small "
                    "drones. A convolutional network trained on 12,000 labelled images finds 94 "
                    "percent of the cracks that inspectors found, at a tenth of the cost.",
                    "parameters": {"max_length": 40, "num_beams": 4},
                    "overflow": "truncate",
                }
            ]
        }
    )


class Alternative(BaseModel):
    """A further answer, worse than the first."""

    text: str
    score: float


class Answer(BaseModel):
    """The answer to one text."""

    text: str
    score: float = Field(
        description="Sum of the tokens' log-probabilities divided by `length ** length_penalty`."
    )
    finish_reason: FinishReason = Field(
        description="`eos`, or `length` where the greatest length ended the answer."
    )
    truncated: bool = Field(description="Whether the text was cut to what the checkpoint takes.")
    source_tokens: int
    generated_tokens: int
    alternatives: list[Alternative] = Field(
        description="The other answers, best first, where `num_return_sequences` asked for them."
    )


class Usage(BaseModel):
    """Tokens of all texts of a call."""

    source_tokens: int
    generated_tokens: int


class TranslateResponse(BaseModel):
    """Answer of `POST /translate`."""

    model: str
    translations: list[Answer]
    usage: Usage


class SummarizeResponse(BaseModel):
    """Answer of `POST /summarize`."""

    model: str
    summaries: list[Answer]
    usage: Usage


class Status(BaseModel):
    """Answer of `GET /health` and `GET /ready`."""

    status: Literal["ok", "ready", "draining", "dead"]


class Problem(BaseModel):
    """RFC 9457 problem details; further members depend on `type`."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:tandem:source-too-long"])
    title: str
    status: int
    detail: str


class ModelInfo(BaseModel):
    """One checkpoint, as it is served."""

    name: str
    source: str = Field(description="Name of the folder, or Hub id, that it was loaded from.")
    revision: str | None = Field(description="Of a Hub id, as the operator pinned it.")
    architecture: str
    family: str = Field(
        description="Decoder family; `generate` runs through the library's own `generate()`."
    )
    promise: str = Field(description="What holds for its answers and its waiting times.")
    device: str
    dtype: str
    tasks: list[Literal["translate", "summarize"]]
    max_source_tokens: int
    max_target_tokens: int | None


class ServerInfo(BaseModel):
    """Answer of `GET /info`."""

    models: list[ModelInfo]
    limits: dict[str, int | float] = Field(description="The operator's, named as the settings are.")
    versions: dict[str, str]


class ModelLanguages(BaseModel):
    """The languages that one checkpoint knows; not every pair of them need be one it translates."""

    model: str
    source_languages: list[str] = Field(description="Empty where the checkpoint names none.")
    target_languages: list[str] = Field(description="Empty where the checkpoint names none.")


class Languages(BaseModel):
    """Answer of `GET /languages`."""

    models: list[ModelLanguages]
