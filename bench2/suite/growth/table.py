"""Results of `bench/growth` as Markdown and as JSON."""

import json

from ..table import duration, line, size


def short(seconds):
    """A duration that may be very short."""
    return duration(seconds) if seconds >= 0.001 else f"{seconds * 1e6:.1f} µs"


def verdict(one):
    """What the growth of a builder's cost comes to."""
    factor = one.factor
    if factor is None:
        return ""
    span = f"from {one.sizes[1].size:,} to {one.sizes[-1].size:,}"
    return f"flat {span}" if factor <= one.FLAT else f"**× {factor:.1f}** {span}"


def ended(one):
    if not one.ended:
        return ""
    return f"**FAILED** at {one.ended:,}" if one.failed else f"ended at {one.ended:,}"


def further(before, after):
    """What each further unit took, beside the size before; nothing where a size has but one, or where it is lost in noise."""
    more = after.units - before.units
    took = after.series.median - before.series.median
    return short(took / more) if more > 0 and took > 0 else ""


def overview(rows, results, failures, kinds):
    lines = [line("Row", "each", *kinds), line("---", "---", *["---"] * len(kinds))]
    for row in rows:
        if row.name in failures:
            lines.append(line(row.name, row.unit, f"**FAILED**: {failures[row.name]}", *[""] * (len(kinds) - 1)))
            continue
        said = ["; ".join(filter(None, (verdict(one), ended(one)))) for one in results[row.name]]
        lines.append(line(row.name, row.unit, *said))
    return lines


def details(row, lines):
    """A builder's sizes one below another; the verdict is beside the largest."""
    yield from ["", f"### {row.name}", "", row.title[0].upper() + row.title[1:] + ".", ""]
    yield line("", "size", "median", "least to most", f"each {row.unit}", "each further", "peak memory", "verdict")
    yield line("---", "---:", "---:", "---:", "---:", "---:", "---:", "---")
    for one in lines:
        for number, measured in enumerate(one.sizes):
            series = measured.series
            spread = f"{duration(min(series.values))} to {duration(max(series.values))}"
            yield line(
                one.name, f"{measured.size:,}", duration(series.median), spread, short(measured.each),
                further(one.sizes[number - 1], measured) if number else "", size(series.peak),
                verdict(one) if measured is one.sizes[-1] else "")
        if one.ended:
            yield line(one.name, f"{one.ended:,}", "", "", "", "", "", ("**FAILED**: " if one.failed else "ended: ") + one.why)


def markdown(facts, rows, results, failures):
    machine = facts["machine"]
    lines = [
        f"# Growth, measured {facts['measured']}, commit {facts['commit']}" + (" with changes" if facts["changed"] else ""), "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']}, {machine['filesystem']}. "
        f"Medians of {facts['runs']} runs in turn after one warm-up; memory is that of the daemon and its steps, of a run of its own. "
        f"A run may take {facts['bound']:g} s. Flat: each unit costs at most 1.5 times at the largest size what it does at the second.", "",
    ]
    lines += [f"- {name}: {version}" for name, version in facts["versions"].items()]
    lines += [f"- not measured: {name} ({reason})" for name, reason in facts["absent"].items()]
    lines += ["", *overview(rows, results, failures, list(facts["versions"]))]
    for row in rows:
        if row.name in results:
            lines += details(row, results[row.name])
    return "\n".join([*lines, ""])


def record(facts, rows, results, failures):
    kept = {
        row.name: {"title": row.title, "unit": row.unit, "builders": {one.name: one.recorded() for one in results[row.name]}}
        for row in rows if row.name in results}
    return json.dumps({**facts, "rows": kept, "failed": failures}, indent=2) + "\n"
