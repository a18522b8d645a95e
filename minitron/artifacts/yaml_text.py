"""YAML as untrusted input: plain values alone, no key twice, nothing that grows without end when it is looked at.

PyYAML's safe loader makes no objects of other classes, but takes the last of two equal keys, shares what aliases name
(so that a few lines stand for billions of values), and converts any number of digits.
"""

from collections.abc import Hashable
from typing import cast

import yaml

from minitron.errors import one_line

MOST_CHARS = 2**20  # PyYAML reads about a megabyte in ten seconds
MOST_VALUES = 100_000  # aliases counted as often as they stand for something
MOST_LEVELS = 64
LARGEST = 2**63 - 1


class YamlFaultError(ValueError):
    """Text that is no YAML to rely on; `line` is where, None where that is not known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(one_line(message))
        self.line = line


def parse_yaml(text: str) -> object:
    """The value of a YAML text.

    Raises:
        YamlFaultError: It is malformed, holds other objects than plain values, a key twice, a whole number beyond 64
            bits, more than 100,000 values or 64 levels with its aliases put in, or is longer than a megabyte.

    >>> parse_yaml("tokens: 1_000")
    {'tokens': 1000}
    """
    if len(text) > MOST_CHARS:
        raise YamlFaultError(f"it has {len(text):,} characters, at most {MOST_CHARS:,} are read")
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = None if error.problem_mark is None else error.problem_mark.line + 1
        raise YamlFaultError(str(error.problem or error.context), line) from error
    except RecursionError as error:
        raise YamlFaultError("it is nested too deeply") from error
    except YamlFaultError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # a control character, an impossible date, a number of many digits
        raise YamlFaultError(str(error)) from error
    except (AttributeError, KeyError, TypeError) as error:  # a tag that says another type than its text is of
        raise YamlFaultError(f"a value is not of the type that its tag says: {error}") from error


class _Loader(yaml.SafeLoader):
    """The safe loader with bounds."""

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _size(node, {}, 0)
        return node

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Hashable, object]:
        keys: set[object] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = (key_node.tag, str(key_node.value))
            if key in keys and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(problem=f"the key {key[1]!r} stands twice", problem_mark=key_node.start_mark)
            keys.add(key)
        found: dict[Hashable, object] = super().construct_mapping(cast(yaml.MappingNode, node), deep)
        return found

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        found = int(super().construct_yaml_int(node))
        if abs(found) > LARGEST:
            raise yaml.MarkedYAMLError(problem="a whole number goes beyond 64 bits", problem_mark=node.start_mark)
        return found


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _size(node: yaml.Node, known: dict[int, int], level: int) -> int:
    """Values that a node stands for with its aliases put in."""
    if level > MOST_LEVELS:  # an alias inside what it names gets here, too
        raise yaml.MarkedYAMLError(
            problem=f"it is nested deeper than {MOST_LEVELS} levels", problem_mark=node.start_mark
        )
    if id(node) not in known:
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        inner = [each for pair in pairs for each in pair] if pairs else []
        if isinstance(node, yaml.SequenceNode):
            inner = node.value
        known[id(node)] = 1 + sum(_size(each, known, level + 1) for each in inner)
    if known[id(node)] > MOST_VALUES:
        raise yaml.MarkedYAMLError(
            problem=f"it stands for more than {MOST_VALUES:,} values with its aliases put in",
            problem_mark=node.start_mark,
        )
    return known[id(node)]
