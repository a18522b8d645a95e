from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_readmes_tree_names_every_module() -> None:
    readme = (ROOT / "README.md").read_text()
    modules = [path for path in (ROOT / "minitron").rglob("*.py") if not path.name.startswith("__")]
    assert len(modules) > 30
    missing = [path for path in modules if path.name not in readme and path.parent.name != "families"]
    assert not missing
