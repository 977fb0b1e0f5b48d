"""Every setting of every stage, typed. One tree for all stages, so that one set of overrides serves the chain.

Fields without a default must come from `conf/`. Values are checked in `checks.py`; nothing is ever written back.
"""

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass
class ModelSettings:
    """A BERT (Devlin et al. 2018); the vocabulary's size comes from the prepared data."""

    name: str = MISSING  # for people: tables and file names
    layers: int = MISSING  # of the encoder
    hidden: int = MISSING  # width of every layer's output
    heads: int = MISSING  # of attention; hidden is a multiple of it
    intermediate: int = MISSING  # width inside the feed-forward block
    max_positions: int = MISSING  # longest sequence the position table can hold, in tokens
    dropout: float = MISSING  # on embeddings and layer outputs
    attention_dropout: float = MISSING  # on attention probabilities
    initializer_range: float = MISSING  # standard deviation of the normal initialisation
    init_from: str | None = None  # folder of a transformers BERT to start from; null: random weights


@dataclass
class MixSettings:
    """One of several sources of text in one store."""

    paths: list[str] = MISSING  # as data.paths
    hub: str | None = MISSING  # as data.hub
    sentences_per_document: int = MISSING  # as in data
    share: float = MISSING  # of its documents that are taken, chosen by their ids; above 0, at most 1


@dataclass
class DataSettings:
    """What `prepare` turns into a token store under `<root>/<name>`."""

    name: str = MISSING  # folder below root
    root: str = MISSING  # folder of all stores, and of what `fetch` downloads
    source: str = MISSING  # "sample" (the embedded corpus), "text" (files), "wikipedia_dump" or "hf" (`datasets`)
    paths: list[str] = MISSING  # text: files, folders or globs of .txt, .jsonl (both also packed), .parquet
    hub: str | None = (
        MISSING  # without paths: owner/name@revision:pattern, files of the hub that `fetch` has downloaded
    )
    mix: dict[str, MixSettings] = MISSING  # text: several sources by name, instead of paths and hub
    text_field: str = MISSING  # jsonl, parquet: the field that holds the text
    encoding: str = MISSING  # .txt, jsonl: "utf-8", or another name that Python knows, as "utf-16" or "cp1252"
    dataset: str | None = MISSING  # hf: a dataset of the `datasets` library by name, or a folder of save_to_disk
    subset: str | None = MISSING  # hf: its configuration, where it has several
    split: str = MISSING  # hf: which split is read
    txt_document: str = MISSING  # .txt: "file" (one document a file) or "blank_line" (empty lines part documents)
    sentences_per_document: int = MISSING  # text: for lists of sentences without borders; 0: as the files say
    deduplicate: bool = MISSING  # of documents with the same cleaned text only the first stays
    min_characters: int = MISSING  # documents whose cleaned text is shorter are left out
    languages: list[str] = MISSING  # ISO codes: documents judged to be in another language are left out; []: none is
    templates: str | None = None  # wikipedia_dump: a table of more templates (.toml), before the built-in one
    gaps: str = MISSING  # wikipedia_dump: "keep" or "drop" sentences that lack the text of a template or formula
    squad: str | None = MISSING  # a SQuAD file (.json, .json.zst): documents that hold its paragraphs are counted
    leave_out_squad: bool = MISSING  # and these documents left out
    articles: int = MISSING  # sample: encyclopedia-like documents
    books: int = MISSING  # sample: story-like documents
    shuffled: bool = MISSING  # sample: its words shuffled over the whole corpus, a control that teaches no meaning
    language: str = MISSING  # of the sentence splitter: a code as in ISO 639-1 and Wikipedia, no name
    vocab: str | None = MISSING  # a WordPiece vocab.txt; null: train one on this text
    vocab_size: int = MISSING  # entries to train; with `vocab` given it must be its size or 0
    lower_case: bool = MISSING  # fold case, as BERT's uncased vocabularies expect
    strip_accents: bool | None = MISSING  # drop accents and other marks; null: as lower_case, as BERT
    seq_lens: list[int] = MISSING  # lengths to cut instances for, [CLS] and [SEP] included
    passes: int = MISSING  # times that pairs and cuts are drawn anew (BERT's duplication factor)
    short_share: float = MISSING  # share of documents cut to a random shorter length, drawn once a document and pass
    heldout_share: float = MISSING  # share of documents kept from training, chosen by their text
    seed: int = MISSING  # draws of pairs and cuts; the embedded world
    shard_mib: int = MISSING  # raw text per slice of a file, hence per shard
    max_reject_share: float = MISSING  # more rejected documents than this stops the run
    processes: int = MISSING  # 0: one per core; never changes a byte of the result
    part: int | None = (
        MISSING  # make this part of the shards only, from 0; null: all that are missing, and the manifest
    )
    parts: int = MISSING  # parts of about the same size that independent tasks make


@dataclass
class MaskingSettings:
    """Masked language modelling: which tokens, how many (80/10/10 is fixed, as in BERT)."""

    share: float = MISSING  # of a sequence's tokens, [CLS] and [SEP] counted
    whole_word: bool = MISSING  # mask all pieces of a word together


@dataclass
class OptimizerSettings:
    """LAMB and its baselines; null means the preset's own value (bert_lamb.optim.PRESETS)."""

    preset: str = MISSING  # paper | google | apex | nvlamb | nlamb | nnlamb | lans | adamw | lars | muon
    beta1: float | None = None  # decay of the first moment, per step; the momentum of lars and muon
    beta2: float | None = None  # of the second
    eps: float | None = None  # added to the root of the second moment
    weight_decay: float | None = None  # times the weights, added to the update before the trust ratio
    bias_correction: str | None = None  # "none", "moments", or "learning_rate" (its factor in the learning rate)
    grad_averaging: bool | None = None  # the first moment takes (1 - beta1) of a gradient, or all of it
    max_grad_norm: float | None = None  # clip of the global gradient norm before the moments
    norm: float | None = None  # 1, 2 or inf: of weights and update in the trust ratio
    phi_bounds: list[float] | None = None  # [lower, upper] of the weights' norm in the trust ratio
    ratio_bounds: list[float] | None = None  # [lower, upper] of the trust ratio
    no_decay: list[str] = MISSING  # left out of weight decay: "bias", "norm" (by module type) or parts of names
    no_adapt: list[str] = MISSING  # left out of the trust ratio, likewise


@dataclass
class PhaseSettings:
    """One phase of pretraining."""

    seq_len: int = MISSING  # longest sequence in tokens, [CLS] and [SEP] included
    global_batch: int = MISSING  # sequences per optimizer step, over all devices
    steps: int = MISSING  # optimizer steps
    # Its schedule; every key below is null where phase 1's continues.
    peak_lr: float | None = MISSING  # learning rate at the end of warm-up, for batches of lr_batch
    warmup_steps: int | None = MISSING  # linear from 0
    lr_batch: int | None = MISSING  # sequences: the global batch that peak_lr and warmup_steps are meant for
    lr_rule: str | None = MISSING  # "given": both as they stand; "untuned": from lr_batch to global_batch by the paper
    hold_steps: int | None = MISSING  # at the peak, between warm-up and decay
    decay_power: float | None = MISSING  # of the polynomial decay to 0
    decay_origin: str | None = MISSING  # "start": the decay counts from step 0; "warmup_end": from the end of the peak


@dataclass
class HandoverSettings:
    """What phase 2 takes over from phase 1 besides the weights."""

    schedule: str = MISSING  # "rewarm" (its own schedule from 0) or "continue" (one schedule over both phases)
    moments: str = MISSING  # "keep", "keep_reset_step" (bias correction starts anew) or "fresh"


@dataclass
class RecoverySettings:
    """What a run does that has gone wrong: many steps without a finite gradient, or a loss spike."""

    policy: str = MISSING  # "rollback" (last good checkpoint, other sequences from there on) or "stop"
    every: int = MISSING  # a run goes back to a multiple of so many steps, wherever else it has checkpoints
    max_skipped_in_row: int = MISSING  # steps without a finite gradient in a row; single ones are skipped
    window: int = MISSING  # steps whose losses are remembered; before so many nothing is called a spike
    spike_nats: float = MISSING  # a step's loss is high when it exceeds the median of the window by so much
    spike_steps: int = MISSING  # high losses in a row that are a spike
    max_rollbacks: int = MISSING  # of a phase; after these the run stops


@dataclass
class FinetuneSettings:
    """SQuAD v1.1 fine-tuning, by the rules of google-research/bert."""

    train_file: str = MISSING  # SQuAD v1.1 JSON, also .zst
    dev_file: str = MISSING  # likewise; the questions that are scored
    arms: list[str] = MISSING  # "pretrained" and/or "scratch" (random weights, all else equal)
    max_train_questions: int = MISSING  # 0: all; else a subset drawn by the seed
    max_length: int = MISSING  # tokens of question and context window together
    stride: int = MISSING  # tokens between the starts of neighbouring windows
    max_query: int = MISSING  # tokens of a question kept
    max_answer: int = MISSING  # tokens of an answer, at most
    n_best: int = MISSING  # start and end candidates considered
    batch: int = MISSING  # windows per optimizer step
    epochs: int = MISSING  # over all windows
    lr: float = MISSING  # AdamW, peak
    warmup_share: float = MISSING  # of all steps
    weight_decay: float = MISSING  # AdamW; biases and LayerNorm do not decay
    dropout: float = MISSING  # hidden and attention


@dataclass
class HardwareSettings:
    """What changes speed and never the result, but for rounding (law 7)."""

    name: str = MISSING  # of the file in conf/hardware, for records
    device: str = MISSING  # "auto", "cpu" or "cuda"
    devices: int = MISSING  # processes, one per device; 0: all local GPUs, or one process on a CPU
    strategy: str = MISSING  # "auto" (by the number of devices), "single" or "ddp"
    precision: str = MISSING  # "bf16" (autocast, fp32 weights), "fp32", or "fp64"; "auto": the faster of the first two
    micro_batch_tokens: int | None = MISSING  # of a forward pass and device; null: as many as fit a GPU
    recompute: bool = MISSING  # run each layer again in the backward pass: less memory, a third more work
    compile: str = MISSING  # "auto" (where a compiler is at hand), "on" or "off"
    deterministic: bool = MISSING  # GPU kernels that repeat to the bit; a CPU's always do
    local_data: str | None = (
        MISSING  # folder on each node's own disk that prepared data is copied to; null: read in place
    )
    timeout_s: float = MISSING  # seconds that a process may wait for another one; then all end, and that one is named
    prefetch: int = MISSING  # micro-batches made ahead by the loader's thread
    peak_tflops: float | None = MISSING  # a device's dense matrix rate as its maker gives it, for MFU; null: not told
    measured: str | None = MISSING  # file of `make bench-gpu`, for the plan's hours; null: assumed_tflops
    assumed_tflops: float = MISSING  # model TFLOP/s per device, for the plan's hours only


@dataclass
class RunSettings:
    """Where results go, and how often to look; never part of the recipe, but for the content of from_checkpoint."""

    root: str = MISSING  # folder of all run folders
    name: str | None = None  # folder below root; null: <experiment>-<recipe hash>
    from_checkpoint: str | None = None  # another run's checkpoint folder, to start from its weights, moments and step
    allow_change: bool = MISSING  # whether a run may go on in another precision than its steps so far were computed in
    log_every: int = MISSING  # steps between lines of metrics.jsonl
    trust_ratios_every: int = MISSING  # steps between readings of every tensor's trust ratio
    heldout_every: int = MISSING  # steps between evaluations on held-out documents; 0: at the end only
    heldout_sequences: int = MISSING  # sequences of one such evaluation, at most
    checkpoint_every: int = MISSING  # steps
    keep_checkpoints: int = MISSING  # newest ones kept per phase
    keep_at: list[str] = MISSING  # steps of the run, or shares of it (0.1), whose checkpoints are kept for good too
    wandb: str = MISSING  # "auto" (online with a key, else offline), "online", "offline" or "disabled"
    wandb_project: str = MISSING  # where the mirror goes


@dataclass
class InspectSettings:
    """What `inspect` shows; never part of the recipe."""

    phase: int = MISSING  # 1 or 2
    epoch: int = MISSING  # whose mask is shown; epoch e reads pass e mod data.passes
    sequence: int = MISSING  # row of that pass, from 0
    step: int = MISSING  # the optimizer step whose batch is shown, from 0
    document: str | None = MISSING  # id, or number from 0: shows this document's way instead


@dataclass
class Settings:
    """The whole tree, as composed from `conf/`."""

    experiment: str = MISSING  # name of the recipe, in conf/experiment
    seed: int = MISSING  # initial weights, order, masks, dropout, fine-tuning
    sources: dict[str, str] = field(default_factory=dict)  # where a setting's value comes from; shown by the plan
    model: ModelSettings = MISSING
    data: DataSettings = MISSING
    masking: MaskingSettings = MISSING
    optimizer: OptimizerSettings = MISSING
    phase1: PhaseSettings = MISSING
    phase2: PhaseSettings = MISSING
    handover: HandoverSettings = MISSING
    recovery: RecoverySettings = MISSING
    finetune: FinetuneSettings = MISSING
    hardware: HardwareSettings = MISSING
    run: RunSettings = MISSING
    inspect: InspectSettings = MISSING

    def phase(self, number: int) -> PhaseSettings:
        """Phase 1 or 2."""
        return {1: self.phase1, 2: self.phase2}[number]
