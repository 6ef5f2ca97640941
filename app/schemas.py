"""Bodies of the HTTP API; kept apart from the engine's own dataclasses."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

from model_core.bounds import BIAS, BOUNDS, DECAY_FACTOR, MAX_RUN_LEN, Bound
from model_core.generation import GenerationOverrides
from model_core.request import FinishReason, Priority

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
Language = Annotated[str, Field(min_length=1, max_length=64)]


class RequestBody(BaseModel):
    """What every request body keeps to: no unknown fields, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _range(bound: Bound) -> Any:
    """Pydantic's constraints of a number."""
    least = "gt" if bound.excludes_least else "ge"
    most = "lt" if bound.excludes_most else "le"
    constraints: dict[str, Any] = {least: bound.least, most: bound.most}
    return Field(**constraints)


def _bounded(name: str) -> Any:
    return _range(BOUNDS[name])


def _counted(name: str) -> Any:
    """Pydantic's constraints of a list."""
    bound = BOUNDS[name]
    # The first wrong entry is enough: to list 10,000 of them would hold up everybody.
    return Field(min_length=int(bound.least), max_length=int(bound.most), fail_fast=True)


TokenId = Annotated[int, Field(ge=0)]
Run = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_RUN_LEN, fail_fast=True)]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_RUN_LEN)]
# JSON has no tuples: an array of two is one.
SequenceBias = Annotated[tuple[Run, Annotated[float, _range(BIAS)]], Field(strict=False)]
Decay = Annotated[
    tuple[Annotated[int, Field(ge=0, le=1_000_000)], Annotated[float, _range(DECAY_FACTOR)]],
    Field(strict=False),
]


Empty = Annotated[list[float], Field(max_length=0)]
"""Takes back what the checkpoint names."""


class Parameters(RequestBody):
    """Generation parameters with transformers' names; left out or null: the checkpoint's."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"num_beams": 4, "max_length": 60},
                {"num_beams": 4, "num_return_sequences": 2, "early_stopping": True},
                {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "seed": 7},
            ]
        }
    )

    num_beams: Annotated[int, _bounded("num_beams")] | None = Field(
        None, description="Hypotheses kept at each step; 1 is greedy search, or sampling."
    )
    num_return_sequences: Annotated[int, _bounded("num_return_sequences")] | None = Field(
        None,
        description="Answers to give: at most `num_beams`, unless tokens are drawn without beams.",
    )
    length_penalty: Annotated[float, _bounded("length_penalty")] | None = Field(
        None,
        description="Scores are divided by `length ** length_penalty`: above 0 favours length.",
    )
    early_stopping: bool | Literal["never"] | None = Field(
        None, description="When a beam search ends: true, false or `never`, as in transformers."
    )
    max_length: Annotated[int, _bounded("max_length")] | None = Field(
        None, description="Most target tokens, the decoder start token and a prefix included."
    )
    max_new_tokens: Annotated[int, _bounded("max_new_tokens")] | None = Field(
        None, description="Most target tokens that are generated."
    )
    min_length: Annotated[int, _bounded("min_length")] | None = Field(
        None, description="Fewest target tokens, the decoder start token and a prefix included."
    )
    min_new_tokens: Annotated[int, _bounded("min_new_tokens")] | None = Field(
        None, description="Fewest target tokens that are generated."
    )
    no_repeat_ngram_size: Annotated[int, _bounded("no_repeat_ngram_size")] | None = Field(
        None, description="No run of so many tokens occurs twice in an answer; 0 allows it."
    )
    encoder_no_repeat_ngram_size: (
        Annotated[int, _bounded("encoder_no_repeat_ngram_size")] | None
    ) = Field(None, description="No run of so many tokens of the source occurs in an answer.")
    repetition_penalty: Annotated[float, _bounded("repetition_penalty")] | None = Field(
        None, description="Above 1 makes tokens that occurred already less likely."
    )
    encoder_repetition_penalty: Annotated[float, _bounded("encoder_repetition_penalty")] | None = (
        Field(None, description="Above 1 makes tokens of the source more likely.")
    )
    exponential_decay_length_penalty: Decay | Empty | None = Field(
        None,
        description="`[start, factor]`: after `start` generated tokens the score of EOS grows (or "
        "shrinks) by `factor` with each further token.",
    )
    eos_token_id: TokenId | Annotated[list[TokenId], _counted("eos_token_id")] | None = Field(
        None, description="Tokens that end an answer."
    )
    decoder_start_token_id: TokenId | None = Field(
        None, description="Token that the decoder starts with."
    )
    forced_bos_token_id: TokenId | None = Field(
        None, description="First target token; language pairs set it by themselves."
    )
    forced_eos_token_id: (
        TokenId | Annotated[list[TokenId], _counted("forced_eos_token_id")] | None
    ) = Field(None, description="Token forced at the greatest length.")
    suppress_tokens: Annotated[list[TokenId], _counted("suppress_tokens")] | None = Field(
        None, description="Tokens that never occur."
    )
    begin_suppress_tokens: Annotated[list[TokenId], _counted("begin_suppress_tokens")] | None = (
        Field(None, description="Tokens that do not begin an answer.")
    )
    bad_words_ids: Annotated[list[Run], _counted("bad_words_ids")] | None = Field(
        None, description="Runs of tokens that never occur."
    )
    sequence_bias: Annotated[list[SequenceBias], _counted("sequence_bias")] | None = Field(
        None, description="Runs of tokens, each with what is added to its last token's score."
    )
    stop_strings: StopString | Annotated[list[StopString], _counted("stop_strings")] | None = Field(
        None, description="An answer ends with the token that completes one of these."
    )
    remove_invalid_values: bool | None = Field(
        None, description="Replace scores that are NaN or infinite, instead of failing."
    )
    renormalize_logits: bool | None = Field(
        None, description="Normalise the scores again, after everything else was applied to them."
    )
    do_sample: bool | None = Field(
        None, description="Draw tokens instead of taking the likeliest ones."
    )
    temperature: Annotated[float, _bounded("temperature")] | None = Field(
        None, description="Where tokens are drawn: scores are divided by it."
    )
    top_k: Annotated[int, _bounded("top_k")] | None = Field(
        None, description="Draw from the likeliest `top_k` tokens; 0 from all. Left out: 50."
    )
    top_p: Annotated[float, _bounded("top_p")] | None = Field(
        None, description="Draw from the likeliest tokens that together have this probability."
    )
    min_p: Annotated[float, _bounded("min_p")] | None = Field(
        None, description="Draw from tokens with this part of the best one's probability."
    )
    top_h: Annotated[float, _bounded("top_h")] | None = Field(
        None, description="Draw from the likeliest tokens that have this part of the entropy."
    )
    typical_p: Annotated[float, _bounded("typical_p")] | None = Field(
        None, description="Draw from the most typical tokens with this probability together."
    )
    epsilon_cutoff: Annotated[float, _bounded("epsilon_cutoff")] | None = Field(
        None, description="Draw from tokens with at least this probability; 0 from all."
    )
    eta_cutoff: Annotated[float, _bounded("eta_cutoff")] | None = Field(
        None, description="The same, lowered where the distribution is broad; 0 is off."
    )
    seed: Annotated[int, _bounded("seed")] | None = Field(
        None,
        description="Where tokens are drawn: the same seed gives the same answer, whatever else "
        "the server does. Left out: one is chosen, and the answer names it.",
    )

    def overrides(self) -> GenerationOverrides:
        """The same parameters as the engine takes them."""
        return GenerationOverrides(**self.model_dump(exclude_none=True))


def _or_null(schema: dict[str, Any]) -> None:
    """Let the page say that a field may be null, too, which is read as if it were left out."""
    kind = {"$ref": schema.pop("$ref")}
    schema["anyOf"] = [kind, {"type": "null"}]


class TextRequest(RequestBody):
    """What `/translate` and `/summarize` have in common."""

    text: TextOrTexts = Field(
        description="One text or several; each is a request of its own, answers keep the order."
    )
    parameters: Parameters = Field(default_factory=Parameters, json_schema_extra=_or_null)
    overflow: Literal["error", "truncate"] = Field(
        "error",
        description="What to do with a text that is longer than the checkpoint takes: refuse it, "
        "or answer for its beginning with `truncated: true`.",
    )
    timeout_s: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Time for the whole call; beyond: 504. Left out: the server's default."
    )
    priority: Priority | None = Field(
        None,
        description="Where calls have to wait, `interactive` ones go before `bulk` ones, which "
        "keep a small share. Left out: `interactive` for one text, `bulk` for a list.",
    )
    target_prefix: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="What every answer begins with; the rest continues it."
    )

    @field_validator("parameters", mode="before")
    @classmethod
    def _name_none(cls, value: object) -> object:
        return {} if value is None else value

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
        None,
        description="The checkpoint's own code, an ISO code or a BCP 47 tag, where its meaning is "
        "clear; may be left out where there is no choice. `GET /languages` lists the pairs.",
    )
    target_lang: Language | None = Field(
        None,
        description="The same for the answer; may also be left out where the checkpoint has a "
        "default.",
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
    """A further answer, no better than the first unless it was drawn."""

    text: str
    score: float


class Answer(BaseModel):
    """The answer to one text."""

    text: str
    score: float = Field(
        description="Sum of the tokens' log-probabilities divided by `length ** length_penalty`."
    )
    finish_reason: FinishReason = Field(
        description="`eos`, `stop_string`, or `length` where the greatest length ended the answer."
    )
    truncated: bool = Field(description="Whether the text was cut to what the checkpoint takes.")
    source_tokens: int
    generated_tokens: int = Field(description="Without those of a `target_prefix`.")
    seed: int | None = Field(None, description="What the tokens were drawn with, if they were.")
    alternatives: list[Alternative] = Field(
        description="The other answers, best first, where `num_return_sequences` asked for them; "
        "drawn ones in the order of drawing."
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

    status: Literal["ok", "ready", "draining", "rebuilding", "stuck", "dead"]


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
    revision: str | None = Field(description="Commit of a Hub id; null for a folder.")
    architecture: str
    family: str = Field(
        description="Decoder family; `generate` runs through the library's own `generate()`."
    )
    reason: str | None = Field(
        description="Why the family is `generate`; null for every other family."
    )
    promise: str = Field(description="What holds for its answers and its waiting times.")
    device: str
    dtype: str
    tasks: list[Literal["translate", "summarize"]]
    max_source_tokens: int
    max_target_tokens: int | None
    cache_bytes: int | None = Field(
        description="Memory of its attention caches, planned from what was free when it was "
        "loaded; null where they grow with the requests, up to `max_cache_bytes`."
    )


class ServerInfo(BaseModel):
    """Answer of `GET /info`."""

    models: list[ModelInfo]
    limits: dict[str, int | float | dict[str, float]] = Field(
        description="The operator's, named as the settings are."
    )
    versions: dict[str, str]


class LanguagePairs(BaseModel):
    """Pairs of languages: each source language with each target language."""

    source_languages: list[str] = Field(
        description="In the checkpoint's own codes; empty: any, the checkpoint names none."
    )
    target_languages: list[str] = Field(
        description="In the checkpoint's own codes; empty: any, the checkpoint names none."
    )


class ModelLanguages(BaseModel):
    """What one checkpoint translates."""

    model: str
    source_languages: list[str] = Field(
        description="Source languages of all its pairs; empty where the checkpoint names none."
    )
    target_languages: list[str] = Field(
        description="Target languages of all its pairs; empty where the checkpoint names none."
    )
    pairs: list[LanguagePairs] = Field(
        description="Exactly the pairs that are translated: in each entry, every source language "
        "with every target language. Two hundred languages that all pair up are one entry."
    )
    default_target_language: str | None = Field(
        description="The target language where `target_lang` is left out and there is a choice."
    )


class Languages(BaseModel):
    """Answer of `GET /languages`."""

    models: list[ModelLanguages]
