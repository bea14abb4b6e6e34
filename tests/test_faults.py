"""What was found wrong by trying, and the tests that hold the right behaviour: each of these tests is there.

The list is of the first trial by users, commit d3ae31e. What the code of then did was tried again where that takes a
few lines; the other lines stand as they were reported.
"""

import ast
from functools import cache

import pytest

from tests.conftest import ROOT

#: What was wrong, what the former code did when it was tried again, if it was, and the tests.
FAULTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "A1": (
        "different functions had one key",
        "a second lambda as distance had the folder of the first, and its training did 0 steps",
        (
            "tests/utils/test_keys.py::test_what_has_no_identity_is_refused_in_a_line",
            "tests/utils/test_keys.py::test_an_edit_changes_the_keys_of_what_it_changes",
            "tests/utils/test_keys.py::test_an_edit_in_another_module_changes_the_key_of_what_uses_it",
            "tests/training/test_loop.py::test_what_cannot_be_told_apart_is_refused_only_where_it_would_be_keyed",
        ),
    ),
    "A2": (
        "texts were taken for truth",
        "class_aware false was taken, exit 0; optim.lr fast: a TypeError",
        (
            "tests/utils/test_settings.py::test_a_run_refuses_what_its_settings_cannot_be",
            "tests/test_commands.py::test_a_parameter_of_another_type_is_refused",
        ),
    ),
    "A3": (
        "results were kept for data that had changed",
        "a run of one data set was resumed with another of equal size",
        (
            "tests/training/test_loop.py::test_other_data_networks_and_precision_are_refused",
            "tests/training/test_loop.py::test_other_labels_are_refused_and_other_names_are_not",
            "tests/imagenet/test_encoding.py::test_a_folder_of_another_job_is_refused",
            "tests/imagenet/test_encoding.py::test_latents_of_other_images_of_the_same_names_are_refused",
            "tests/sweeps/test_runner.py::test_results_of_other_data_are_not_given_back",
        ),
    ),
    "A4": (
        "labels out of range were trained as null, and classes without data scored",
        "labels 0 and 5 were encoded as six classes without a word; labels 1 and 2 of two classes were trained",
        (
            "tests/data/test_sets.py::test_labelled_refuses",
            "tests/training/test_loop.py::test_labels_of_a_data_set_that_says_no_classes_are_compared_with_the_network",
            "tests/imagenet/test_encoding.py::test_classes_without_images_are_said",
            "tests/data/test_doors.py::test_classes_without_rows_are_listed_and_said_once",
            "tests/evaluation/test_bad_input.py::test_classes_without_points_are_said_and_neither_asked_for_nor_scored",
        ),
    ),
    "A5": (
        "integers of NumPy as seeds gave another stream",
        "the streams of 3 and of NumPy's 3 differed",
        (
            "tests/training/test_loop.py::test_numpy_seeds_and_steps_are_python_ones",
            "tests/utils/test_keys.py::test_seeds_count_whatever_integers_they_are",
        ),
    ),
    "A6": (
        "pictures of 16 bits and float TIFF lost their levels",
        "99.6 % of the pixels of a ramp of 16 bits were 255",
        (
            "tests/data/test_decoding.py::test_a_ramp_in_16_bits_keeps_its_levels",
            "tests/data/test_decoding.py::test_each_format_gives_the_pixels_that_it_stores",
        ),
    ),
    "A7": (
        "hidden folders were classes, and files of macOS pictures",
        ".ipynb_checkpoints was class 0",
        (
            "tests/data/test_decoding.py::test_a_folder_gives_its_pictures_and_names_what_is_left_alone",
            "tests/imagenet/test_sources.py::test_hidden_files_are_no_images_and_hidden_folders_no_classes",
            "tests/imagenet/test_sources.py::test_a_tar_file_beside_class_folders_is_left_alone",
            "tests/imagenet/test_tars.py::test_an_archive_of_a_folder_is_recognised",
        ),
    ),
    "A8": (
        "the path of a notebook that is not there gave the kit's own",
        "/nowhere/01_flow_matching.ipynb was found",
        ("tests/lessons/test_notebooks.py::test_a_path_means_that_file_and_no_other",),
    ),
    "A9": (
        "a profile that a notebook has not ran another",
        "",
        (
            "tests/test_commands.py::test_a_profile_that_a_notebook_has_not_is_refused",
            "tests/test_commands.py::test_the_profiles_of_every_notebook_are_those_that_it_lists",
        ),
    ),
    "A10": (
        "a run with other steps began again in another folder",
        "4 steps after 2 began at 0, without a word",
        (
            "tests/test_commands.py::test_resuming_with_more_steps_names_the_folder_with_fewer",
            "tests/training/test_loop.py::test_a_run_is_lengthened_where_its_rate_has_not_fallen_yet",
        ),
    ),
    "B0": (
        "a notebook hung where OpenMP has several threads",
        "",
        (
            "tests/utils/test_workers.py::test_processes_compute_after_this_one_has_computed_on_several_threads",
            "tests/utils/test_workers.py::test_nothing_else_starts_processes_that_may_be_forked",
            "tests/utils/test_workers.py::test_silent_processes_are_ended_with_a_message",
            "tests/utils/test_workers.py::test_a_group_ends_with_its_parent",
        ),
    ),
    "B1": (
        "a network of your own was trained and could not be saved",
        "a TypeError after the last step",
        (
            "tests/training/test_launcher.py::test_a_network_that_cannot_be_saved_is_refused_before_step_1",
            "tests/sweeps/test_runner.py::test_a_network_that_cannot_be_saved_is_refused_before_any_work",
            "tests/sweeps/test_runner.py::test_what_cannot_be_scored_is_not_trained",
        ),
    ),
    "B2": (
        "no call recovered from a kill while photographs were encoded",
        "",
        (
            "tests/imagenet/test_data.py::test_a_kill_while_the_photographs_are_encoded_is_made_good",
            "tests/imagenet/test_data.py::test_making_the_photographs_deletes_nothing",
        ),
    ),
    "B3": (
        "an ASCII terminal ended a sweep before its table was written",
        "",
        (
            "tests/test_commands.py::test_what_a_terminal_cannot_show_stops_no_command",
            "tests/test_commands.py::test_the_table_of_a_sweep_is_shown_on_an_ascii_terminal",
        ),
    ),
    "B4": (
        "a sweep on one machine needed Ray, which did not start on a busy one",
        "",
        (
            "tests/sweeps/test_processes.py::test_each_item_is_done_once_and_reported_here",
            "tests/sweeps/test_cluster.py::test_without_ray_the_remedy_is_named",
        ),
    ),
    "B5": (
        "the core install could not train, and outside a checkout there were no weights",
        "",
        (
            "tests/test_wheel.py::test_core_commands_need_neither_checkout_nor_extras",
            "tests/test_wheel.py::test_two_lines_of_python_draw_clothes",
            "tests/training/test_runs.py::test_output_goes_to_the_working_directory",
        ),
    ),
    "B6": (
        "data of other types, and without labels, ended in errors from inside",
        "float64 points: RuntimeError of a dtype; a tensor without labels: TypeError of take()",
        (
            "tests/data/test_doors.py::test_numbers_of_every_type_become_what_training_reads",
            "tests/data/test_doors.py::test_without_labels_there_is_one_class",
            "tests/data/test_doors.py::test_other_data_is_refused_with_the_remedy",
        ),
    ),
    "B7": (
        "labels that no class has ended in errors from inside",
        "y = -1 and 9: IndexError; a list: AttributeError",
        (
            "tests/method/test_bad_input.py::test_samplers_name_what_does_not_fit",
            "tests/test_commands.py::test_sample_of_points_is_a_scatter_plot_by_class",
            "tests/test_commands.py::test_lab_opens_the_notebook_after_the_check",
        ),
    ),
    "B8": (
        "a wavelet distance on points was refused without the remedy",
        'refused with "use l2", which does not say how a recipe gets it',
        (
            "tests/method/test_wavelet.py::test_points_are_sent_to_l2",
            "tests/training/test_loop.py::test_a_small_field_trains_with_the_remedy_that_the_message_names",
            "tests/training/test_loop.py::"
            "test_assignments_that_take_most_of_the_time_are_said_once_before_the_first_pool",
        ),
    ),
    "B9": (
        "~, bytes that are no UTF-8, byte-order marks and other endings were not read",
        "--run-dir ~/x made a folder ~; statistics of mu and sigma alone were refused",
        (
            "tests/test_commands.py::test_a_tilde_is_the_home_folder_in_every_command",
            "tests/test_commands.py::test_names_that_are_no_utf8",
            "tests/imagenet/test_sources.py::test_class_names_are_read_as_written",
            "tests/evaluation/test_reference.py::test_fid_needs_no_more_than_mu_and_sigma",
            "tests/evaluation/test_reference.py::test_another_ending_is_refused_before_any_image_is_read",
        ),
    ),
    "B10": (
        "two trainings in one folder, and a distance below 0",
        "the distance of 400 rows to themselves was -2e-12",
        (
            "tests/training/test_launcher.py::test_a_second_training_in_a_folder_is_refused_before_it_touches_it",
            "tests/evaluation/test_metrics.py::test_a_set_is_never_nearer_than_nothing_to_itself",
        ),
    ),
    "B11": (
        "test images were read again for every setting",
        "",
        ("tests/evaluation/test_judges.py::test_test_images_are_read_once_and_each_sample_is_drawn_once",),
    ),
    "D1": (
        "weights with NaN were saved, loaded and drawn as a blank sheet",
        "a network with a NaN was saved and loaded",
        (
            "tests/models/test_saved.py::test_broken_weights_are_neither_saved_nor_loaded",
            "tests/data/test_pictures.py::test_images_that_are_not_finite_are_refused",
            "tests/test_commands.py::test_sample_of_points_is_a_scatter_plot_by_class",
        ),
    ),
    "D2": (
        "workers that encode outlived the main process",
        "",
        ("tests/imagenet/test_encoding.py::test_workers_end_with_their_parent",),
    ),
    "D3": (
        "a grid other than the network's was trained as d = 0",
        "-p recipe.rows.grid.n 512 trained; -p net.grid.n 256 was a KeyError",
        (
            "tests/training/test_runs.py::test_a_run_builds_its_network_for_the_grid_of_its_recipe",
            "tests/method/test_bad_input.py::test_the_grid_is_the_networks",
        ),
    ),
    "D4": (
        "labels shaped (n, 1) gave noise that is no permutation",
        "of one-hot labels: 7 of 8 rows of the noise, one of them twice",
        (
            "tests/method/test_coupling.py::test_labels_that_are_not_one_per_row_are_refused",
            "tests/method/test_bad_input.py::test_couplings_permute_or_name_what_does_not_fit",
        ),
    ),
    "D5": (
        "diagnostics of numbers that are not finite looked like findings",
        "crossings of NaN: 0; their class information: inf; agreement with a class 7 of 2: 0; a bias of n = -3: -1.2",
        (
            "tests/lessons/test_pairings.py::test_bad_numbers_are_no_finding",
            "tests/evaluation/test_bad_input.py::test_bad_numbers_are_no_finding",
            "tests/evaluation/test_bad_input.py::test_an_expected_bias_is_a_distance_or_refused",
            "tests/method/test_bad_input.py::test_shapes_that_would_broadcast_are_refused",
        ),
    ),
    "D6": (
        "nothing locked the folder of a training",
        "",
        (
            "tests/training/test_launcher.py::test_a_second_training_in_a_folder_is_refused_before_it_touches_it",
            "tests/utils/test_files.py::test_a_lock_names_its_process_and_ends_with_it",
        ),
    ),
    "D7": (
        "latents altered at equal size gave other data",
        "",
        ("tests/imagenet/test_latents.py::test_a_file_altered_at_equal_size_is_found_before_a_row_of_it_is_used",),
    ),
    "D8": (
        "a sweep on one machine listened on every interface",
        "",
        (
            "tests/sweeps/test_processes.py::"
            "test_workers_compute_on_one_thread_see_their_environment_and_listen_nowhere",
        ),
    ),
    "D9": (
        "paths with braces, devices, links and FIFOs",
        "--out 'a{b}' ended in papermill's error; a table replaced a link",
        (
            "tests/test_commands.py::test_braces_in_the_folder_of_a_notebook",
            "tests/test_commands.py::test_what_cannot_be_written_is_refused_before_any_work",
            "tests/test_commands.py::test_a_fifo_is_not_opened",
            "tests/utils/test_files.py::test_a_link_stays_and_the_file_behind_it_is_written",
            "tests/utils/test_files.py::test_devices_are_never_replaced",
            "tests/imagenet/test_encoding.py::test_hostile_files_are_listed_and_never_waited_for",
        ),
    ),
    "D10": (
        "small files asked for gigabytes",
        "",
        (
            "tests/data/test_decoding.py::test_sizes_are_refused_before_anything_is_decoded",
            "tests/data/test_decoding.py::test_bombs_take_no_memory",
            "tests/imagenet/test_pixels.py::test_a_picture_too_narrow_to_resize_is_refused_and_a_side_below_one",
            "tests/models/test_saved.py::test_sizes_are_compared_with_the_file_before_anything_is_built",
            "tests/imagenet/test_tars.py::test_samples_that_are_not_whole_are_refused",
        ),
    ),
    "D11": (
        "valid JSON of another shape was a KeyError, or taken",
        "a VAE with a scaling factor of NaN was loaded",
        (
            "tests/imagenet/test_vae.py::test_a_configuration_that_is_none_is_refused_by_its_folder",
            "tests/training/test_state.py::test_settings_of_the_optimiser_are_compared_by_value",
            "tests/training/test_state.py::test_a_checkpoints_json_of_another_form_is_refused",
            "tests/sweeps/test_sweep.py::test_a_trials_file_of_another_form_is_refused",
            "tests/utils/test_store.py::test_json_of_another_form_is_refused_by_file_and_place",
        ),
    ),
    "D12": (
        "wrong types on the command line ended in tracebacks, an address without a cluster in a minute of warnings",
        "-p recipe ism_plus: AttributeError; net.width 64.0: TypeError; coupling.pool 2.0: an error of islice",
        (
            "tests/test_hostile_commands.py::test_every_option_is_read_or_refused_in_one_line",
            "tests/training/test_loop.py::test_a_pool_that_no_machine_can_assign_is_refused_before_any_work",
            "tests/sweeps/test_cluster.py::test_a_cluster_that_does_not_answer_is_refused_in_a_line",
        ),
    ),
}


@cache
def names_in(file: str) -> set[str]:
    return {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("line", FAULTS)
def test_what_was_wrong_has_its_tests(line: str) -> None:
    _, _, names = FAULTS[line]
    assert names
    for file, _, test in (name.partition("::") for name in names):
        assert test in names_in(file), f"{file} has no {test}"


def test_no_line_of_the_list_is_left_out() -> None:
    assert [*FAULTS] == [f"{part}{k}" for part, first, last in (("A", 1, 10), ("B", 0, 11), ("D", 1, 12))
                         for k in range(first, last + 1)]  # fmt: skip
