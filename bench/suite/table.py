"""Results as Markdown, for people, and as JSON, for whoever compares two of them."""

import json

OURS, PEER = "cofferdam", "buildkitd"


def duration(seconds):
    if seconds >= 1:
        return f"{seconds:.2f} s"
    if seconds >= 0.1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds * 1000:.2f} ms"


def size(count):
    return f"{count / 1024 / 1024:.1f} MiB" if count else ""


def ratio(ours, theirs):
    return f"{ours / theirs:.2f}" if ours and theirs else ""


def line(*cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def called(series, name):
    """The median of an entry, or nothing where it was not measured."""
    return next((one.median for one in series if one.name == name and not one.floor and not one.failed), None)


def verdict(row, series):
    """Whether what was promised of a row holds here; where it cannot be told, nothing."""
    ours, theirs = called(series, OURS), called(series, PEER)
    if row.name == "sandbox-start" and ours:
        return "kept" if ours <= 0.005 else "**not kept**"
    if not row.budget or not ours or not theirs:
        return ""
    kept = ours <= theirs * row.budget
    by_name = {one.name: one.more for one in series}
    if "after_memory" in by_name[OURS]:
        kept = kept and all(by_name[OURS][when] <= by_name[PEER][when] / 2 for when in ("idle_memory", "after_memory"))
    return "kept" if kept else "**not kept**"


def floor_of(series):
    """The quickest of the floors."""
    floors = [one.median for one in series if one.floor and not one.failed]
    return duration(min(floors)) if floors else ""


def overview(rows, results, failures):
    """A line for each row: ours, buildkitd, and what was promised."""
    lines = [line("Row", OURS, PEER, "ratio", "least floor", "promised", "")]
    lines.append(line("---", "---:", "---:", "---:", "---:", "---", "---"))
    for row in rows:
        if row.name in failures:
            lines.append(line(row.name, "", "", "", "", row.promise, "**FAILED**"))
            continue
        series = results[row.name]
        ours, theirs = called(series, OURS), called(series, PEER)
        shown = [duration(value) if value else "" for value in (ours, theirs)]
        lines.append(line(row.name, *shown, ratio(ours, theirs), floor_of(series), row.promise, verdict(row, series)))
    return lines


def remarks(one):
    """What is to be said of an entry besides its figures."""
    said = [one.remark] if one.remark else []
    if "builders" in one.more:
        said.insert(0, f"{one.more['builders'] * 60 / one.median:.0f} builds a minute")
    for key, text in (("idle_memory", "idle"), ("after_memory", "after")):
        if one.more.get(key):
            said.append(f"{size(one.more[key])} {text}")
    return "; ".join(said)


def details(row, series, titles):
    """Everything measured of one row."""
    ours = called(series, OURS)
    lines = ["", f"### {row.name}", "", row.title.format_map(titles) + ".", ""]
    lines += [line("", "median", "least to most", f"{OURS} ÷ it", "peak memory", "")]
    lines += [line("---", "---:", "---:", "---:", "---:", "---")]
    for one in series:
        name = f"*floor: {one.name}*" if one.floor else one.name
        if one.failed:
            lines.append(line(name, "failed", "", "", "", one.failed))
            continue
        spread = f"{duration(min(one.values))} to {duration(max(one.values))}"
        lines.append(line(name, duration(one.median), spread, ratio(ours, one.median), size(one.peak), remarks(one)))
    return lines


class Titles(dict):
    """What workloads turned out to be; a row that was never reached has its name for it instead."""

    def __missing__(self, key):
        return f"({key})"


def markdown(facts, rows, results, failures):
    """The whole report."""
    machine, titles = facts["machine"], Titles(facts["workloads"])
    lines = [
        f"# Measured {facts['measured']}, commit {facts['commit']}" + (" with changes" if facts["changed"] else ""), "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']}, {machine['filesystem']}. "
        f"Medians of {facts['runs']} runs in turn after one warm-up; memory is that of the builder and its steps, of a run of its own.", "",
    ]
    lines += [f"- {name}: {version}" for name, version in facts["versions"].items()]
    lines += [f"- not measured: {name} ({reason})" for name, reason in facts["absent"].items()]
    lines += ["", *overview(rows, results, failures)]
    for row in rows:
        if row.name in failures:
            lines += ["", f"### {row.name}", "", "**FAILED**", "", "```", failures[row.name], "```"]
        else:
            lines += details(row, results[row.name], titles)
    return "\n".join([*lines, ""])


def record(facts, rows, results, failures):
    """The same for programs."""
    kept = {row.name: [one.recorded() for one in results[row.name]] for row in rows if row.name in results}
    return json.dumps({**facts, "rows": kept, "failed": failures}, indent=2) + "\n"
