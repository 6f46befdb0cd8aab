"""Bad chain files, templates, data and attacks: which test causes each fault, and what has none yet."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from catalogue import Fault, fault, problems

from chains.errors import InputInvalid
from chains.keys import canonical
from chains.outputs import parse_output
from chains.store import RecordRow, RunRow, StepRow, open_store
from chains.templates import render

ROOT = Path(__file__).parents[2]
CHECK, YAML = "chains/test_check.py", "chains/test_loading_yaml.py"
TEMPLATES, DATA = "chains/test_templates.py", "chains/test_data.py"
BLOBS, ROWS = "chains/store/test_store_blobs.py", "chains/store/test_store_rows.py"
CONFORMANCE = "tasks/collection/test_collection_conformance.py"
TRUST, NETWORK = "tasks/providers/test_trust.py", "tasks/providers/test_network.py"
WEIGHTS = "tasks/local/test_local_provider_weights.py"
HERE = "faults/test_catalogue_inputs.py"
NO_PAGES = "no part of Headrace serves web pages yet"

FAULTS: dict[int, Fault] = {
    31: fault(
        "cycle, self-loop, unknown step or output, unused part",
        f"{CHECK}::test_mistakes_in_steps_have_their_place_and_their_cure",
        "chains/test_graph.py::test_cycles_are_named_by_their_path",
        f"{CHECK}::test_unused_parts_are_remarks_apart_from_problems",
    ),
    32: fault(
        "alias bomb, self-reference, too many values",
        f"{YAML}::test_an_alias_bomb_is_refused_before_it_grows",
        f"{YAML}::test_what_is_left_out_of_yaml_is_refused_at_its_place",
        f"{YAML}::test_any_bytes_give_values_or_problems_at_real_places",
    ),
    33: fault(
        "depth 5,000, an integer of 20,000 digits",
        f"{YAML}::test_what_is_left_out_of_yaml_is_refused_at_its_place",
        "chains/test_keys.py::test_deep_nesting_is_an_error_and_no_crash",
        "chains/test_strict_json.py::test_surprises_are_refused",
    ),
    34: fault(
        "duplicate keys, `no`, sexagesimal numbers",
        f"{YAML}::test_what_is_left_out_of_yaml_is_refused_at_its_place",
        f"{YAML}::test_plain_scalars_follow_the_core_schema",
        f"{YAML}::test_scalars_without_a_plain_meaning_are_refused_with_a_hint",
    ),
    35: fault("tags that make objects", f"{YAML}::test_tags_import_nothing"),
    36: fault(
        "escapes from a template",
        f"{TEMPLATES}::test_escapes_are_refused_at_check_time_with_a_place",
        f"{TEMPLATES}::test_names_that_are_built_at_run_time_reach_no_attribute",
    ),
    37: fault(
        "templates in data",
        f"{TEMPLATES}::test_what_looks_like_a_template_in_a_value_stays_text",
        f"{TEMPLATES}::test_a_value_passes_through_an_expression_unchanged",
        "tasks/test_prompt_step.py::test_a_value_that_looks_like_a_template_or_a_role_stays_text",
        "tasks/collection/test_retrieve_step.py::test_what_a_document_says_is_not_rendered",
    ),
    38: fault(
        "templates that use up time or memory",
        f"{TEMPLATES}::test_resource_bombs_are_refused_or_capped",
        untested="rendering has caps on steps and sizes in place of a process of its own",
    ),
    39: fault(
        "a missing variable",
        f"{TEMPLATES}::test_failures_name_what_is_missing",
        f"{TEMPLATES}::test_missing_values_inside_a_list_are_not_passed_on",
    ),
    40: fault(
        "paths that lead out",
        "chains/test_loading.py::test_files_outside_the_folder_are_read_only_where_the_machine_allows_it",
        "chains/test_loading.py::test_an_import_that_leads_out_of_the_folder_by_a_link_is_a_problem",
        f"{ROWS}::test_an_id_that_could_leave_the_folder_is_refused",
        f"{BLOBS}::test_what_is_no_hash_opens_no_file",
        f"{BLOBS}::test_a_path_that_leaves_the_folder_is_refused",
        f"{TRUST}::test_a_local_model_is_looked_for_in_the_chains_folder_and_not_outside",
        f"{TRUST}::test_a_revision_is_no_path",
        "tasks/test_python_step.py::test_a_link_out_of_the_folder_is_refused",
        "tasks/test_prepare_step.py::test_a_file_elsewhere_is_refused_unless_settings_allow_it",
        untested="a path that is exchanged between its check and its opening: whoever can do that in the "
        "chain's folder can write the chain",
    ),
    41: fault(
        "a data set that changes",
        f"{DATA}::test_a_file_that_changes_between_reads_is_noticed",
        "e2e/test_resume.py::test_changed_data_is_refused",
    ),
    42: fault(
        "a Parquet file that grows when it is read",
        f"{DATA}::test_a_parquet_bomb_does_not_fill_the_memory",
        untested="zip files are not read",
    ),
    43: fault(
        "byte order marks, ragged rows, huge cells, mixed line ends",
        f"{DATA}::test_csv_has_a_header_quotes_a_mark_and_any_line_ends",
        f"{DATA}::test_large_cells_are_read_and_too_large_ones_refused",
        f"{DATA}::test_bad_csv_rows_are_listed_and_skipped",
        f"{DATA}::test_skipped_rows_are_counted_and_the_others_keep_their_numbers",
    ),
    44: fault(
        "empty data, one row, only duplicates, very many rows",
        f"{DATA}::test_files_that_are_no_data_set_are_refused",
        f"{DATA}::test_reading_takes_no_more_memory_for_more_rows",
        "tasks/test_prepare_step.py::test_nothing_but_empty_rows_is_an_error",
        "tasks/test_prepare_step.py::test_an_empty_part_is_null",
    ),
    45: fault(
        "vectors of another length or model, NaN, zero",
        f"{CONFORMANCE}::test_vectors_that_do_not_fit_are_refused",
        f"{CONFORMANCE}::test_another_embedder_or_distance_is_refused_with_both_values",
        "tasks/collection/test_embed_step.py::test_vectors_of_another_embedder_are_refused_before_any_call",
    ),
    46: fault(
        "two writers of a collection, a reader meanwhile",
        f"{CONFORMANCE}::test_a_second_process_is_told_who_holds_the_folder_and_gets_it_after_a_kill",
        f"{CONFORMANCE}::test_searches_and_writes_at_the_same_time_give_whole_hits",
        untested="a collection is brought up to date in place: a reader in a server may see part of it",
    ),
    47: fault(
        "instructions in retrieved text",
        "tasks/collection/test_retrieve_step.py::test_what_a_document_says_is_not_rendered",
        f"{HERE}::test_what_a_document_orders_reaches_nothing_but_the_prompt",
        untested="what a model makes of such a text; there are no tools that it could call",
    ),
    64: fault(
        "pickles",
        f"{HERE}::test_nothing_reads_pickles",
        f"{WEIGHTS}::test_pickled_weights_are_refused",
    ),
    65: fault(
        "keys that other programs turn into objects",
        "chains/test_outputs.py::test_nothing_in_an_answer_is_revived_as_an_object",
        f"{HERE}::test_keys_that_revive_objects_elsewhere_stay_plain_data_through_the_store",
    ),
    66: fault(
        "code that a model brings",
        f"{WEIGHTS}::test_a_model_that_brings_its_own_code_is_refused",
    ),
    67: fault(
        "secrets in what is kept and shown",
        "e2e/test_secrets.py::test_secrets_are_nowhere_in_store_output_and_errors",
        "tasks/test_attempts.py::test_the_key_is_nowhere_in_the_store_nor_in_any_message",
        f"{NETWORK}::test_a_secret_in_the_address_is_refused_and_not_repeated",
        f"{TRUST}::test_the_key_of_a_known_service_goes_to_no_other_host",
        untested="secrets of fewer than eight characters count as placeholders",
    ),
    68: fault(
        "addresses of the machine's own services",
        f"{NETWORK}::test_addresses_that_hand_out_credentials_are_denied_in_every_spelling",
        f"{NETWORK}::test_a_metadata_host_is_refused_even_when_the_settings_allow_it",
        f"{NETWORK}::test_a_name_that_resolves_to_a_metadata_address_is_not_connected_to",
        f"{NETWORK}::test_every_address_of_a_name_is_checked",
        f"{NETWORK}::test_a_host_that_can_be_read_in_two_ways_is_refused",
        "e2e/test_secrets.py::test_secrets_are_nowhere_in_store_output_and_errors",
        untested="qdrant-client resolves a name once more after it was checked",
    ),
    69: fault("scripts in what a page shows", untested=NO_PAGES),
    70: fault("requests that another page makes", untested=NO_PAGES),
    71: fault(
        "escape codes and reversed text in a terminal",
        "flows/test_terminal_text.py::test_control_and_bidirectional_characters_are_written_out",
        "e2e/test_command_line.py::test_what_an_endpoint_says_reaches_a_terminal_only_written_out",
        "e2e/test_command_line.py::test_raw_bytes_go_to_a_file_or_a_pipe_and_never_to_a_terminal",
    ),
    72: fault(
        "line breaks in what is logged",
        "flows/test_terminal_text.py::test_json_holds_them_escaped_and_means_the_same",
        untested="logs are lines of text for people; what programs read is JSON",
    ),
    73: fault(
        "a pattern that needs for ever",
        "chains/test_patterns.py::test_what_python_would_not_finish_ends_within_seconds",
        "chains/test_patterns.py::test_an_answer_that_a_pattern_cannot_be_tried_on_does_not_fit",
        "chains/test_patterns.py::test_patterns_for_names_of_fields_are_kept_quick",
    ),
    74: fault(
        "arguments that become options of a program",
        f"{HERE}::test_no_shell_is_ever_started",
        untested="no program is started with a text of a chain among its arguments",
    ),
    75: fault(
        "SQL in names and keys",
        f"{HERE}::test_names_and_keys_with_sql_in_them_are_only_text",
        "chains/store/test_store_reads.py::test_a_prefix_is_no_pattern",
        untested="there is no full-text search",
    ),
    76: fault(
        "what is installed beside Headrace",
        f"{HERE}::test_every_dependency_has_one_version_that_was_tried",
        untested="hashes of packages: the indexes of users differ",
    ),
}


def test_every_fault_has_tests_that_exist_or_a_reason() -> None:
    assert problems(FAULTS, [*range(31, 48), *range(64, 77)]) == []


def nodes() -> Iterator[tuple[str, ast.AST]]:
    """Yield every node of the packages' sources."""
    for package in ("chains", "tasks", "flows"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_bytes())):
                yield str(path.relative_to(ROOT)), node


def test_nothing_reads_pickles() -> None:
    readers = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    found = []
    for path, node in nodes():
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"{path}: import {name}" for name in names if name.partition(".")[0] in readers]
        if isinstance(node, ast.Call):
            found += [f"{path}: {key.arg}" for key in node.keywords if key.arg == "allow_pickle"]
            found += [path] if ast.unparse(node.func) in ("torch.load", "pandas.read_pickle") else []
    assert found == []


def test_no_shell_is_ever_started() -> None:
    calls = [(path, node) for path, node in nodes() if isinstance(node, ast.Call)]
    assert len(calls) > 1000
    shells = {"os.system", "os.popen", "subprocess.getoutput", "asyncio.create_subprocess_shell"}
    found = [path for path, call in calls if ast.unparse(call.func) in shells]
    found += [path for path, call in calls if any(key.arg == "shell" for key in call.keywords)]
    assert found == []


def test_what_a_document_orders_reaches_nothing_but_the_prompt() -> None:
    order = (
        "{{ inputs.__class__ }} {% include '/etc/passwd' %} ```python\nimport os``` file:///etc/passwd {0.x}"
    )
    hits = [{"text": order, "source": "trap.md"}]
    text = render(
        "{% for hit in p.hits %}[{{ hit.source }}] {{ hit.text }}{% endfor %}", {"p": {"hits": hits}}
    )
    assert text == f"[trap.md] {order}"


REVIVED: dict[str, Any] = {
    "__class__": {"data": "/tmp/x", "name": "pathlib.PosixPath"},
    "lc": 1,
    "type": "constructor",
    "id": ["os", "system"],
    "$type": "System.IO.FileInfo",
    "py/object": "os.system",
    "__reduce__": ["os.system", ["id"]],
}


def put_record(store: Any, **fields: Any) -> None:
    store.put(
        RunRow(id="r", chain="c", chain_hash="h", source=b"", started_at=0.0),
        StepRow(run_id="r", id="s", kind="prompt"),
        RecordRow(id="a", run_id="r", step="s", row=0, status="ok", started_at=0.0, **fields),
    )


def test_keys_that_revive_objects_elsewhere_stay_plain_data_through_the_store(tmp_path: Path) -> None:
    value = parse_output(json.dumps(REVIVED), {"type": "object"})
    with open_store(tmp_path) as store:
        put_record(store, output=canonical(value))
    with open_store(tmp_path) as store:
        record = store.record("r", "s", 0)
        assert record is not None and json.loads(record.output or b"") == REVIVED


SQL = ["'; DROP TABLE records; --", '" OR 1=1 --', "%", "_", "a'b\"c`d", "$1", ":x", "?", "\\"]


@pytest.mark.parametrize("text", SQL)
def test_names_and_keys_with_sql_in_them_are_only_text(tmp_path: Path, text: str) -> None:
    with open_store(tmp_path) as store:
        put_record(store, value_key=text, output=canonical({text: text}))
        found = store.reusable([text])[text]
        assert json.loads(found.output or b"") == {text: text}
        assert store.record("r", text, 0) is None
        with pytest.raises(InputInvalid, match="no valid run id"):
            store.run(text)
        assert store.runs(chain=text) == []
        assert store.records("r", text) == []
        assert len(store.records("r")) == 1


def test_every_dependency_has_one_version_that_was_tried() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    rest = [line for line in lines if line.strip() and not line.startswith("#") and "==" not in line]
    assert rest == []
    text = (ROOT / "pyproject.toml").read_text()
    block = text[text.index("\ndependencies = [") : text.index("\n]", text.index("\ndependencies = ["))]
    wanted = {name.lower() for name in re.findall(r'^  "([A-Za-z0-9_-]+)', block, re.M)}
    assert len(wanted) > 15
    assert wanted - pinned == set()
    assert "litellm" not in pinned
