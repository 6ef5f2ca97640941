"""The model card of a checkpoint folder, written from measured figures only."""

from collections.abc import Sequence
from dataclasses import dataclass

from training.data import Pair
from training.scoring import Scores
from training.tasks import ModelSize, Task


@dataclass(frozen=True)
class TrainingFacts:
    """How the exported weights came about; `note` is what the recipe does not tell."""

    preset: str
    steps: int
    epochs: float
    minutes: float
    source_tokens: int
    target_tokens: int
    train_pairs: int
    note: str = ""


@dataclass(frozen=True)
class LongInputs:
    """Scores on dev pairs joined into inputs of `mean_words` source words on average."""

    num_inputs: int
    mean_words: float
    scores: Scores


@dataclass(frozen=True)
class Figures:
    """Everything measured on the exported folder."""

    size: ModelSize
    num_parameters: int
    weights_bytes: int
    length_penalty: float
    tried: dict[float, Scores]
    tuning_pairs: int
    dev_pairs: int
    cut_sources: int
    scores: Scores
    baselines: dict[str, Scores]
    long_inputs: Sequence[LongInputs]
    examples: Sequence[tuple[Pair, str]]


_TITLES = {
    "translate": "English to German translation of short everyday sentences",
    "summarize": "English headlines for press releases and research abstracts",
}

_LANGUAGES = {"translate": "[en, de]", "summarize": "[en]"}
_PIPELINES = {"translate": "translation", "summarize": "summarization"}

_ORIGIN = {
    "translate": "All weights were trained from scratch.",
    "summarize": (
        "Encoder layers, decoder self-attention and feed-forward layers start from\n"
        "all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0, itself MiniLM-L6-H384-uncased), and\n"
        "were changed by further training. The vocabulary is new and cased; its embeddings start\n"
        "as means of the uncased word pieces they spell."
    ),
}

_ATTRIBUTION = {
    "translate": (
        "English-German sentence pairs from Tatoeba (https://tatoeba.org) by way of\n"
        "> www.manythings.org/anki, CC BY 2.0 (https://creativecommons.org/licenses/by/2.0),\n"
        "> filtered and normalised. None of these sources endorses this project."
    ),
    "summarize": (
        "Press releases of the United States Senate, public domain, from the collection of\n"
        "> J. Grimmer (Political Analysis 18(1), 2010). Titles and abstracts from arXiv.org, CC0;\n"
        "> thank you to arXiv for use of its open access interoperability. None of these sources\n"
        "> endorses this project."
    ),
}

_LIMITS = {
    "translate": """\
- It knows short everyday sentences: 88 % of the training sentences have at most 10 words.
  Longer inputs were trained only as several such sentences joined; long single sentences, news,
  technical and literary text are beyond it.
- "You" becomes du, ihr or Sie as the training data happens to have it.
- Rare names and words may turn into other words, and numbers are copied imperfectly.
- It is a demonstration of the server. Do not rely on its translations.""",
    "summarize": """\
- It writes one headline of about ten words, not a paragraph.
- It knows two registers: United States politics of 2004 to 2008 and research abstracts of 2025
  and 2026. Other text gets a headline in one of these styles.
- It can state what the text does not say, above all about names, roles and numbers. The training
  texts name public officials: the answer may name a senator whom the text does not mention,
  above all on text of another kind, such as news.
- Part of the training sources was cut after {crop} tokens, so that what comes late in a text
  counts for less.
- It is a demonstration of the server. Do not rely on its headlines.""",
}


def model_card(task: Task, figures: Figures, facts: TrainingFacts) -> str:
    """The Markdown text of the card."""
    size = figures.size
    limits = _LIMITS[task.name].format(crop=task.crop.source_len)
    defaults = task.generation
    return f"""---
language: {_LANGUAGES[task.name]}
pipeline_tag: {_PIPELINES[task.name]}
library_name: transformers
license: apache-2.0
---

# {task.checkpoint}: {_TITLES[task.name]}

A small `EncoderDecoderModel` (BERT encoder, BERT decoder with cross-attention) that comes with the
server as a demonstration checkpoint.

```python
from transformers import AutoTokenizer, EncoderDecoderModel

tokenizer = AutoTokenizer.from_pretrained(folder)
model = EncoderDecoderModel.from_pretrained(folder, dtype="float32").eval()
target_ids = model.generate(**tokenizer(text, truncation=True, return_tensors="pt"))
print(tokenizer.decode(target_ids[0], skip_special_tokens=True))
```

## Model

| | |
| --- | --- |
| layers, encoder + decoder | {size.encoder_layers} + {size.decoder_layers} |
| width, feed-forward width, heads | {size.hidden}, {size.intermediate}, {size.num_heads} |
| vocabulary | {size.vocab:,}, cased byte-level BPE, joint for source and target |
| longest source, longest target | {size.max_source_len}, {size.max_target_len} tokens |
| parameters | {figures.num_parameters:,} |
| weights | {figures.weights_bytes / 1e6:.1f} MB of float16 safetensors |

{_ORIGIN[task.name]} The tokenizer turns typographic into ASCII quotes and any run of white
space into one space; otherwise decoding gives the text back. Special tokens typed in a text are
read as plain text.

## Quality

{figures.dev_pairs:,} dev pairs, disjoint from the training data by source and by target; beam
search with {defaults.num_beams} beams, length penalty {figures.length_penalty:g}, and the other
defaults of `generation_config.json`; weights as stored, computed in float32.{_cut_note(figures)}

{_score_table(figures)}

The length penalty was chosen on {figures.tuning_pairs} of the same dev pairs, spread evenly, so
the figures are slightly flattering:

{_penalty_table(figures)}
{_long_note(figures)}
{_metric_note(task)}

Examples, spread evenly over the dev set:

{_examples(figures)}

## Training

Preset `{facts.preset}` of `training/`, {facts.train_pairs:,} pairs, {facts.epochs:.1f} epochs in \
{facts.steps:,} steps and {facts.minutes:.0f} minutes,
{facts.source_tokens / 1e6:.1f} million source and {facts.target_tokens / 1e6:.1f} million target \
tokens. Label smoothing 0.1, AdamW,
learning rate falling linearly to zero, bfloat16 steps on float32 weights; the stored weights are
their exponential moving average. {facts.note}

## Limits

{limits}

## Data and attribution

The data is not part of this repository. The weights may be passed on with this text:

> {_ATTRIBUTION[task.name]}
"""


def _score_table(figures: Figures) -> str:
    names = list(figures.scores)
    rows = {"**this checkpoint**": figures.scores, **figures.baselines}
    lines = [
        f"| | {' | '.join(names)} |",
        f"| --- |{' ---: |' * len(names)}",
        *(
            f"| {who} | {' | '.join(f'{scores[name]:.1f}' for name in names)} |"
            for who, scores in rows.items()
        ),
    ]
    return "\n".join(lines)


def _penalty_table(figures: Figures) -> str:
    names = list(figures.scores)
    lines = [f"| length penalty | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    for penalty, scores in figures.tried.items():
        lines.append(f"| {penalty:g} | {' | '.join(f'{scores[name]:.1f}' for name in names)} |")
    return "\n".join(lines)


def _cut_note(figures: Figures) -> str:
    if not figures.cut_sources:
        return ""
    return f" Sources longer than the model allows, cut for this: {figures.cut_sources}."


def _long_note(figures: Figures) -> str:
    if not figures.long_inputs:
        return ""
    names = list(figures.scores)
    lines = [
        "\nLonger inputs, made by joining neighbouring dev pairs into one text:\n",
        f"| mean words | inputs | {' | '.join(names)} |",
        f"| ---: | ---: |{' ---: |' * len(names)}",
    ]
    for long in figures.long_inputs:
        scores = " | ".join(f"{long.scores[name]:.1f}" for name in names)
        lines.append(f"| {long.mean_words:.0f} | {long.num_inputs} | {scores} |")
    return "\n".join(lines) + "\n"


def _metric_note(task: Task) -> str:
    if task.name == "translate":
        return "BLEU and chrF are sacrebleu's, default settings, one reference."
    return "ROUGE figures are F-measures of rouge_score with its stemmer, times 100."


def _examples(figures: Figures) -> str:
    return "\n".join(
        f"- Source: {_shortened(pair.source)}\n  Reference: {pair.target}\n  Answer: {answer}"
        for pair, answer in figures.examples
    )


def _shortened(text: str, num_words: int = 40) -> str:
    words = text.split()
    return text if len(words) <= num_words else " ".join(words[:num_words]) + " ..."
