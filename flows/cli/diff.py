"""`headrace diff`: where the rows of two runs first parted, why, and what became of the metrics."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.options import JsonOption, StoreOption
from flows.cli.read import MOST_ROWS, reading
from flows.cli.text import print_json, safe, table
from flows.cli.why import print_cause

if TYPE_CHECKING:
    from chains.diff import Divergence, Piece, RunDiff
    from chains.store import RecordRow, Store

_RIGHT = frozenset({"compared", "asked differently", "answered differently", "first here", "before", "after"})


def diff(
    before: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, its first letters, or `last`.")],
    after: Annotated[str, typer.Argument(metavar="RUN", help="The other run.")],
    step: Annotated[str | None, typer.Option("--step", help="Only this step.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, max=MOST_ROWS, help="Rows shown.")] = 5,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two runs: the first divergence of each row with its cause, texts by words, metrics."""
    from chains.diff import diff_runs
    from chains.errors import InputInvalid
    from flows.comparing import compared_metrics
    from flows.forked import edit_between
    from flows.recorded import recorded_run
    from flows.resuming import find_run

    with reading(store) as opened:
        runs = [recorded_run(opened, find_run(opened, name)) for name in (before, after)]
        common = [name for name in runs[0].depth if name in runs[1].depth]
        if step is not None and step not in common:
            raise InputInvalid(
                f"the runs do not both have a step {step!r}.",
                hint=f"Both have {', '.join(common) or 'no step of one name'}.",
            )
        found = diff_runs(opened, runs[0], runs[1], steps=[step] if step else None, shown=limit)
        metrics = compared_metrics(opened, runs[0], runs[1])
        texts = [_texts(opened, divergence) for divergence in found.divergences]
    ids = [recorded.run.id for recorded in runs]
    edit = edit_between(runs[0].run, runs[1].run)
    if as_json:
        print_json({**_json(ids, found, metrics, texts), "edit": edit})
        return
    if edit is not None:
        edited = "; ".join(edit["edited"]) or "nothing"
        print(safe(f"{edit['fork']} is a fork of {edit['source']}, edited {edited}."))
    _print(ids, found, metrics, texts)


_Texts = dict[str, "list[Piece]"]


def _texts(store: Store, divergence: Divergence) -> _Texts:
    """Return what was asked and answered on both sides, by words."""
    from chains.diff import words

    sides = [
        store.record_by_id(name) if name else None
        for name in (divergence.record_before, divergence.record_after)
    ]
    pairs = {"asked": [asked_text(side) for side in sides], "answered": [answer_text(side) for side in sides]}
    return {name: words(*texts) for name, texts in pairs.items() if texts[0] != texts[1]}


def asked_text(record: RecordRow | None) -> str:
    """Return a record's messages as text."""
    messages = json.loads(record.messages) if record is not None and record.messages is not None else []
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def answer_text(record: RecordRow | None) -> str:
    """Return what a record's step gave: its text where it has one, else its output as JSON."""
    if record is None or record.output is None:
        return ""
    output = json.loads(record.output)
    if isinstance(output, dict) and isinstance(output.get("text"), str):
        return str(output["text"])
    return json.dumps(output, ensure_ascii=False, indent=1)


def _json(
    ids: list[str], found: RunDiff, metrics: list[dict[str, Any]], texts: list[_Texts]
) -> dict[str, Any]:
    return {
        "before": ids[0],
        "after": ids[1],
        "paired_by": found.paired_by,
        "rows": found.rows,
        "rows_only_before": found.rows_only_before,
        "rows_only_after": found.rows_only_after,
        "diverged": found.diverged,
        "steps_only_before": list(found.only_before),
        "steps_only_after": list(found.only_after),
        "changed_steps": {
            step: [cause.to_dict() for cause in causes] for step, causes in found.of_steps.items()
        },
        "steps": [step.to_dict() for step in found.steps],
        "metrics": metrics,
        "divergences": [
            divergence.to_dict()
            | {
                name: [{"side": piece.side, "text": piece.text} for piece in pieces]
                for name, pieces in text.items()
            }
            for divergence, text in zip(found.divergences, texts, strict=True)
        ],
    }


def _print(ids: list[str], found: RunDiff, metrics: list[dict[str, Any]], texts: list[_Texts]) -> None:
    differ = f"{found.diverged} of {found.rows} rows differ"
    print(f"{ids[0]} → {ids[1]}: {differ} (rows paired by {found.paired_by})")
    for words, number in (("before", found.rows_only_before), ("after", found.rows_only_after)):
        if number:
            print(f"{number} rows are only in the run {words}.")
    for words, steps in (("before", found.only_before), ("after", found.only_after)):
        if steps:
            print(safe(f"Steps only in the run {words}: {', '.join(steps)}."))
    lines = [
        {
            "step": step.step,
            "compared": step.compared,
            "asked differently": step.asked_differently,
            "answered differently": step.answered_differently,
            "first here": step.first,
            "because of": ", ".join(f"{kind} ({number})" for kind, number in step.causes.most_common())
            or "-",
        }
        for step in found.steps
    ]
    print("\n" + table(lines, right=_RIGHT))
    if metrics:
        print("\n" + table([metric_line(line) for line in metrics], right=_RIGHT))
    for divergence, text in zip(found.divergences, texts, strict=True):
        _print_divergence(divergence, text)
    if len(found.divergences) < found.diverged:
        print(f"\n… {found.diverged - len(found.divergences)} more; --limit N shows them.")


def metric_line(line: dict[str, Any]) -> dict[str, Any]:
    """Return one metric of two runs as a line of a table."""
    paired = line["paired"]
    shown = "-"
    if paired is not None:
        shown = f"{paired['difference']:+.3f} [{paired['low']:+.3f}, {paired['high']:+.3f}]"
    return {
        "metric": f"{line['step']}.{line['metric']}",
        "before": f"{line['before']:.3f}",
        "after": f"{line['after']:.3f}",
        "paired difference, 95 %": shown,
        "p": f"{paired['p']:.3g}" if paired is not None and paired["p"] is not None else "-",
        "rows better, worse": f"{line['changed']['better']}, {line['changed']['worse']}",
        "verdict": paired["verdict"] if paired is not None else "has no score for a row",
    }


def _print_divergence(divergence: Divergence, texts: _Texts) -> None:
    rows = (divergence.row_before, divergence.row_after)
    place = "once" if rows[0] is None else f"row {rows[0]}" + (f" → {rows[1]}" if rows[0] != rows[1] else "")
    answer = "" if divergence.answer_differs else " · same answer"
    print(safe(f"\n{place} · {divergence.step}{answer}"))
    for cause in divergence.causes:
        if cause.kind == "passages":
            _print_moves(cause.before, cause.after)
        else:
            print_cause(cause)
    for name, pieces in texts.items():
        print(f"  {name}: {safe(_marked(pieces))}")


def _print_moves(before: list[str], after: list[str]) -> None:
    from chains.diff.causes import moved

    print("  passages")
    for move in moved(before, after):
        ranks = [f"rank {rank}" if rank is not None else "-" for rank in (move["before"], move["after"])]
        print(safe(f"    {ranks[0]} → {ranks[1]}  {move['id']}"))


_AROUND = 60


def _marked(pieces: list[Piece]) -> str:
    """Return pieces as `[-gone-]{+come+}`; long stretches that both have are cut in their middle."""
    found = []
    for piece in pieces:
        text = piece.text
        if piece.side == "same" and len(text) > 2 * _AROUND:
            text = f"{text[:_AROUND]} … {text[-_AROUND:]}"
        found.append({"same": text, "before": f"[-{text}-]", "after": f"{{+{text}+}}"}[piece.side])
    return "".join(found).replace("\n", " ⏎ ")
