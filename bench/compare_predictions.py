#!/usr/bin/env python3
"""What a change of a kernel did to a predicted step: the rows of two predictions that differ.

The files are those of `avid bench step --predict ... --kernels --json`; without --kernels in both, lines are compared
in the place of kernels. A row differs when anything in it does: time, launches, blocks, traffic. Sorted by the change
of the time; `-`: no such row there. The totals are those of all rows."""
import argparse
import json
import pathlib
import signal
import sys

STEP = ("gpu", "kind", "config", "clips", "dtype", "model")  # what is the same where two predictions can be compared


class BadFile(Exception):
    """What is wrong with a file, in one line."""


def is_prediction(value):
    if not isinstance(value, dict) or not {"lines", "predicted_ms", *STEP} <= value.keys():
        return False
    rows = [value]
    for table in (value["lines"], value.get("kernels", [])):
        rows += table if isinstance(table, list) else [table]
    return all(isinstance(row, dict) and isinstance(row.get("predicted_ms"), (int, float)) for row in rows)


def read_prediction(path):
    try:
        prediction = json.loads(pathlib.Path(path).read_text())
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror}")
    except ValueError as error:  # not UTF-8, or not JSON
        raise BadFile(f"{path}: not JSON ({error}) | expected what `avid bench step --predict ... --json` prints")
    if not is_prediction(prediction):
        raise BadFile(f"{path}: no prediction | expected what `avid bench step --predict ... --json` prints")
    return prediction


def check_same_step(before, after):
    for key in STEP:
        if before[key] != after[key]:
            values = "" if key == "model" else f" ({before[key]} and {after[key]})"
            raise BadFile(f"the predictions differ in {key}{values} | compare two of the same step on the same device")


def rows_of(prediction, table):
    return {tuple(row.get(key, "") for key in ("part", "line", "kernel")): row for row in prediction[table]}


def ms(row):
    return 0.0 if row is None else row["predicted_ms"]


def differences(before, after):
    """(part, line, kernel), row before or None, row after or None; the largest change of the time first."""
    table = "kernels" if "kernels" in before and "kernels" in after else "lines"
    before, after = rows_of(before, table), rows_of(after, table)
    changed = [(key, before.get(key), after.get(key)) for key in {**before, **after}
               if before.get(key) != after.get(key)]
    return sorted(changed, key=lambda row: (-abs(ms(row[2]) - ms(row[1])), row[0]))


def print_row(part, line, before, after, change, kernel):
    print(f"{part:9} {line:28} {before:>10} {after:>10} {change:>9}  {kernel}".rstrip())


def print_table(before, after):
    rows = differences(before, after)
    if rows:
        print_row("part", "line", "ms before", "after", "change", "kernel" if any(key[2] for key, *_ in rows) else "")
    for (part, line, kernel), *both in rows:
        times = [f"{ms(row):.4f}" if row else "-" for row in both]
        print_row(part, line, *times, f"{ms(both[1]) - ms(both[0]):+.4f}", kernel)
    totals = before["predicted_ms"], after["predicted_ms"]
    print_row("total", "", *(f"{total:.2f}" for total in totals), f"{totals[1] - totals[0]:+.2f}", "")


def main():
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # ends behind `| head` without a word
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", metavar="BEFORE.json")
    parser.add_argument("after", metavar="AFTER.json")
    args = parser.parse_args()
    try:
        before, after = read_prediction(args.before), read_prediction(args.after)
        check_same_step(before, after)
        print_table(before, after)
    except BadFile as error:
        sys.exit(f"compare_predictions: {error}")


if __name__ == "__main__":
    main()
