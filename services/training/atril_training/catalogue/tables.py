"""The catalogue as text: tables for a terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from atril_models import CATALOGUE
from atril_training.card import Metric
from atril_training.catalogue.build import BuiltModel
from atril_training.catalogue.describe import Description, describe
from atril_training.recipes import QualityBar, Recipe, find_recipe

_SIDES = {"higher": "≥", "lower": "≤"}


def list_table() -> Table:
    """Every architecture with its section, the size of its published form and its default bar."""
    table = Table("name", "section", "family", box=None, pad_edge=False, header_style="bold")
    table.add_column("parameters", justify="right")
    table.add_column("trained on")
    table.add_column("bars")
    for name, entry in CATALOGUE.items():
        recipe = find_recipe(name)
        table.add_row(
            name,
            entry.lecture_section,
            str(entry.family),
            f"{describe(name).parameters:,}",
            recipe.dataset,
            ", ".join(map(_bar, recipe.bars)),
        )
    return table


def description(of: Description, card: tuple[int, Mapping[str, Any]] | None) -> RenderableType:
    """Section, formula, layers, recipes and the latest card of one architecture."""
    entry = of.architecture
    form = ", ".join(f"{name} {value}" for name, value in of.options.items()) or "as published"
    shapes = ", ".join("×".join(map(str, shape)) for shape in of.input_shapes)
    head = [
        Text(entry.title, style="bold"),
        Text(f"{entry.family}, lecture {entry.lecture_section}; {entry.source}"),
        Text(""),
        Text(entry.formula),
        Text(""),
        Text(f"form: {form}; input {shapes}"),
    ]
    tail: list[RenderableType] = [Text("")]
    for recipe in of.recipes:
        tail.append(_recipe(recipe))
    tail.append(Text(""))
    tail += _card(card)
    return Group(*head, _layers(of), *tail)


def build_table(built: Sequence[BuiltModel]) -> Table:
    """What came of every architecture, in the order of the catalogue."""
    table = Table("name", "section", box=None, pad_edge=False, header_style="bold")
    for column in ("parameters", "figure", "parity", "size", "latency", "time"):
        table.add_column(column, justify="right" if column != "figure" else "left")
    order = list(CATALOGUE)
    for row in sorted(built, key=lambda row: order.index(row.architecture)):
        section = CATALOGUE[row.architecture].lecture_section
        time = f"{row.duration_s:.0f} s"
        if row.error:
            failed = Text(f"not published: {row.error}", style="red")
            table.add_row(row.architecture, section, "", failed, "", "", "", time)
            continue
        table.add_row(
            row.architecture,
            section,
            f"{row.parameters:,}",
            "\n".join(map(metric_text, row.metrics)),
            f"{row.parity_max_abs:.0e}",
            f"{row.size_bytes / 1e6:.2f} MB",
            f"{row.latency_ms:.2f} ms",
            time,
        )
    return table


def metric_text(metric: Metric) -> str:
    """A figure, its bar, and what the bar's baseline reaches."""
    return (
        f"{metric.name} {metric.value:.4g} {_SIDES[metric.bar.better]} {metric.bar.bound:g} "
        f"({metric.bar.baseline} {metric.baseline_value:.4g})"
    )


def _bar(bar: QualityBar) -> str:
    return f"{bar.metric} {_SIDES[bar.better]} {bar.bound:g}"


def _layers(of: Description) -> Table:
    table = Table("layer", "kind", "output", box=None, pad_edge=False, header_style="bold")
    for column in ("parameters", "multiply-adds", "connections"):
        table.add_column(column, justify="right")
    for row in of.layers:
        shape = "×".join(map(str, row.output_shape))
        numbers = (row.parameters, row.multiply_adds, row.connections)
        table.add_row(row.name, row.kind, shape, *(f"{number:,}" for number in numbers))
    total = (of.parameters, of.multiply_adds, of.connections)
    table.add_row("all", "", "", *(f"{number:,}" for number in total), style="bold")
    return table


def _recipe(recipe: Recipe) -> Text:
    own = {
        field.name: getattr(recipe, field.name)
        for field in fields(recipe)
        if field.name not in ("architecture", "dataset", "bars", "optimization")
    }
    plan = recipe.optimization
    facts = [f"{field.name} {getattr(plan, field.name)}" for field in fields(plan)]
    facts += [f"{name} {value}" for name, value in own.items()]
    bars = "; ".join(f"{_bar(bar)} (beyond {bar.baseline})" for bar in recipe.bars)
    return Text(f"recipe on {recipe.dataset}: {', '.join(facts)}; bars: {bars}")


def _card(card: tuple[int, Mapping[str, Any]] | None) -> list[RenderableType]:
    if card is None:
        return [Text("no published version in this repository")]
    version, facts = card
    lines = [
        f"version {version}: trained on {facts['data']['name']} in "
        f"{facts['training']['duration_s']:.0f} s, code {facts['code_version']}"
    ]
    lines += [
        metric_text(Metric(m["name"], m["value"], QualityBar(**m["bar"]), m["baseline_value"]))
        for m in facts["metrics"]
    ]
    differences = [o["max_abs"] for case in facts["parity"]["cases"] for o in case["outputs"]]
    lines.append(
        f"parity within {max(differences):.1e} in {len(facts['parity']['cases'])} cases; "
        f"{facts['size_bytes'] / 1e6:.2f} MB, {facts['latency']['p50_ms']:.2f} ms"
    )
    return [Text(line) for line in lines]
