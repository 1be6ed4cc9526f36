"""Cards of published models as Markdown: the pages under docs/results are its output."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atril_models import CATALOGUE

_COLUMNS = (
    *("model", "lecture", "data", "parameters", "figure", "bar", "baseline"),
    *("parity", "size", "latency"),
)
_SIDES = {"higher": "≥", "lower": "≤"}


@dataclass(frozen=True, slots=True)
class Published:
    """The newest version of a model, and its card."""

    name: str
    version: int
    card: Mapping[str, Any]


def report(models: Sequence[Published]) -> str:
    """A table with a line for each figure that has a bar, and below it how each model was made."""
    order = list(CATALOGUE)
    ordered = sorted(models, key=lambda model: order.index(model.card["architecture"]))
    lines = [
        f"| {' | '.join(_COLUMNS)} |",
        f"| {' | '.join('---' for _ in _COLUMNS)} |",
    ]
    for model in ordered:
        lines += _rows(model)
    lines.append("")
    for title, facts in _environments(ordered).items():
        lines += [f"{title}: {facts}", ""]
    for model in ordered:
        lines += [_recipe(model), ""]
    return "\n".join(lines)


def _rows(model: Published) -> Iterator[str]:
    card = model.card
    differences = [
        output["max_abs"] for case in card["parity"]["cases"] for output in case["outputs"]
    ]
    for index, metric in enumerate(card["metrics"]):
        bar = metric["bar"]
        figure = (
            f"{metric['name']} **{metric['value']:.4g}** "
            f"| {_SIDES[bar['better']]} {bar['bound']:g} "
            f"| {bar['baseline']} {metric['baseline_value']:.4g}"
        )
        if index:
            yield f"| | | | | {figure} | | | |"
        else:
            yield (
                f"| `{model.name}` | {card['lecture_section']} | {card['data']['name']} "
                f"| {card['parameters']:,} | {figure} | {max(differences):.0e} "
                f"| {card['size_bytes'] / 1e6:.2f} MB | {card['latency']['p50_ms']:.2f} ms |"
            )


def _environments(models: Sequence[Published]) -> dict[str, str]:
    """The machines and versions that made the models, with the models that each made."""
    made: dict[str, list[str]] = {}
    for model in models:
        device = model.card["device"]
        packages = ", ".join(f"{name} {v}" for name, v in model.card["packages"].items())
        facts = f"{device['type']} ({device['name']}), {device['threads']} thread; {packages}"
        made.setdefault(facts, []).append(model.name)
    if len(made) == 1:
        return {"Made with": next(iter(made))}
    return {f"{', '.join(names)} made with": facts for facts, names in made.items()}


def _recipe(model: Published) -> str:
    card = model.card
    plan = card["recipe"]["optimization"]
    facts = ", ".join(f"{name} {value}" for name, value in plan.items())
    options = ", ".join(f"{name} {value}" for name, value in card["options"].items()) or "none"
    stages = "; ".join(
        f"{stage['stage'] + ' ' if stage['stage'] else ''}best epoch {stage['best_epoch']} of "
        f"{len(stage['epochs'])}"
        for stage in card["training"]["stages"]
    )
    examples = ", ".join(f"{name} {count:,}" for name, count in card["data"]["examples"].items())
    return (
        f"**`{model.name}`** version {model.version}: {card['training']['duration_s']:.0f} s; "
        f"{stages}. Examples: {examples}; held out: {card['data']['held_out']}. "
        f"Seed {card['seed']}; options: {options}; {facts}."
    )
