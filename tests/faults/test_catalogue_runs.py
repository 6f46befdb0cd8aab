"""Faults of processes, providers and the store: which test causes each of them, and what has none here.

pytest tests/faults/test_catalogue_runs.py
"""

from __future__ import annotations

from catalogue import fault, problems

MATRIX = "faults/test_crash_matrix.py::test_a_run_that_was_killed_ends_as_if_nothing_had_been"
ATTEMPTS = "tasks/test_attempts.py::"
OPENAI = "tasks/providers/test_openai_provider.py::"
PROMPT = "tasks/test_prompt_step.py::"
AGAIN = "tasks/promises/test_answers_used_again.py::"
WHOLE = "faults/test_whole_runs.py::"
CRASH = "faults/test_store_crash.py::"
DISK = "faults/test_store_disk.py::"
PROCESSES = "faults/test_store_processes.py::"
CLAIMS = "chains/store/test_store_claims.py::"
KEEPING = "chains/store/test_store_keeping.py::"
MIGRATIONS = "chains/store/test_store_migrations.py::"
NO_WORKERS = "Steps run in the process of their run: there is no worker of another pool yet"

RUNS = {
    1: fault(
        "kill -9 in the middle of a batch",
        MATRIX,
        "e2e/test_run_direct.py::test_a_stopped_run_is_finished_by_resume",
        "e2e/test_out_file.py::test_after_a_crash_no_step_waits_any_more",
    ),
    2: fault(
        "kill between an answer and its commit",
        MATRIX,
        "tasks/test_attempts_crash.py::test_a_killed_call_is_ambiguous_and_counts",
        "tasks/promises/test_doubt_and_deadlines.py::test_a_call_in_doubt_is_made_again_by_default_and_counts",
        "tasks/promises/test_doubt_and_deadlines.py::test_with_on_ambiguous_fail_the_row_fails_and_nothing_is_sent",
    ),
    3: fault(
        "kill between the blob's rename and the commit of its row",
        MATRIX,
        CRASH + "test_after_a_kill_the_store_is_whole_and_the_sequence_can_be_finished",
        CRASH + "test_after_a_kill_a_store_with_its_blobs_in_a_bucket_is_whole",
        "chains/store/test_store_verify.py::test_a_blob_that_nothing_refers_to_is_removed_when_it_is_old",
    ),
    4: fault(
        "the worker of a GPU step is lost",
        "tasks/training/test_training_process.py::test_after_a_kill_training_goes_on_and_ends_with_the_same_weights",
        "tasks/training/test_training_process.py::test_the_child_leaves_when_its_parent_is_gone",
        untested=f"{NO_WORKERS}; the one child that there is, training, is killed.",
    ),
    5: fault(
        "a paused process wakes after its run was taken over",
        "e2e/test_cancel.py::test_a_paused_process_whose_run_was_taken_over_writes_no_more",
        "faults/test_store_postgres.py::test_a_paused_process_whose_run_was_taken_over_writes_nothing_more",
        CLAIMS + "test_a_late_record_under_an_old_fence_is_refused_and_the_new_one_stays",
        AGAIN + "test_a_paused_process_links_what_was_made_meanwhile_in_its_place",
    ),
    6: fault("there is no GPU worker at all", untested=f"{NO_WORKERS}, so none is waited for."),
    7: fault(
        "the Prefect server restarts in the middle of a run",
        WHOLE + "test_a_prefect_server_that_goes_away_in_a_run_costs_no_answer",
    ),
    8: fault(
        "no Prefect server can be reached at the start",
        "e2e/test_run_prefect.py::test_an_api_that_does_not_answer_exits_3_and_names_it",
        "e2e/test_run_prefect.py::test_without_a_server_a_run_brings_its_own_and_leaves_its_records_behind",
        "e2e/test_run_direct.py::test_a_batch_sends_one_request_per_record_and_a_second_run_sends_none",
    ),
    9: fault(
        "SIGTERM, Ctrl-C, and Ctrl-C twice",
        WHOLE + "test_sigterm_lets_calls_in_flight_end_and_no_new_one_begin",
        WHOLE + "test_a_second_ctrl_c_drops_the_calls_in_flight",
        "e2e/test_out_file.py::test_rows_that_a_stop_left_are_cancelled_and_no_call_begins_after_it",
        "e2e/test_command_line.py::test_ctrl_c_before_the_first_call_says_so_and_leaves_no_running_run",
    ),
    10: fault(
        "a flow is retried, or started twice with one idempotency key",
        "e2e/test_prefect_retry.py::test_the_retry_button_finishes_the_same_run",
        "e2e/test_prefect_retry.py::test_a_schedule_that_fires_twice_with_one_key_makes_one_run",
        "faults/test_prefect_assumptions.py::test_prefect_retries_machine_faults_and_no_failed_rows",
    ),
    11: fault(
        "two runs of one chain with the same inputs at once",
        WHOLE + "test_two_runs_that_begin_at_once_pay_for_each_answer_once",
        AGAIN + "test_two_runs_that_ask_the_same_at_once_pay_once",
        AGAIN + "test_a_claim_of_a_killed_process_ends_with_its_lease",
        "faults/test_store_postgres.py::test_three_processes_that_want_the_same_pay_for_each_answer_once",
    ),
    12: fault(
        "the clock jumps an hour",
        WHOLE + "test_a_clock_that_jumps_in_a_run_changes_no_answer_and_shows_no_negative_time",
        CLAIMS + "test_a_jump_of_the_wall_clock_ends_no_claim_and_keeps_none",
        CLAIMS + "test_a_claim_from_before_the_machine_was_restarted_is_over",
    ),
    13: fault(
        "code or chain change between a crash and its resume",
        "e2e/test_resume.py::test_a_changed_step_is_named_and_runs_anew_only_when_accepted",
        "e2e/test_resume.py::test_an_accepted_change_that_is_interrupted_does_not_keep_the_earlier_answers",
        "e2e/test_resume.py::test_changed_data_is_refused",
        "chains/test_changes.py::test_a_change_of_what_a_function_imports_is_a_change_of_its_step",
    ),
    14: fault("a fork with the store open", PROCESSES + "test_a_forked_child_opens_its_own_connections"),
}

PROVIDERS = {
    15: fault(
        "a storm of 429 with Retry-After",
        ATTEMPTS + "test_a_storm_of_429_fails_no_row_that_the_endpoint_would_serve",
        ATTEMPTS + "test_after_a_429_all_callers_wait_and_one_goes_first",
        ATTEMPTS + "test_retry_after_is_waited_for",
    ),
    16: fault(
        "429 without Retry-After",
        ATTEMPTS + "test_backoff_has_full_jitter_under_a_doubling_limit",
        ATTEMPTS + "test_what_may_pass_is_tried_up_to_the_bound_and_what_will_not_is_tried_once",
        ATTEMPTS + "test_a_message_after_several_attempts_names_how_each_ended",
    ),
    17: fault(
        "Retry-After of a day, as a date, or garbage",
        ATTEMPTS + "test_a_wait_beyond_two_minutes_ends_all_rows_with_the_time_and_one_call",
        ATTEMPTS + "test_garbage_in_retry_after_is_ignored",
        "tasks/providers/test_faults.py::test_retry_after_is_read_as_seconds_or_a_date_and_else_ignored",
    ),
    18: fault(
        "5xx, a reset connection, a name that does not resolve",
        ATTEMPTS + "test_a_call_goes_on_after_faults_of_several_kinds_and_keeps_each",
        OPENAI + "test_a_connection_without_an_answer_is_a_failed_connection",
        OPENAI + "test_a_closed_port_and_an_unknown_name_are_failed_connections",
        "tasks/providers/test_faults.py::test_each_status_and_code_has_one_class",
        "tasks/promises/test_doubt_and_deadlines.py::test_when_the_endpoint_is_down_most_rows_fail_without_a_call_and_say_so",
    ),
    19: fault(
        "a server that hangs, or sends a byte now and then",
        OPENAI + "test_a_server_that_says_nothing_is_left_after_the_timeout",
        OPENAI + "test_an_answer_that_drips_is_cut_at_the_timeout_and_kept",
        OPENAI + "test_an_answer_that_stops_is_left_after_the_pause_between_parts",
        ATTEMPTS + "test_a_hanging_server_is_a_timeout_at_last",
        "tasks/promises/test_doubt_and_deadlines.py::test_a_deadline_cuts_the_attempt_that_would_outlast_it",
    ),
    20: fault(
        "a body that breaks off, or is of another type",
        OPENAI + "test_what_arrived_of_a_cut_answer_is_kept",
        OPENAI + "test_a_reply_that_is_no_answer_keeps_its_bytes_and_says_why",
    ),
    21: fault(
        "200 with a page of HTML, without choices, or with null as content",
        OPENAI + "test_a_reply_that_is_no_answer_keeps_its_bytes_and_says_why",
        OPENAI + "test_a_document_that_is_no_completion_is_named",
    ),
    22: fault(
        "invalid UTF-8, half characters, NUL, a byte order mark",
        OPENAI + "test_a_reply_that_is_no_answer_keeps_its_bytes_and_says_why",
        OPENAI + "test_a_byte_order_mark_does_not_spoil_an_answer",
        OPENAI + "test_half_a_character_is_named_before_anything_is_sent",
        "chains/test_strict_json.py::test_lone_surrogates_become_replacement_characters_and_pairs_stay",
        "chains/store/test_store_rows.py::test_a_record_comes_back_byte_for_byte",
        "chains/store/test_store_rows.py::test_text_that_no_database_holds_is_marked_and_not_an_error",
    ),
    23: fault(
        "an answer that unpacks to far more than it weighs",
        OPENAI + "test_a_reply_that_is_no_answer_keeps_its_bytes_and_says_why",
    ),
    24: fault(
        "a prompt longer than the model's context",
        ATTEMPTS + "test_what_may_pass_is_tried_up_to_the_bound_and_what_will_not_is_tried_once",
        OPENAI + "test_a_reply_that_is_no_answer_keeps_its_bytes_and_says_why",
    ),
    25: fault(
        "an answer that was cut at its limit, filtered or refused",
        PROMPT + "test_a_truncated_answer_fails_and_is_kept",
        PROMPT + "test_a_refusal_is_no_answer",
        OPENAI + "test_a_document_that_is_no_completion_is_named",
    ),
    26: fault(
        "another model behind the same name",
        PROMPT + "test_another_model_behind_the_name_is_recorded_and_said_once",
        OPENAI + "test_another_model_behind_a_name_is_news_once",
    ),
    27: fault(
        "structured output that does not fit, duplicate keys, NaN",
        PROMPT + "test_an_answer_that_does_not_fit_is_asked_for_again_with_the_reason",
        PROMPT + "test_asking_again_has_a_bound_and_the_error_tells_what_was_sent",
        PROMPT + "test_without_reask_one_bad_answer_is_the_end",
        "chains/test_strict_json.py::test_surprises_are_refused",
    ),
    28: fault(
        "an answer without usage",
        PROMPT + "test_a_missing_usage_is_unknown_and_not_zero",
        "tasks/promises/test_budget_of_calls.py::test_costs_are_on_attempts_and_records_and_unknown_ones_stay_unknown",
    ),
    29: fault(
        "a key that is revoked in the middle of a run",
        ATTEMPTS + "test_a_refused_key_ends_the_rows_that_have_not_begun_without_a_call",
        ATTEMPTS + "test_the_key_is_nowhere_in_the_store_nor_in_any_message",
        "e2e/test_prefect_border.py::test_a_key_is_nowhere_in_the_store_the_output_or_prefect",
    ),
    30: fault(
        "an answer that is streamed and stops near its end",
        OPENAI + "test_what_arrived_of_a_cut_answer_is_kept",
        untested="Answers are not streamed: one that stops is a body that broke off, and what came is kept.",
    ),
}

STORE = {
    56: fault(
        "another process holds the database's lock",
        WHOLE + "test_a_database_that_is_locked_for_a_while_holds_a_run_up_and_no_reader",
        PROCESSES + "test_a_lock_held_by_another_is_busy_after_the_wait_and_no_longer",
        PROCESSES + "test_a_write_that_waits_for_the_lock_goes_through_when_it_is_free",
        PROCESSES + "test_reads_and_opening_go_on_while_another_holds_the_lock",
    ),
    57: fault(
        "the disk is full",
        WHOLE + "test_a_disk_that_fills_up_ends_the_run_and_with_space_it_goes_on",
        DISK + "test_a_full_disk_is_a_clean_error_and_the_store_goes_on_when_there_is_space",
        DISK + "test_no_space_at_any_point_is_a_clean_error_and_nothing_is_half_written",
        "e2e/test_out_file.py::test_outputs_that_cannot_be_written_in_the_end_hide_no_result",
    ),
    58: fault(
        "the database is deleted or damaged",
        KEEPING + "test_a_lost_or_corrupt_database_is_made_again_from_manifests",
        KEEPING + "test_a_damaged_manifest_is_a_problem_and_the_others_are_loaded",
        "e2e/test_keep.py::test_a_lost_database_is_rebuilt_with_every_record",
        DISK + "test_a_database_that_is_none_is_a_clear_error",
    ),
    59: fault(
        "a bit of a blob flips",
        "chains/store/test_store_blobs.py::test_a_damaged_blob_is_an_error_and_never_data",
        "chains/store/test_store_reads.py::test_a_record_whose_blob_is_damaged_is_not_reused",
        "chains/store/test_store_verify.py::test_each_broken_promise_is_named",
    ),
    60: fault(
        "a newer schema, or an upgrade that is interrupted",
        MATRIX,
        CRASH + "test_a_killed_upgrade_leaves_the_old_schema_or_the_new_one",
        MIGRATIONS + "test_a_store_of_a_newer_headrace_is_refused_with_both_versions",
        MIGRATIONS + "test_a_migration_that_fails_leaves_the_store_as_it_was",
        MIGRATIONS + "test_an_existing_store_is_copied_and_then_migrated",
    ),
    61: fault(
        "a folder that cannot be written, a network file system",
        DISK + "test_a_folder_that_this_user_may_not_write_is_named",
        DISK + "test_a_file_where_the_folder_should_be_is_a_clear_error",
        untested="A network file system cannot be mounted in a test.",
    ),
    62: fault(
        "a hundred thousand runs, gigabytes of blobs",
        WHOLE + "test_a_hundred_thousand_runs_are_listed_and_pruned_in_bounded_time",
        KEEPING + "test_pruning_by_age_removes_the_run_and_the_blobs_that_only_it_needs",
        KEEPING + "test_an_answer_that_a_later_run_reused_stays_reusable",
        KEEPING + "test_models_collections_and_their_files_outlive_the_run_that_made_them",
        untested="Gigabytes would fill the disk of a test machine; blobs are streamed one by one.",
    ),
    63: fault(
        "two versions of the program on one store",
        MIGRATIONS + "test_a_program_that_was_open_during_an_upgrade_writes_nothing_more",
        MIGRATIONS + "test_a_store_of_a_newer_headrace_is_refused_with_both_versions",
        untested="There is one released schema so far: the newer version is one with a migration more.",
    ),
}


def test_each_fault_of_processes_workers_and_the_server_has_a_test_or_a_reason() -> None:
    assert problems(RUNS, range(1, 15)) == []


def test_each_fault_of_providers_has_a_test_or_a_reason() -> None:
    assert problems(PROVIDERS, range(15, 31)) == []


def test_each_fault_of_the_store_and_its_disk_has_a_test_or_a_reason() -> None:
    assert problems(STORE, range(56, 64)) == []
