"""The summary: tables for docs, and what went wrong."""

import statistics

from .judged import LEAST_SECONDS
from .verdict import UNKNOWN, Growth

SHOWN = 40


def number(value, unit):
    if value is None:
        return "–"
    if unit == "bytes":
        for size, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if abs(value) >= size:
                return f"{value / size:.1f} {name}"
        return f"{value:.0f} B"
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"


def change(before, after, unit):
    if before is None or after is None:
        return "–"
    text = number(after - before, unit)
    return text if text.startswith("-") or after == before else "+" + text


def table(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return [*lines, *("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows), ""]


def of_verdicts(verdicts):
    rows = []
    for one in verdicts:
        series = one.series
        title = f"{series.title}, for each {series.each}" if isinstance(series, Growth) else series.title
        rows.append([
            title, number(one.before, series.unit), number(one.after, series.unit), change(one.before, one.after, series.unit),
            number(one.hourly, series.unit), number(one.tolerated, series.unit), one.word])
    return rows


def of_actions(events):
    rows = []
    for name, outcomes in sorted(events.counts.items()):
        took = events.durations.get(name)
        rows.append([
            name, outcomes.get("ok", 0), outcomes.get("disturbed", 0), outcomes.get("unexpected", 0),
            f"{statistics.median(took):.2f} s" if took else "–"])
    return rows


def markdown(known, events, found, rests, wrong, troubles):
    """The whole summary."""
    machine = known["machine"]
    changed = " with changes" if known["changed"] else ""
    lines = [
        f"# Soak of {known['minutes']:.0f} minutes", "",
        f"{known['measured']}, commit {known['commit']}{changed}. {known['program']}. {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, Linux {machine['kernel']}, {machine['filesystem']}.", "",
        f"{known['projects']} projects, {known['parallel']} builds at once and one more in a project that is never left alone, caches of "
        f"at most {known['cache']} each, builders ended after {known['idle']:g} s without a build, seed {known['seed']}. "
        f"{known['builds']:.0f} builds ended, {known['steps']:.0f} steps, {known['started']} builders were started, "
        f"{known['saved']} images saved.", "",
        f"**{'Not flat, or something failed: see below.' if wrong or troubles or events.unexpected else known['word']}**", "",
    ]
    if known["absent"]:
        lines += [f"Left out on this machine: {known['absent']}.", ""]
    heads = ["Under load", "2nd quarter", "last quarter", "change", "slope an hour", "tolerated", "verdict"]
    lines += table(heads, of_verdicts(found["load"]))
    lines += ["One builder that never ends between two rests; medians of the middle and the last third of its lives.", ""]
    lines += table(["Within a life", "middle", "end", "change", "", "tolerated", "verdict"], of_verdicts(found["life"]))
    lines += ["Kept by design, so that only what one more costs has to be flat.", ""]
    lines += table(["Growth", "2nd quarter", "last quarter", "change", "", "tolerated", "verdict"], of_verdicts(found["design"]))
    moments = ", ".join(f"{row['seconds'] / 60:.0f}" for row in rests)
    lines += [f"At rest, without a build or a builder, at minutes {moments}. Memory counts from the first rest after a quarter.", ""]
    lines += table(["At rest", "first", "last", "change", "verdict"], [
        [same.title, number(first, same.unit), number(last, same.unit), change(first, last, same.unit), word]
        for same, first, last, word in found["rest"]])
    lines += table(["Action", "well", "hit by a reset", "unexpected", "median"], of_actions(events))
    if wrong:
        lines += ["Not flat:", "", *(f"- {one}" for one in wrong), ""]
    if troubles:
        lines += ["Troubles:", "", *(f"- {one}" for one in troubles), ""]
    if events.unexpected:
        lines += [f"Unexpected, the first {SHOWN} of {len(events.unexpected)}:", ""]
        for moment, project, action, said in events.unexpected[:SHOWN]:
            lines += [f"- minute {moment / 60:.1f}, {project}, {action}:", "", *("      " + line for line in said.splitlines()), ""]
    return "\n".join(lines).rstrip() + "\n"


def word(found, minutes):
    """What to say when nothing was wrong."""
    if minutes * 60 < LEAST_SECONDS:
        return f"Too short to judge what happens under load, which takes {LEAST_SECONDS // 60} minutes; everything was the same at rest."
    open_ones = [one.series.title for part in ("load", "life", "design") for one in found[part] if one.word == UNKNOWN]
    return f"Flat, but for what could not be judged: {', '.join(open_ones)}." if open_ones else "Flat."
