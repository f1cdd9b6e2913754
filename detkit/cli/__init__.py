"""The `detkit` command. The files in tools/ are its subcommands as plain scripts."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from detkit.cli import checkpoints, configs, files, listing, measuring, predicting, training
from detkit.cli.common import allow_imports
from detkit.cli.environment import set_environment
from detkit.cli.parser import Command, make_parser, misspelling, offer_completions
from detkit.runtime.failures import describe, threads_without_traceback
from detkit.runtime.stopping import sigterm_as_ctrl_c

BROKEN_PIPE = 141  # as the shell has it for programs that SIGPIPE ends


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; what goes wrong is printed in one line without a traceback, with exit code 2.

    Ctrl-C and SIGTERM end it with exit code 130, a closed pipe with 141. Errors of detkit itself keep their traceback.
    """
    try:
        with sigterm_as_ctrl_c(), threads_without_traceback():
            return _run(sys.argv[1:] if arguments is None else list(arguments))
    except BrokenPipeError as error:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if notes := getattr(error, "__notes__", ()):
            print(f"stopped: nobody reads the output any more; {'; '.join(notes)}", file=sys.stderr)
        return BROKEN_PIPE
    except Exception as error:
        text = describe(error)
        if text is None or os.environ.get("DETKIT_TRACEBACK"):
            raise
        print(f"error: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"stopped {error}".rstrip(), file=sys.stderr)
        return 130


def _run(words: list[str]) -> int:
    set_environment()
    parser, commands = make_parser(COMMANDS)
    offer_completions(parser)
    if problem := misspelling(words, parser, commands):
        print(f"error: {problem}", file=sys.stderr)
        return 2
    options = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", force=True)
    allow_imports(options)
    return options.function(options) or 0


COMMANDS: dict[str, Command] = {
    "train": (training.train_arguments, training.train),
    "replay": (training.replay_arguments, training.replay),
    "evaluate": (measuring.evaluate_arguments, measuring.evaluate),
    "evaluate-corruptions": (measuring.evaluate_corruptions_arguments, measuring.evaluate_corruptions),
    "report": (measuring.report_arguments, measuring.report),
    "compare": (measuring.compare_arguments, measuring.compare),
    "predict": (predicting.predict_arguments, predicting.predict),
    "fit": (checkpoints.fit_arguments, checkpoints.fit),
    "benchmark": (measuring.benchmark_arguments, measuring.benchmark),
    "convert": (checkpoints.convert_arguments, checkpoints.convert),
    "drop-layers": (checkpoints.drop_layers_arguments, checkpoints.drop_layers),
    "export": (checkpoints.export_arguments, checkpoints.export),
    "ablate": (training.ablate_arguments, training.ablate),
    "wssis": (training.program_arguments, training.wssis),
    "match": (training.program_arguments, training.match),
    "list": (listing.list_arguments, listing.list_components),
    "split-points": (files.split_points_arguments, files.split_points),
    "check-points": (files.check_points_arguments, files.check_points),
    "data": (files.data_arguments, files.data),
    "configs": (configs.configs_arguments, configs.configs),
    "config": (configs.config_arguments, configs.config),
    "export-scenes": (files.export_scenes_arguments, files.export_scenes),
}
