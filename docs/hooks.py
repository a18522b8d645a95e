"""What the site's build adds to the pages: references made from the code, and formulas as MathML.

Nothing is fetched while the site is built or read: a page that would load from another host fails the build.
"""

import argparse
import html
import importlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
# What a browser loads by itself; links that a reader may follow are not meant.
HOST = r"(?:https?:)?//"
LOADED = re.compile(rf'<(?:script|img|iframe)\b[^>]*\bsrc="{HOST}|<link\b[^>]*\bhref="{HOST}|url\({HOST}')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from the code."""
    for name, content in generated_pages().items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Turns TeX into MathML, which browsers show without a script or a font."""
    from latex2mathml.converter import convert

    def formula(match: re.Match[str]) -> str:
        display = "block" if match[1] == "div" else "inline"
        return convert(html.unescape(match[2]), display=display)

    return FORMULA.sub(formula, content)


def on_post_build(config: MkDocsConfig) -> None:
    """Fails when a page loads anything from another host."""
    for page in Path(config.site_dir).rglob("*.html"):
        found = LOADED.search(page.read_text(encoding="utf-8"))
        if found:
            raise PluginError(f"{page}: nothing may be loaded from another host, found {found[0]}")


def generated_pages() -> dict[str, str]:
    """Path -> Markdown of every page that is made from the code."""
    return {
        "reference/recipe.md": recipe_page(),
        "reference/cli.md": cli_page(),
        "reference/api.md": api_page(),
        "reference/families.md": families_page(),
    }


def cli_page() -> str:
    """The command line, from its parser."""
    from minitron.cli.main import build_parser

    lines = [
        "# Command line",
        "",
        "Made from the parser; `minitron COMMAND --help` says the same.",
        "Results go to stdout, logs and progress to stderr; `--json` prints one JSON object.",
        "",
        "| exit code | meaning |",
        "|---|---|",
        "| 0 | success |",
        "| 2 | something that was given cannot be used: one line a fault, no traceback |",
        "| 1 | anything else; a bug comes with its traceback |",
        "| 130 | interrupted; what is finished is kept |",
    ]
    for name, parser in _commands(build_parser()):
        lines += ["", f"## minitron {name}", "", f"{parser.description}.", "", *_usage(parser), *_arguments(parser)]
    return "\n".join(lines) + "\n"


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _usage(parser: argparse.ArgumentParser) -> list[str]:
    words = " ".join(parser.format_usage().removeprefix("usage: ").split())
    return ["```text", *_wrapped(words), "```", ""]


def _wrapped(words: str, width: int = 72) -> list[str]:
    lines = [""]
    for part in re.findall(r"\[[^\]]*\](?: \.\.\.\])?|\S+", words):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("   ")
        lines[-1] += (" " if lines[-1].strip() else "") + part
    return lines


def _arguments(parser: argparse.ArgumentParser) -> list[str]:
    lines = ["| argument | |", "|---|---|"]
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        value = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
        shown = value if isinstance(value, str) else " ".join(value)
        if action.choices is not None:
            shown = "{" + ",".join(str(choice) for choice in action.choices) + "}"
        names = ", ".join(f"{name} {shown}".strip() for name in action.option_strings) or shown
        needed = " **(required)**" if action.required and action.option_strings else ""
        lines.append(f"| `{names}` | {_cell(action.help or '')}{needed} |")
    return lines


def _cell(text: str) -> str:
    return re.sub(r"([|\[\]*])", r"\\\1", html.escape(text.replace("\n", " "), quote=False))


def api_page() -> str:
    """The public Python API, from the names that `import minitron` gives."""
    minitron = importlib.import_module("minitron")
    homes: dict[str, str] = minitron._HOMES
    lines = [
        "# Python API",
        "",
        "`import minitron` takes well under a second and loads no torch; each name below is imported when it is first",
        "used. Everything else in the package may change between releases.",
        "",
        "Every function raises `MinitronError` for what a caller can mend, with a line for each fault, and lets any",
        "other exception through: that is a bug.",
    ]
    functions = [name for name in minitron.__all__ if name in homes and name[0].islower()]
    classes = [name for name in minitron.__all__ if name in homes and name[0].isupper()]
    for title, names in (("Functions", functions), ("Values", classes)):
        lines += ["", f"## {title}", ""]
        for name in names:
            lines += [f"::: {homes[name]}.{name}", ""]
    return "\n".join(lines)


def families_page() -> str:
    """Every model family: its blocks, axes and tensors, from its declarations."""
    from minitron.integrations.gguf.families import FAMILIES as EXPORTED
    from minitron.models.families import FAMILIES

    lines = [
        "# Model families",
        "",
        "Made from the declarations by which models are counted, scored and cut. `minitron verify CHECKPOINT` proves",
        "them on a tiny random model of a checkpoint's own configuration.",
        "",
        "A tensor's dim is a concatenation of parts, in order, with `|` between them; a part is a row-major product of",
        "sizes. Sizes have the names that recipes and `--shape` take, which is mostly what configurations call them; a",
        "configuration's own name is taken, too.",
    ]
    for family in FAMILIES.values():
        export = "writes" if family.model_type in EXPORTED else "does not write"
        lines += ["", f"## {family.model_type}", "", *_axes_table(family), "", *_tensors_table(family), ""]
        lines += [f"`minitron export` {export} it as a GGUF file."]
    return "\n".join(lines) + "\n"


def _axes_table(family: Any) -> list[str]:
    blocks = ", ".join(f"{letter} {name}" for letter, name in family.block_kinds.items())
    lines = [f"Blocks: {blocks}.", ""]
    lines += [f"Sizes must have {rule}: {rule.because}." for rule in family.multiples] + [""]
    lines += ["| axis | in `config.json` | chosen in | rule |", "|---|---|---|---|"]
    for axis in family.axes.values():
        spelt = ", ".join(f"`{key}`" for key in family.config_keys[axis.name])
        where = "the whole model" if axis.blocks is None else f"every block {' '.join(axis.blocks)}"
        rules = [f"as many in each of `{axis.grouped_by}`"] if axis.grouped_by else []
        rules += [f"each of `{axis.per}` has its own"] if axis.per else []
        rules += [f"takes its `{family.owners[axis.name]}` along"] if axis.name in family.owners else []
        lines.append(f"| `{axis.name}` | {spelt} | {where} | {', '.join(rules)} |")
    return [*lines, f"| `num_hidden_layers` | {_listed(family)} | | |"]


def _listed(family: Any) -> str:
    return ", ".join(f"`{key}`" for key in ("num_hidden_layers", *(each.key for each in family.pattern.lists)))


def _tensors_table(family: Any) -> list[str]:
    lines = ["| tensor | dims |", "|---|---|"]
    lines += [_tensor_row(spec) for spec in family.model_tensors]
    for letter, specs in family.block_tensors.items():
        prefix = family.block_prefix.replace("{layer}", "N")
        lines += [f"| **{letter}**: `{prefix}`… | |", *(_tensor_row(spec) for spec in specs)]
    return lines


def _tensor_row(spec: Any) -> str:
    dims = [" \\| ".join(" &times; ".join(str(axis) for axis in part) or "1" for part in dim) for dim in spec.dims]
    notes = [f"if {spec.needs}"] if spec.needs else []
    notes += [f"if no {spec.lacks}"] if spec.lacks else []
    notes += (
        [f"one for each of {spec.stacked}" if "{}" in spec.name else f"stacked over {spec.stacked}"]
        if spec.stacked
        else []
    )
    notes += ["multiplies by 1 + w"] if spec.norm else []
    note = f" ({', '.join(notes)})" if notes else ""
    return f"| `{spec.name}`{note} | {', '.join(f'[{dim}]' for dim in dims)} |"


def recipe_page() -> str:
    """Every setting of a recipe, from its schema."""
    from minitron.recipe.reference import describe_recipe

    lines = [
        "# Recipe",
        "",
        "Every setting, made from the schema. A recipe is a YAML file; a key that is not here is refused, with the",
        "nearest one that is. `--set KEY=VALUE` overrides a setting, as in `--set distill.tokens=200000`. Paths are",
        "relative to the recipe. `examples/quickstart/recipe.yaml` is a small whole one.",
    ]
    rows = describe_recipe()
    tops = [row for row in rows if "." not in row.key]
    lines += ["", *_settings(tops, "")]
    for top in tops:
        below = [row for row in rows if row.key.startswith((f"{top.key}.", f"{top.key}[]."))]
        if below:
            lines += ["", f"## {top.key}", "", top.description, "", *_settings(below, f"{top.key}.")]
    return "\n".join(lines) + "\n"


def _settings(rows: Sequence[Any], prefix: str) -> list[str]:
    lines = ["| setting | type | default | |", "|---|---|---|---|"]
    for row in rows:
        default = f"`{row.default}`" if row.default not in ("", "required") else row.default
        # A long key may break behind a dot or an underscore.
        key = re.sub(r"([._])", r"\1<wbr>", row.key.removeprefix(prefix))
        cells = (
            f"<code>{key}</code>",
            _cell(row.type),
            default.replace("|", "\\|"),
            _cell(row.description),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines
