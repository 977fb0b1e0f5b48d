"""Planted mistakes in everything but the optimizer: data, step, checkpoints, text, SQuAD, numbers. `make mutants`.

python tests/law_mutants.py [NAME ...]     all of them, or those named; exit status 1 where one survives
"""

import sys

from planted import Mutant, project_copy, report, turns_red

MASKING, ORDER, HASHING = "bert_lamb/data/masking.py", "bert_lamb/data/order.py", "bert_lamb/hashing.py"
PACKING, PLANNER, LOADER = "bert_lamb/data/packing.py", "bert_lamb/data/planner.py", "bert_lamb/data/loader.py"
PAIRS, SENTENCES = "data_prep/shards/instances.py", "data_prep/text/sentences.py"
MODEL, ATTENTION = "bert_lamb/model/pretraining.py", "bert_lamb/model/attention.py"
STEP, STRATEGY, METRICS = "bert_lamb/pretrain.py", "bert_lamb/parallel/strategy.py", "bert_lamb/run/metrics.py"
CHECKPOINT, RETENTION = "bert_lamb/run/checkpoint.py", "bert_lamb/run/retention.py"
PHASES, PROGRESS, STARTS = "bert_lamb/training/checkpoints.py", "bert_lamb/run/progress.py", "bert_lamb/run/starts.py"
WINDOWS, SPANS, SCORER = (
    "bert_lamb/tasks/squad_data.py",
    "bert_lamb/tasks/squad_predict.py",
    "bert_lamb/tasks/squad_metrics.py",
)
COST, FLOPS, RATES = "bert_lamb/planning/cost.py", "bert_lamb/model/flops.py", "bert_lamb/planning/rates.py"
REPORT, SCHEDULE = "bert_lamb/reporting/text.py", "bert_lamb/optim/schedules.py"

MUTANTS = {
    # masking
    "masks of every epoch alike": Mutant(
        MASKING, "rule.seed, rule.phase, int(e)) for e", "rule.seed, rule.phase, 0) for e",
        ("data/test_order.py::test_masks_are_drawn_afresh_each_epoch",),
    ),
    "masks that know no seed": Mutant(
        MASKING, "key(domain, rule.seed, rule.phase", "key(domain, rule.phase",
        ("data/test_masking.py::test_masks_differ_by_seed_phase_and_epoch",),
    ),
    "masks by the place in the batch": Mutant(
        MASKING, "np.arange(borders[-1]) - np.repeat(borders[:-1], lengths)", "np.arange(borders[-1])",
        ("data/test_masking.py::test_masks_do_not_depend_on_company",),
    ),
    "special tokens masked": Mutant(
        MASKING, "np.where(special, np.uint64(2**64 - 1), hashes)", "hashes",
        ("data/test_masking.py::test_exact_numbers_for_every_length",),
    ),
    "shares of 85, 5 and 10": Mutant(
        MASKING, "AS_MASK, AS_RANDOM = 0.8, 0.9", "AS_MASK, AS_RANDOM = 0.85, 0.9",
        ("data/test_masking.py::test_shares_and_uniformity",),
    ),
    "random ids of the first half": Mutant(
        MASKING, "% np.uint64(rule.vocab_size)", "% np.uint64(rule.vocab_size // 2)",
        ("data/test_masking.py::test_shares_and_uniformity",),
    ),
    "counts rounded down": Mutant(
        MASKING, "np.rint(share", "np.floor(share", ("data/test_masking.py::test_counts_round_as_python_does",)
    ),
    "labels of the masked text": Mutant(
        MASKING, "    return masked, positions, labels", "    return masked, positions, masked[positions]",
        ("data/test_order.py::test_order_and_masks_are_the_committed_ones", "data/test_masking.py"),
    ),
    "whole words from their second piece": Mutant(
        MASKING, "np.argsort(hashes[heads], kind", "np.argsort(-hashes[heads], kind",
        ("data/test_masking.py::test_whole_words_against_the_slow_rule",),
    ),
    # order
    "an order without a seed": Mutant(
        ORDER, "key(Domain.ORDER, self.seed, self.phase, int(e))", "key(Domain.ORDER, self.phase, int(e))",
        ("data/test_order.py::test_epochs_seeds_and_phases_have_orders_of_their_own",),
    ),
    "every epoch in the same order": Mutant(
        ORDER, "self.phase, int(e))", "self.phase, 0)",
        ("data/test_order.py::test_epochs_seeds_and_phases_have_orders_of_their_own",),
    ),
    "always the first pass": Mutant(
        ORDER, "return GlobalBatch(epoch, pass_, instance)", "return GlobalBatch(epoch, 0 * pass_, instance)",
        ("data/test_order.py::test_every_epoch_reads_its_pass_exactly_once",),
    ),
    "the offset forgotten": Mutant(
        ORDER, "(step + data_offset) * self", "step * self",
        ("data/test_order.py::test_data_offset_shifts_steps",),
    ),
    "batches that overlap": Mutant(
        ORDER, "* self.global_batch + np.arange", "* (self.global_batch - 1) + np.arange",
        ("data/test_order.py::test_every_epoch_reads_its_pass_exactly_once",),
    ),
    "no permutation": Mutant(
        HASHING, "left ^ (hash_counters(round_key, right) & low)", "left | (hash_counters(round_key, right) & low)",
        ("data/test_order.py::test_permute_is_a_bijection",),
    ),
    "no cycle walking": Mutant(
        HASHING, "outside = np.flatnonzero(result >= size)", "outside = np.flatnonzero(result > size)",
        ("data/test_order.py::test_permute_is_a_bijection",),
    ),
    "keys that forget their order": Mutant(
        HASHING, "state = mix((state + GOLDEN) ^ np", "state = state ^ mix(np",
        ("data/test_order.py::test_keys_tell_tuples_apart",),
    ),
    # packing and planning
    "B with the type of A": Mutant(
        PACKING, "positions > np.repeat(spans.a_length + 1", "positions > np.repeat(spans.a_length + 2",
        ("data/test_packing.py::test_lay_out_against_a_plain_loop",),
    ),
    "positions over the whole batch": Mutant(
        PACKING, "positions = np.arange(borders[-1]) - np.repeat(borders[:-1], spans.lengths)",
        "positions = np.arange(borders[-1])", ("data/test_packing.py::test_lay_out_against_a_plain_loop",),
    ),
    "next labels turned round": Mutant(
        PACKING, "torch.from_numpy(1 - rows.spans.is_next)", "torch.from_numpy(0 + rows.spans.is_next)",
        ("data/test_packing.py::test_next_labels_follow_transformers",),
    ),
    "filler with a label": Mutant(
        PACKING, "filled(batch.masked_labels, shape.masked, IGNORED)", "filled(batch.masked_labels, shape.masked, 0)",
        ("data/test_packing.py::test_round_up_keeps_what_is_real",),
    ),
    "filler sequences of a token": Mutant(
        PACKING, "int(batch.cu_seqlens[-1])", "int(batch.cu_seqlens[-1]) + 1",
        ("data/test_packing.py::test_round_up_keeps_what_is_real",),
    ),
    "a rank's rows twice": Mutant(
        PLANNER, "cut[rank::ranks] for rank in", "cut[::ranks] for rank in",
        ("data/test_planner.py::test_by_length",),
    ),
    "the longest sequences together": Mutant(
        PLANNER, "np.where(lap % 2, bins - 1 - place, place)", "np.arange(len(lengths)) * bins // len(lengths)",
        ("data/test_planner.py::test_by_tokens",),
    ),
    "a budget that is exceeded": Mutant(
        PLANNER, ".max() <= tokens and np", ".max() <= 2 * tokens and np", ("data/test_planner.py::test_by_tokens",)
    ),
    "denominators of this rank": Mutant(
        LOADER, "masked=int(masked_counts(lengths, self.rule.share).sum())",
        "masked=int(masked_counts(lengths[self.rank :: self.ranks], self.rule.share).sum())",
        ("training/test_global_batch.py::test_several_processes[2]",),
    ),
    "denominators of padded sequences": Mutant(
        LOADER, "masked_counts(lengths, self.rule.share).sum()",
        "masked_counts(0 * lengths + self.seq_len, self.rule.share).sum()",
        ("training/test_global_batch.py::test_one_process",),
    ),
    # pairs and sentences
    "a random B three times in four": Mutant(
        PAIRS, "(size == 1 or draw() < 0.5)", "(size == 1 or draw() < 0.75)",
        ("data_prep/shards/test_instances.py::test_half_of_the_pairs_are_random",),
    ),
    "a random B of the same document": Mutant(
        PAIRS, "            other += other >= document\n", "",
        ("data_prep/shards/test_instances.py::test_segments_stay_in_documents_and_random_b_is_of_another_one",),
    ),
    "the unused sentences are lost": Mutant(
        PAIRS, "sentence = a_end  # what", "sentence = end  # what",
        ("data_prep/shards/test_instances.py::test_spans_are_those_of_the_slow_rule",),
    ),
    "cut at the front alone": Mutant(
        PAIRS, "a_front, b_front = _heads(from_a, draw), _heads(from_b, draw)", "a_front, b_front = from_a, from_b",
        ("data_prep/shards/test_instances.py::test_spans_are_those_of_the_slow_rule",),
    ),
    "passes drawn alike": Mutant(
        PAIRS, "seq_len, pass_, shard)\n    #", "seq_len, 0, shard)\n    #",
        ("data_prep/shards/test_instances.py::test_draws_differ_by_seed_split_length_pass_and_shard_and_repeat",),
    ),
    "a sequence too long by one": Mutant(
        PAIRS, "most = seq_len - SPECIAL_PER_SEQUENCE", "most = seq_len - SPECIAL_PER_SEQUENCE + 1",
        ("data_prep/shards/test_instances.py::test_no_segment_is_empty_and_no_sequence_too_long",),
    ),
    "long sentences lose their cut": Mutant(
        SENTENCES, "        start = end\n    yield", "        start = end + 1\n    yield",
        ("data_prep/text/test_properties.py::test_the_cleaner_loses_nothing_but_what_it_says",),
    ),
    "lines joined without a blank": Mutant(
        SENTENCES, 'return "\\n".join(line.strip()', 'return "".join(line.strip()',
        ("data_prep/text/test_properties.py::test_the_cleaner_loses_nothing_but_what_it_says",),
    ),
    # model and step
    "attention over neighbours": Mutant(
        ATTENTION, "is_filled = indices < ends[:, None]", "is_filled = indices < tokens",
        ("model/test_model.py::test_no_sequence_sees_another",),
    ),
    "the pooler takes the last token": Mutant(
        MODEL, "batch.cu_seqlens[:-1].long()", "(batch.cu_seqlens[1:].long() - 1)",
        ("model/test_model.py::test_losses_and_every_gradient_equal_transformers",),
    ),
    "residuals left out": Mutant(
        MODEL, "dropped(out_ND, keys_N, site + 2, hidden) + mixed_ND", "dropped(out_ND, keys_N, site + 2, hidden)",
        ("model/test_model.py::test_losses_and_every_gradient_equal_transformers",),
    ),
    "gradients averaged over micro-batches": Mutant(
        STEP, "(losses.mlm / step.denominators.masked + ", "(losses.mlm / len(batch.masked_labels) + ",
        ("training/test_golden.py::test_a_second_loop_gives_the_same_losses_and_weights",),
    ),
    "the rate of the step before": Mutant(
        STEP, "learning_rate(step.number)", "learning_rate(max(0, step.number - 1))",
        ("training/test_golden.py::test_a_second_loop_gives_the_same_losses_and_weights",),
    ),
    "gradients of the step before": Mutant(
        STEP, "            run.optimizer.zero_grad()\n", "",
        ("training/test_golden.py::test_a_second_loop_gives_the_same_losses_and_weights",),
    ),
    "dropout that forgets the step": Mutant(
        STEP, "seed_dropout(s.seed, number, step.number,", "seed_dropout(s.seed, number, 0,",
        ("training/test_golden.py", "training/test_resume.py::test_dropout_follows_the_step"),
    ),
    "means over ranks": Mutant(
        STRATEGY, "dist.all_reduce(flat)", "dist.all_reduce(flat.div_(self.ranks))",
        ("training/test_global_batch.py::test_several_processes[2]",),
    ),
    "the last bucket is not reduced": Mutant(
        STRATEGY, "        if bucket:\n", "        if not bucket:\n",
        ("training/test_global_batch.py::test_several_processes[2]",),
    ),
    "warm-up one step longer": Mutant(
        SCHEDULE, "return self.peak_lr * t / self.warmup_steps", "return self.peak_lr * t / (self.warmup_steps + 1)",
        ("optim/test_schedules.py::test_table",),
    ),
    "decay to the last step but one": Mutant(
        SCHEDULE, "(1 - (t - since) / (self", "(1 - (t + 1 - since) / (self",
        ("optim/test_schedules.py::test_table",),
    ),
    "a linear rule": Mutant(
        SCHEDULE, "base_lr * (batch / base_batch) ** 0.5", "base_lr * (batch / base_batch)",
        ("optim/test_schedules.py::test_the_untuned_rule_gives_every_row",),
    ),
    # checkpoints, hand-over, recovery
    "a checkpoint without its moments": Mutant(
        CHECKPOINT, "_load_optimizer(bert, optimizer, load_file(path / MOMENTS))", "pass",
        ("run/test_checkpoint.py::test_what_is_saved_comes_back",),
    ),
    "damaged checkpoints are loaded": Mutant(
        CHECKPOINT, "    verify_checkpoint(path)\n    load_weights", "    load_weights",
        ("run/test_checkpoint.py::test_any_damage_is_refused",),
    ),
    "the name before the content": Mutant(
        RETENTION, "rename_synced(aside, final)", "aside.rename(final)",
        ("run/test_checkpoint.py::test_content_is_on_the_disk_before_the_name",),
    ),
    "the oldest is gone on from": Mutant(
        CHECKPOINT, "in reversed(checkpoints):\n        if (found", "in checkpoints:\n        if (found",
        ("run/test_checkpoint.py::test_a_resume_takes_the_newest_whole_one",),
    ),
    "any name is a checkpoint": Mutant(
        RETENTION,
        "found = NAME.fullmatch(path.name)\n"
        "    return int(found[1]) if found and path.name == checkpoint_name(int(found[1]))",
        "found = NAME.match(path.name)\n    return int(found[1]) if found",
        ("run/test_checkpoint.py::test_copies_are_not_ours",),
    ),
    "those kept for good are deleted": Mutant(
        RETENTION, " and step_of(old) not in keep.steps", "",
        ("run/test_checkpoint.py::test_steps_that_are_kept_for_good",),
    ),
    "a roll-back to any checkpoint": Mutant(
        RETENTION, "(step % every == 0 or step == first)", "step >= first",
        ("training/test_recovery.py::test_cut_anywhere_the_bits_are_the_same",),
    ),
    "a roll-back reads the same sequences": Mutant(
        PROGRESS, "self.data_offset + self.step - to.step", "self.data_offset",
        ("training/test_recovery.py::test_rolled_back_the_data_goes_on",),
    ),
    "counts are lost at a stop": Mutant(
        PROGRESS, "self.pending.get(name, 0.0) + count", "count",
        ("training/test_records.py::test_counts_survive_a_stop",),
    ),
    "a skipped step is not counted": Mutant(
        PROGRESS, "            self.skipped += 1\n", "",
        ("settings/test_settings.py::test_a_few_bad_steps_are_skipped",),
    ),
    "phase 2 with steps that go on": Mutant(
        PHASES, 'if moments == "keep_reset_step":', 'if moments == "keep":',
        ("training/test_golden.py::test_a_second_loop_gives_the_same_losses_and_weights",),
    ),
    "phase 2 without moments": Mutant(
        PHASES, 'keeps = self._optimizer if moments != "fresh" else None', "keeps = None",
        ("training/test_golden.py::test_a_second_loop_gives_the_same_losses_and_weights",),
    ),
    "phase 2 with the moments that were left": Mutant(
        PHASES, "        self._optimizer.state.clear()\n", "",
        ("training/test_golden.py::test_fresh_moments_are_those_of_a_first_step",),
    ),
    "the first start tells for all": Mutant(
        STARTS, "return found[-1] if found else None", "return found[0] if found else None",
        ("run/test_starts.py::test_a_start_that_saved_nothing_does_not_decide",),
    ),
    # text
    "duplicates are those that come first": Mutant(
        "data_prep/store/duplicates.py", "order[1:][values", "order[:-1][values",
        ("data_prep/store/test_duplicates.py::test_later_ones_by_hand",),
    ),
    "words that end at a digit": Mutant(
        "data_prep/shards/encoder.py", 'r"[A-Za-z0-9]+|[^', 'r"[A-Za-z]+|[^',
        ("data_prep/shards/test_tokenizer.py::test_the_word_by_word_encoder_gives_the_tokenizer_s_ids",),
    ),
    # SQuAD
    "windows without an overlap": Mutant(
        WINDOWS, "begin = bounds[-1][0] + min(room, stride)", "begin = bounds[-1][0] + room",
        ("tasks/test_squad.py::test_window_bounds",),
    ),
    "the context has type 0": Mutant(
        WINDOWS, "real & (at >= windows.context_at[rows]", "real & (at > windows.context_at[rows]",
        ("tasks/test_squad.py::test_padding_of_a_batch",),
    ),
    "an answer one token short": Mutant(
        WINDOWS, 'span[1], side="left")) - 1', 'span[1], side="left")) - 2',
        ("tasks/test_squad.py::test_perfect_spans_give_the_answers_back",),
    ),
    "answers that end before they start": Mutant(
        SPANS, "(after_BNN < 0) | (after", "(after_BNN < -9) | (after",
        ("tasks/test_squad.py::test_best_spans_equal_a_search_over_all_spans",),
    ),
    "answers longer by a token": Mutant(
        SPANS, "(after_BNN >= max_answer)", "(after_BNN > max_answer)",
        ("tasks/test_squad.py::test_best_spans_equal_a_search_over_all_spans",),
    ),
    "the last window wins": Mutant(
        SPANS, "if score > best[number]:", "if True:",
        ("tasks/test_squad.py::test_perfect_scores_are_predicted_as_perfect_text",),
    ),
    "articles count": Mutant(
        SCORER, 'ARTICLES.sub(" ", text.lower().translate(PUNCTUATION))', "text.lower().translate(PUNCTUATION)",
        ("tasks/test_squad.py::test_normalised_text_follows_the_official_order",),
    ),
    "the first gold answer alone": Mutant(
        SCORER, "max(f1(predictions[q.id], gold) for gold in q.answers)", "f1(predictions[q.id], q.answers[0])",
        ("tasks/test_squad.py::test_best_gold_answer_counts_and_a_missing_prediction_is_zero",),
    ),
    "means over what was answered": Mutant(
        SCORER, "n = len(questions)\n", "n = len(answered)\n",
        ("tasks/test_squad.py::test_best_gold_answer_counts_and_a_missing_prediction_is_zero",),
    ),
    # numbers
    "losses of a micro-batch": Mutant(
        METRICS, "sums if self._sums is None else self._sums + sums", "sums",
        ("training/test_golden.py::test_the_losses_are_the_committed_ones",),
    ),
    "TFLOP/s of all devices together": Mutant(
        METRICS, '/ pending["seconds"] / self._strategy.ranks / 1e12', '/ pending["seconds"] / 1e12',
        ("run/test_metrics_line.py",),
    ),
    "attention's FLOPs forgotten": Mutant(
        FLOPS, " + 2 * squared * h", "", ("model/test_model.py::test_training_flops_equal_the_counted_ones",)
    ),
    "hours on one device": Mutant(
        COST, "p.flops / (p.tflops * 1e12 * devices)", "p.flops / (p.tflops * 1e12)",
        ("planning/test_rates.py", "settings/test_settings.py::test_hours_come_from_a_measurement_where_there_is_one"),
    ),
    "sequences of phase 1 alone": Mutant(
        COST, "flops = sum(p.flops for p in phases)", "flops = phases[0].flops",
        ("planning/test_rates.py", "settings/test_settings.py::test_every_experiment_has_a_budget_on_every_hardware"),
    ),
    "the paper's F1 beside any batch": Mutant(
        REPORT, "row = PAPER.get((s.phase1.global_batch, s.phase2.global_batch))", "row = PAPER[512, 512]",
        ("reporting/test_report.py::test_the_papers_row_stands_beside_a_run_of_its_batches",),
    ),
    "the arms' scores exchanged": Mutant(
        REPORT, '((pretrained, "with pretraining"), (scratch, "without"))',
        '((scratch, "with pretraining"), (pretrained, "without"))',
        ("reporting/test_report.py::test_the_whole_report",),
    ),
}  # fmt: skip


def main(names: list[str]) -> int:
    chosen = {name: MUTANTS[name] for name in names or MUTANTS}
    with project_copy() as copy:
        tests = sorted({test for mutant in chosen.values() for test in mutant.tests})
        if turns_red(copy, tests):
            print("some of the tests are red without any planted mistake: run them by themselves")
            return 1
        return report((name, turns_red(copy, mutant.tests, mutant)) for name, mutant in chosen.items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
