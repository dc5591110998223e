"""The command "queue": jobs that run one after the other, for example overnight.

python -m engine.cli queue add extract birds --type canny      (a command with its options: bases get, datasets get,
python -m engine.cli queue add train --dataset birds            import, check, captions --auto, extract, trial, train,
                                                                resume, evaluate, grid, export, merge, import-net)
python -m engine.cli queue add evaluate @3fa9c1                 (the run that the queue's job 3fa9c1 trains)
python -m engine.cli queue list
python -m engine.cli queue move 3 1                             (job 3 of the list becomes the next)
python -m engine.cli queue remove 2
python -m engine.cli queue run                                  (until it is empty; Ctrl-C saves and ends)
python -m engine.cli queue clear                                (delete the results)
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from engine.cli.queue_jobs import job_from
from engine.errors import UserError
from engine.jobs.control import Cancelled, Control
from engine.machine.units import counted, format_duration
from engine.queue.entries import OUTCOMES
from engine.workspace.lock import WorkspaceLock, owner_of
from engine.workspace.paths import Workspace

if TYPE_CHECKING:
    from engine.queue.entries import Entry
    from engine.queue.folder import QueueFolder

EXIT_FELL_SHORT, EXIT_INTERRUPTED = 1, 130


def add_command(commands: Any) -> None:
    """Add "queue" to the command line's parsers."""
    queue = commands.add_parser("queue", help="run jobs one after the other: add, list, move, remove, run")
    actions = queue.add_subparsers(dest="action", required=True)
    add = actions.add_parser("add", help="add a job at the end of the queue")
    add.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="COMMAND ...",
        help="a command with its options: bases get, datasets get, import, check, captions --auto, extract, trial, "
        "train, resume, evaluate, grid, export, merge or import-net",
    )
    actions.add_parser("list", help="list running and waiting jobs, and the results of the last ones")
    remove = actions.add_parser("remove", help="remove a waiting job")
    move = actions.add_parser("move", help="move a waiting job")
    for parser in (remove, move):
        parser.add_argument("job", help="its number in the list, or its id")
    move.add_argument("place", type=int, help="its new place among the waiting jobs; 1 is next")
    actions.add_parser("run", help="run the waiting jobs until none is left; continues after a failure")
    actions.add_parser("clear", help="clear the results of earlier jobs; their files stay")


def run(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    """Do what the options say. Returns the exit status: 1 if a job failed, 130 if it was interrupted."""
    from engine.queue.folder import QueueFolder

    queue = QueueFolder(workspace)
    if options.action == "add":
        job = job_from(options.job, workspace)
        entry = queue.add(job.kind, job.title, job.model_dump(mode="json"), job.expected_seconds(workspace))
        _say(f"{entry.id}  {entry.title}: number {_place(queue, entry)} in the queue. {_who(workspace)}")
    elif options.action == "list":
        _print(queue, workspace)
    elif options.action == "remove":
        _say(f"Removed: {queue.remove(queue.find(options.job).id).title}")
    elif options.action == "move":
        entry = queue.move(queue.find(options.job).id, options.place)
        _say(f"{entry.title}: now number {_place(queue, entry)} in the queue.")
    elif options.action == "clear":
        queue.clear_results()
        _say("The results were cleared.")
    else:
        with WorkspaceLock(workspace, "the command queue run"):  # the others work beside an open window
            return _run(queue, workspace, control)
    return 0


def _run(queue: QueueFolder, workspace: Workspace, control: Control) -> int:
    """Run entries until none is left, including those that are added meanwhile."""
    from engine.cli.output import EventPrinter
    from engine.conditions import places
    from engine.jobs.faults import describe_crash
    from engine.jobs.keep_awake import keep_awake
    from engine.queue.perform import perform

    places.use(workspace)
    queue.recover()
    ended = failed = 0
    with keep_awake(_say):
        while control.token.stop_requested is None and (entry := queue.take()) is not None:
            console = EventPrinter()
            console.say(f"{entry.id}  {entry.title}")
            try:
                report = perform(workspace, queue, entry, control.token, console.event)
                console.say(f"     {report.words}")
            except Cancelled:
                break
            except Exception as error:  # the reason is kept with the results; the next one starts
                failure = describe_crash(error)
                words = str(error) if isinstance(error, UserError) else f"{failure.what} {failure.why}"
                console.say(f"     Failed: {words}")
                failed += 1
            ended += 1
    left = len(queue.waiting())
    if control.token.stop_requested is not None:
        _say(f"Interrupted. {counted(left, 'job is', 'jobs are')} still waiting; continue with: queue run")
        return EXIT_INTERRUPTED
    _say(f"{counted(ended, 'job')} ended, {failed} of them failed." if ended else "The queue is empty.")
    return EXIT_FELL_SHORT if failed else 0


def _print(queue: QueueFolder, workspace: Workspace) -> None:
    entries, results = queue.entries(), queue.results()
    for number, entry in enumerate(entries, 1):
        about = "waiting"
        if entry.state == "running":
            about = "running" if owner_of(workspace) else "interrupted, will start again"
        expected = f", about {format_duration(entry.seconds)}" if entry.seconds else ""
        _say(f"{number:>3}  {entry.id}  {entry.title}  ({about}, added {entry.added}{expected})")
    if not entries:
        _say("The queue is empty.")
    elif (owner := owner_of(workspace)) is None:
        _say(
            "Nothing is running the queue. Start it with: python -m engine.cli queue run, or press “Run the queue” "
            "in the window."
        )
    else:
        _say(f"{_first_upper(owner.doing)} has the workspace open{f' at {owner.address}' if owner.address else ''}.")
    if results:
        _say("\nThe last jobs:")
    for result in results:
        _say(f"  {OUTCOMES[result.outcome]:<9}  {result.title}  ({format_duration(result.seconds)}, {result.ended})")
        if result.words:
            _say(f"             {result.words}")


def _who(workspace: Workspace) -> str:
    """A sentence that says which process will run a job that was just added."""
    owner = owner_of(workspace)
    return f"{_first_upper(owner.doing)} will run it when its turn comes." if owner else "Run it with: queue run"


def _place(queue: QueueFolder, entry: Entry) -> int:
    return next((number for number, other in enumerate(queue.waiting(), 1) if other.id == entry.id), 1)


def _say(text: str) -> None:
    print(text, flush=True)


def _first_upper(words: str) -> str:
    """Words as the start of a sentence; names in them keep their case."""
    return words[:1].upper() + words[1:]
