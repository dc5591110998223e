"""What hobbyists are known to run into: each has its answer on the page of common problems, and tests that hold it."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from engine.workspace.paths import APP_FOLDER

ANSWERS = APP_FOLDER / "docs" / "troubleshooting.md"

# What is met -> words of the answer's heading, words of the answer, tests: that it cannot happen here, or is explained.
CLASSICS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "torch without the card": (
        "although there is a card",
        "--repair",
        ("test_build_by_card_and_driver", "test_a_cpu_build_over_a_card_is_told", "test_no_card_is_said_loudly"),
    ),
    "optional packages are missing": (
        "xformers, bitsandbytes",
        "None. There are no questions",
        (
            "test_optional_packages_are_no_problem",
            "test_extras_that_do_not_work_are_left_out",
            "test_a_missing_bitsandbytes_is_named_with_what_to_do",
            "test_xformers_that_does_not_fit_this_torch_leaves_torchs_attention",
        ),
    ),
    "questions and commands to type": (
        "accelerate",
        "no command lines",
        ("test_a_single_process_puts_accelerates_settings_aside_too", "test_every_field_of_the_config_has_a_widget"),
    ),
    "8 GB": ("Only 8 GB", "preset", ("test_every_preset_is_foreseen_to_fit_its_card",)),
    "out of memory, shared memory": (
        "Memory ran out",
        "shared memory",
        (
            "test_a_step_that_does_not_fit_is_done_in_smaller_batches",
            "test_windows_is_kept_from_spilling_into_shared_memory",
            "test_all_rungs_are_taken_and_then_it_is_said_what_to_do",
        ),
    ),
    "validation shows nothing": (
        "No validation images",
        "previews",
        ("test_images_appear_and_change_nothing", "test_it_writes_images_rows_and_scores"),
    ),
    "does the setup work at all": (
        "first checkpoint",
        "demo",
        (
            "test_it_draws_trains_scores_exports_and_prints_a_table",
            "test_a_trial_corrects_the_estimate_and_leaves_nothing_else",
        ),
    ),
    "checkpoints fill the disk": (
        "Checkpoints fill the disk",
        "no large temporary files",
        (
            "test_old_checkpoints_are_removed",
            "test_a_checkpoint_that_will_not_fit_is_told_of_ahead",
            "test_a_full_disk_is_told_beside_start",
        ),
    ),
    "pausing": ("Can I pause", "At any step", ("test_every_step_can_be_the_last_before_a_pause",)),
    "half-written after a full disk": (
        "half-written",
        "when it is whole",
        (
            "test_a_half_written_checkpoint_is_never_offered",
            "test_a_full_disk_halts_the_run_until_there_is_room",
            "test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been",
        ),
    ),
    "which folder is the model in": (
        "Resume from where",
        "no folder to name",
        ("test_a_checkpoint_folder_stands_for_its_net",),
    ),
    "half precision that ends in nothing": (
        "Does bf16 harm",
        "kept in fp32",
        (
            "test_corrections_far_below_half_precision_add_up",
            "test_a_run_that_breaks_stops_at_its_last_good_state_and_can_go_on",
        ),
    ),
    "another result each time": (
        "Three seeds",
        "last bit",
        ("test_whatever_interrupts_a_run_it_ends_as_if_nothing_had",),
    ),
    "fp16 when trained or when converted": (
        "Which precision",
        "Size against quality",
        ("test_every_format_in_every_precision", "test_size_against_quality"),
    ),
    "exactly 512": ("exactly 512", "multiple of 64", ("test_buckets_are_multiples_of_64_with_about_the_same_area",)),
    "strange characters in captions": (
        "Unknown escape sequence",
        "UTF-8",
        (
            "test_clean_takes_away_what_got_in_by_accident",
            "test_broken_letters_are_put_right",
            "test_every_operation_changes_what_it_says_and_is_undone",
        ),
    ),
    "images that are none, twice, grey": (
        "web pages, copies, or grey",
        "Check",
        ("test_every_planted_fault_of_the_images_is_found_and_nothing_else",),
    ),
    "heads cut off": (
        "Heads are cut off",
        "percent",
        ("test_crops_are_counted_and_shown", "test_a_smart_crop_goes_where_something_happens"),
    ),
    "a script to read a folder": (
        "dataset script",
        "Point at the folder",
        (
            "test_a_folder_of_images_with_captions_beside_them",
            "test_a_set_that_is_a_script_is_refused_with_a_way_out",
        ),
    ),
    "columns and filters of LAION": (
        "parquet file",
        "counted before",
        ("test_a_laion_list_becomes_a_dataset_with_captions_and_sources",),
    ),
    "a day of preparing": ("takes all day", "all cores", ("test_a_cancelled_run_keeps_what_is_done_and_goes_on",)),
    "yaml, missing keys, .pth": (
        "Missing keys",
        "read back",
        ("test_each_broken_promise_is_named", "test_at_the_real_size_of_sd15_the_readers_find_their_340_tensors"),
    ),
    "black images, invalid value in cast": ("Black images", "fp32", ("test_nothing_blackens_images",)),
    "the base as one file": (
        ".safetensors or .ckpt",
        "as one file",
        ("test_every_part_of_a_file_equals_that_of_the_folder",),
    ),
    "other bases of the family": (
        "other models of the same family",
        "refuses",
        ("test_other_bases_are_drawn_in_one_row", "test_a_net_of_another_family_is_refused_by_name"),
    ),
    "batch, accumulation, effective batch": (
        "effective batch",
        "product",
        ("test_every_setting_has_a_title_and_a_hint", "test_ready_tells_steps_and_time"),
    ),
    "how many, how long": (
        "how many steps, how long",
        "before you start",
        ("test_ready_tells_steps_and_time", "test_an_untrained_net_does_not_listen_and_that_is_normal"),
    ),
    "nothing, and then suddenly": (
        "suddenly works",
        "marks",
        ("test_the_recorded_run_begins_to_listen_where_its_images_do",),
    ),
    "small batches early, or large ones late": (
        "Earlier with small batches",
        "effective batch of",
        ("test_a_shipped_preset_loads_and_explains_itself",),
    ),
    "dropping captions, guess mode": (
        "Guess mode",
        "Prompt dropout",
        ("test_prompts_are_hidden_as_often_as_asked", "test_every_plain_setting_reaches_the_image"),
    ),
    "only the middle, base locked": (
        "only mid control",
        "Keep the base",
        ("test_only_the_middle_speaks", "test_an_unlocked_base_learns_and_goes_along_into_try_it"),
    ),
    "images while it trains": (
        "while it trains",
        "live weights",
        ("test_images_of_the_live_weights_change_nothing_in_the_run",),
    ),
    "TensorBoard, Weights & Biases": (
        "TensorBoard",
        "metrics.jsonl",
        ("test_tensorboard_reads_them", "test_weights_and_biases_is_told_once_where_it_is_not_installed"),
    ),
    "a window that looks frozen": ("looks frozen", "Esc", ("test_the_run_goes_on_and_every_page_tells_the_truth",)),
    "stand-by": (
        "stand-by",
        "awake",
        ("test_a_job_holds_the_lock_from_its_start_to_its_end", "test_windows_is_asked_and_released"),
    ),
}


@functools.cache
def answers() -> dict[str, str]:
    """Heading -> answer of the page, in one line each."""
    parts = re.split(r"^### (.+)$", ANSWERS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {heading: " ".join(text.split()) for heading, text in zip(parts[::2], parts[1::2], strict=True)}


@functools.cache
def all_tests() -> str:
    folder = Path(__file__).parent
    return "\n".join(path.read_text(encoding="utf-8") for path in folder.rglob("test_*.py"))


@pytest.mark.parametrize("classic", CLASSICS)
def test_every_classic_error_has_its_answer_and_tests_that_hold_it(classic: str) -> None:
    heading, words, tests = CLASSICS[classic]
    found = [text for title, text in answers().items() if heading in title]
    assert len(found) == 1 and words in found[0], found
    assert [name for name in tests if f"def {name}(" not in all_tests()] == []
