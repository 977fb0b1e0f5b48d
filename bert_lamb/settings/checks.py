"""What must hold of settings before anything is read or spent. Every problem: key, value met, way out."""

import codecs
from collections.abc import Iterator

from bert_lamb.errors import UserError
from bert_lamb.settings.kept_steps import keep_at_problems
from bert_lamb.settings.languages import language_problem
from bert_lamb.settings.optimizer_checks import optimizer_problems
from bert_lamb.settings.schema import PhaseSettings, Settings

CHOICES = {
    "data.source": ("sample", "text", "wikipedia_dump", "hf"),
    "data.gaps": ("keep", "drop"),
    "data.txt_document": ("file", "blank_line"),
    "optimizer.preset": ("paper", "google", "apex", "nvlamb", "nlamb", "nnlamb", "lans", "adamw", "lars", "muon"),
    "optimizer.bias_correction": (None, "none", "moments", "learning_rate"),
    "optimizer.norm": (None, 1, 2, float("inf")),
    "handover.schedule": ("rewarm", "continue"),
    "handover.moments": ("keep", "keep_reset_step", "fresh"),
    "recovery.policy": ("rollback", "stop"),
    "hardware.device": ("auto", "cpu", "cuda"),
    "hardware.strategy": ("auto", "single", "ddp"),
    "hardware.precision": ("auto", "bf16", "fp32", "fp64"),
    "hardware.compile": ("auto", "on", "off"),
    "inspect.phase": (1, 2),
    "run.wandb": ("auto", "online", "offline", "disabled"),
}
WHY_NOT = {"mps": " (Apple's GPUs are not supported; auto and cpu use the processor)"}
LEAST_LENGTH = 8  # [CLS] a [SEP] b [SEP] and something to mask
LONGEST_WAIT_S = 1e7  # some months: beyond it torch's clocks overflow
AT_LEAST = {  # key: smallest value that makes sense
    "model.layers": 1,
    "model.hidden": 1,
    "model.heads": 1,
    "model.intermediate": 1,
    "data.passes": 1,
    "data.sentences_per_document": 0,
    "data.min_characters": 0,
    "data.shard_mib": 1,
    "data.processes": 0,
    "data.parts": 1,
    "phase1.global_batch": 1,
    "phase2.global_batch": 1,
    "phase1.steps": 1,
    "phase2.steps": 1,
    "seed": 0,
    "data.seed": 0,
    "phase1.seq_len": LEAST_LENGTH,
    "phase2.seq_len": LEAST_LENGTH,
    "finetune.batch": 1,
    "finetune.epochs": 1,
    "finetune.max_train_questions": 0,
    "finetune.stride": 1,
    "finetune.max_answer": 1,
    "finetune.n_best": 1,
    "hardware.devices": 0,
    "hardware.prefetch": 1,
    "run.log_every": 1,
    "run.trust_ratios_every": 1,
    "run.heldout_every": 0,
    "run.heldout_sequences": 1,
    "run.checkpoint_every": 1,
    "run.keep_checkpoints": 1,
    "recovery.max_skipped_in_row": 1,
    "recovery.every": 1,
    "recovery.window": 1,
    "recovery.spike_steps": 1,
    "recovery.max_rollbacks": 1,
    "inspect.epoch": 0,
    "inspect.sequence": 0,
    "inspect.step": 0,
}
SCHEDULE = ("peak_lr", "warmup_steps", "lr_batch", "lr_rule", "hold_steps", "decay_power", "decay_origin")  # of a phase
MOST_MASKED = 0.5  # the shortest sequence, [CLS] a [SEP] b [SEP], then still has enough tokens that are not special
SHARES = ("data.heldout_share", "data.short_share", "data.max_reject_share", "model.dropout",
          "model.attention_dropout", "finetune.dropout", "finetune.warmup_share")  # fmt: skip


class SettingsError(UserError):
    """One message with every problem found; a single one as it is."""

    def __init__(self, problems: list[str]) -> None:
        listed = "these settings cannot run:\n" + "\n".join(f"- {p}" for p in problems)
        super().__init__(problems[0] if len(problems) == 1 else listed)
        self.problems = problems


def setting_problems(s: Settings) -> list[str]:
    """Every problem that the settings alone show."""
    return [
        *_choices(s),
        *_ranges(s),
        *_model(s),
        *optimizer_problems(s.optimizer),
        *_data(s),
        *_phases(s),
        *_handover(s),
        *_finetune(s),
        *_hardware(s),
        *keep_at_problems(s),
    ]


def value_of(s: Settings, key: str):
    """The value behind a dotted key."""
    value = s
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _choices(s: Settings) -> Iterator[str]:
    for key, allowed in CHOICES.items():
        if value_of(s, key) not in allowed:
            choices = ("null" if choice is None else str(choice) for choice in allowed)
            yield f"{key}={value_of(s, key)}: choose one of {', '.join(choices)}{WHY_NOT.get(value_of(s, key), '')}"
    for arm in s.finetune.arms:
        if arm not in ("pretrained", "scratch"):
            yield f"finetune.arms has {arm!r}: choose from pretrained, scratch"


def _ranges(s: Settings) -> Iterator[str]:
    for key, least in AT_LEAST.items():
        if value_of(s, key) < least:
            yield f"{key}={value_of(s, key)}: must be at least {least}"
    for key in SHARES:
        if not 0 <= value_of(s, key) < 1:
            yield f"{key}={value_of(s, key)}: must be a fraction from 0 to below 1"
    if not s.recovery.spike_nats > 0:
        yield f"recovery.spike_nats={s.recovery.spike_nats}: must be above 0"
    if not 0 < s.masking.share <= MOST_MASKED:
        yield f"masking.share={s.masking.share}: must be above 0 and at most {MOST_MASKED}; BERT masks 0.15"


def _model(s: Settings) -> Iterator[str]:
    if s.model.init_from is not None and s.run.from_checkpoint is not None:
        yield (
            f"run.from_checkpoint={s.run.from_checkpoint} and model.init_from={s.model.init_from} both give the "
            "initial weights: set one of them to null"
        )
    if not s.model.initializer_range > 0:
        yield f"model.initializer_range={s.model.initializer_range}: must be above 0"
    if s.model.heads >= 1 and s.model.hidden % s.model.heads:
        yield f"model.hidden={s.model.hidden} is not a multiple of model.heads={s.model.heads}: change one of them"
    for number in (1, 2):
        if s.phase(number).seq_len > s.model.max_positions:
            yield (
                f"phase{number}.seq_len={s.phase(number).seq_len} exceeds model.max_positions="
                f"{s.model.max_positions}: raise the latter or shorten the sequences"
            )


def known_encoding(name: str) -> bool:
    """Whether Python knows an encoding of text by this name."""
    try:
        return codecs.lookup(name)._is_text_encoding
    except LookupError:
        return False


def _data(s: Settings) -> Iterator[str]:
    for number in (1, 2):
        if s.phase(number).seq_len not in s.data.seq_lens:
            yield (
                f"phase{number}.seq_len={s.phase(number).seq_len} is not among data.seq_lens="
                f"{list(s.data.seq_lens)}: add it there, so that `prepare` cuts instances of that length"
            )
    if (s.data.source == "hf") != (s.data.dataset is not None):
        yield (
            f"data.source={s.data.source} with data.dataset={s.data.dataset or 'null'}: data=hf needs data.dataset, "
            "the name of a dataset of the `datasets` library or a folder of save_to_disk; other sources do not use it"
        )
    if problem := language_problem(s.data.language):
        yield problem
    if s.data.gaps == "drop" and s.data.source != "wikipedia_dump":
        yield f"data.gaps=drop works with data.source=wikipedia_dump, not with {s.data.source}: set it to keep"
    if not known_encoding(s.data.encoding):
        yield f"data.encoding={s.data.encoding}: Python knows no text encoding of this name; most files are utf-8"
    if s.data.sentences_per_document and s.data.source not in ("text", "hf"):
        yield (
            f"data.sentences_per_document={s.data.sentences_per_document} works with data.source=text and hf; "
            f"{s.data.source} has its own documents: set it to 0"
        )
    if len(set(s.data.seq_lens)) < len(s.data.seq_lens) or min(s.data.seq_lens, default=0) < LEAST_LENGTH:
        yield f"data.seq_lens={list(s.data.seq_lens)}: must be different lengths of at least {LEAST_LENGTH} tokens"
    if s.data.part is not None and not 0 <= s.data.part < max(1, s.data.parts):
        yield (
            f"data.part={s.data.part} is not one of data.parts={s.data.parts}: choose 0 to {max(1, s.data.parts) - 1}, "
            "or null for all of them"
        )
    if s.data.mix and (s.data.source != "text" or s.data.paths or s.data.hub or s.data.sentences_per_document):
        yield (
            f"data.mix names its own sources ({', '.join(s.data.mix)}): give their files as data.mix.NAME.paths=[...] "
            "instead of data.paths, and use data.source=text"
        )
    for name, part in s.data.mix.items():
        if not 0 < part.share <= 1 or part.sentences_per_document < 0:
            yield (
                f"data.mix.{name}: share={part.share} and sentences_per_document={part.sentences_per_document}; the "
                "share must be above 0 and at most 1, the number of sentences at least 0"
            )
    if s.data.leave_out_squad and not s.data.squad:
        yield "data.leave_out_squad=True: also name the questions to look for, as data.squad=/squad/dev-v1.1.json"
    if s.data.vocab is None and s.data.vocab_size < 100:
        yield f"data.vocab_size={s.data.vocab_size}: a vocabulary that is trained needs at least 100 entries"


def _phases(s: Settings) -> Iterator[str]:
    continues = s.handover.schedule == "continue"
    for number in (1, 2):
        phase, key = s.phase(number), f"phase{number}"
        if number == 2 and continues:
            yield from (
                f"phase2.{name}={getattr(phase, name)} has no effect with handover.schedule=continue: set it to "
                "null, or choose handover.schedule=rewarm"
                for name in SCHEDULE
                if getattr(phase, name) is not None
            )
            continue
        yield from _schedule(phase, key, phase.steps + (s.phase2.steps if continues else 0))


def _schedule(phase: PhaseSettings, key: str, total: int) -> Iterator[str]:
    peak, warmup, hold = phase.peak_lr, phase.warmup_steps, phase.hold_steps
    power, origin, batch, rule = phase.decay_power, phase.decay_origin, phase.lr_batch, phase.lr_rule
    if (peak is None or warmup is None or hold is None
            or power is None or origin is None or batch is None or rule is None):  # fmt: skip
        for name in SCHEDULE:
            if getattr(phase, name) is None:
                yield f"{key}.{name}=null: give a value, since the phase has its own schedule"
        return
    if not peak > 0:  # NaN included
        yield f"{key}.peak_lr={peak}: must be above 0"
    if not power > 0:
        yield f"{key}.decay_power={power}: must be above 0; 1 is linear"
    if origin not in ("start", "warmup_end"):
        yield f"{key}.decay_origin={origin}: choose one of start, warmup_end"
    if rule not in ("given", "untuned"):
        yield f"{key}.lr_rule={rule}: choose one of given, untuned"
    if batch < 1:
        yield f"{key}.lr_batch={batch}: must be at least 1; it is the batch that {key}.peak_lr is meant for"
    if hold < 0 or 0 <= warmup < total <= warmup + hold:
        yield f"{key}.hold_steps={hold} does not fit: choose 0 to {max(0, total - 1 - warmup)}"
    if not 0 <= warmup < total:
        yield (
            f"{key}.warmup_steps={warmup} does not fit a schedule of {total} steps: choose 0 to {total - 1}. For a "
            f"short trial set both ({key}.warmup_steps={total // 10} is a tenth), or run `make rehearse`"
        )


def _handover(s: Settings) -> Iterator[str]:
    if s.handover.schedule == "continue" and s.handover.moments == "fresh":
        yield "handover.moments=fresh with handover.schedule=continue: it needs the moments of phase 1: choose keep"


def _finetune(s: Settings) -> Iterator[str]:
    f = s.finetune
    if not f.lr > 0:  # NaN included
        yield f"finetune.lr={f.lr}: must be above 0"
    if not f.weight_decay >= 0:
        yield f"finetune.weight_decay={f.weight_decay}: must not be negative"
    if f.max_length > s.model.max_positions:
        yield (f"finetune.max_length={f.max_length} exceeds model.max_positions={s.model.max_positions}: lower it")
    if f.max_query + f.stride + 3 > f.max_length:
        yield (
            f"finetune.max_length={f.max_length} is too short: beside a question of finetune.max_query={f.max_query} "
            f"tokens, windows would be shorter than finetune.stride={f.stride} and skip text; raise max_length"
        )


def _hardware(s: Settings) -> Iterator[str]:
    h = s.hardware
    if h.strategy == "single" and h.devices > 1:
        yield f"hardware.strategy=single with hardware.devices={h.devices}: choose ddp, or devices=1"
    if not 0 < h.timeout_s <= LONGEST_WAIT_S:
        yield f"hardware.timeout_s={h.timeout_s} is no time to wait: give seconds, 1800 for example"
    if h.peak_tflops is not None and not h.peak_tflops > 0:
        yield f"hardware.peak_tflops={h.peak_tflops} must be above 0: give the manufacturer's TFLOP/s, or null"
    for number in (1, 2):
        phase = s.phase(number)
        if 1 <= phase.global_batch < h.devices:  # one below 1 is told of by its own check
            yield (
                f"phase{number}.global_batch={phase.global_batch} cannot be split over hardware.devices={h.devices}: "
                "raise the batch or use fewer devices"
            )
        if h.micro_batch_tokens is not None and h.micro_batch_tokens < phase.seq_len:
            yield (
                f"hardware.micro_batch_tokens={h.micro_batch_tokens} is less than one sequence of "
                f"phase{number}.seq_len={phase.seq_len}: raise it to at least {phase.seq_len}, or set null for as many "
                "as fit"
            )
