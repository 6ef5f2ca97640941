"""What differs between the two checkpoints: data, vocabulary, model sizes, recipe."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelSize:
    """Shape of one encoder-decoder; both sides share width, heads and vocabulary."""

    hidden: int
    intermediate: int
    num_heads: int
    encoder_layers: int
    decoder_layers: int
    vocab: int
    max_source_len: int
    max_target_len: int


@dataclass(frozen=True)
class Preset:
    """A model size with the optimisation that suits it.

    `warm_lr` is the peak learning rate of weights copied from a pretrained encoder; it is unused
    where everything starts from scratch. `batch_tokens` counts padded source and target tokens.
    """

    size: ModelSize
    batch_tokens: int
    peak_lr: float
    warm_lr: float
    warmup_steps: int
    ema_decay: float
    dropout: float = 0.1


@dataclass(frozen=True)
class JoinPolicy:
    """How often neighbouring pairs become one longer example, as shares of the examples.

    Joins are what trains the positions beyond the short sentences of the corpus.
    """

    two: float = 0.0
    three: float = 0.0
    long: float = 0.0


@dataclass(frozen=True)
class CropPolicy:
    """Share of the sources cut to `source_len` tokens, to see more examples in the same time."""

    share: float = 0.0
    source_len: int = 0


@dataclass(frozen=True)
class GenerationDefaults:
    """What goes into generation_config.json; `length_penalties` are the values tried on dev."""

    max_length: int
    no_repeat_ngram_size: int
    length_penalties: tuple[float, ...]
    num_beams: int = 4
    early_stopping: bool = True


@dataclass(frozen=True)
class Task:
    """One checkpoint to train, from its files to its generation defaults.

    `repeated_rows` leading rows of the train file are seen twice per epoch: the smaller of two
    origins, which would otherwise be drowned.
    """

    name: str
    checkpoint: str
    train_file: str
    dev_file: str
    presets: dict[str, Preset]
    generation: GenerationDefaults
    join: JoinPolicy = JoinPolicy()
    crop: CropPolicy = CropPolicy()
    repeated_rows: int = 0
    languages: tuple[str, str] | None = None
    warm_start: bool = False


TRANSLATE = Task(
    name="translate",
    checkpoint="translate-en-de",
    train_file="translate.en-de.train.tsv.gz",
    dev_file="translate.en-de.dev.tsv.gz",
    presets={
        "tiny": Preset(ModelSize(64, 128, 2, 1, 1, 1000, 128, 128), 2000, 3e-3, 0.0, 50, 0.98),
        "small": Preset(
            ModelSize(256, 1024, 4, 4, 2, 8000, 128, 128), 5000, 1.5e-3, 0.0, 500, 0.9993
        ),
        "base": Preset(
            ModelSize(320, 1280, 5, 6, 3, 8000, 128, 128), 16000, 1.5e-3, 0.0, 1000, 0.9993, 0.2
        ),
    },
    generation=GenerationDefaults(
        max_length=128, no_repeat_ngram_size=0, length_penalties=(0.8, 1.0, 1.2, 1.5)
    ),
    languages=("en", "de"),
    join=JoinPolicy(two=0.15, three=0.1, long=0.05),
)

SUMMARIZE = Task(
    name="summarize",
    checkpoint="summarize-en",
    train_file="summarize.en.train.tsv.gz",
    dev_file="summarize.en.dev.tsv.gz",
    presets={
        "tiny": Preset(ModelSize(384, 1536, 12, 1, 1, 1000, 320, 64), 2000, 1e-3, 5e-4, 50, 0.98),
        "small": Preset(
            ModelSize(384, 1536, 12, 4, 2, 9000, 320, 64), 5000, 1e-3, 5e-4, 300, 0.9985
        ),
        "base": Preset(
            ModelSize(384, 1536, 12, 4, 2, 9000, 320, 64), 16000, 1e-3, 5e-4, 500, 0.999
        ),
    },
    generation=GenerationDefaults(
        max_length=48, no_repeat_ngram_size=3, length_penalties=(1.0, 1.5, 2.0, 3.0)
    ),
    crop=CropPolicy(share=0.6, source_len=96),
    repeated_rows=24_333,
    warm_start=True,
)

TASKS = {task.name: task for task in (TRANSLATE, SUMMARIZE)}
