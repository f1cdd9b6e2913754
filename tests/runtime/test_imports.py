import importlib
import re
import sys

import pytest

from detkit import registry
from detkit.registry import ConfigError
from detkit.runtime.imports import import_named

PART = "from detkit.registry import register\n\n\n@register\ndef {name}():\n    return {value}\n"


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch):
    """Forget what a test imports and registers."""
    for name in ("_components", "_lazy", "_origins"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_file_is_a_module_of_its_name_that_finds_its_neighbours(tmp_path):
    (tmp_path / "doors_neighbour.py").write_text("VALUE = 7")
    (tmp_path / "doors_file.py").write_text("from doors_neighbour import VALUE\n" + PART.format(name="seven", value=7))
    import_named([str(tmp_path / "doors_file.py")])
    assert registry.build({"type": "seven"}) == 7
    assert registry.lookup("seven").__module__ == "doors_file"
    (tmp_path / "doors_file.py").write_text("raise RuntimeError('imported twice')")
    import_named([str(tmp_path / "doors_file.py")])


def test_paths_are_relative_to_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "doors_file.py").write_text(PART.format(name="eight", value=8))
    monkeypatch.chdir(tmp_path)
    import_named(["doors_file.py"])
    assert registry.is_registered("eight")


def test_modules_are_imported_by_name(tmp_path, monkeypatch):
    (tmp_path / "doors_package").mkdir()
    (tmp_path / "doors_package" / "parts.py").write_text(PART.format(name="nine", value=9))
    monkeypatch.syspath_prepend(tmp_path)
    import_named(["doors_package.parts"])
    assert registry.build({"type": "nine"}) == 9


@pytest.mark.parametrize(
    ("imports", "message"),
    [
        (["absent.py"], r"imports: the file .*/absent\.py does not exist"),
        (["absent_package.models"], r"there is no module 'absent_package\.models' .* or name a file: models\.py"),
        (["json.absent"], r"there is no module 'json\.absent'"),
        (["my-parts.py"], r"my-parts\.py cannot be imported: use letters, digits and _"),
        (["random.py"], r"/random\.py cannot be imported, the module 'random' is .*random\.py: rename it"),
        (["doors_broken.py"], r"imports: .*/doors_broken\.py:3: ZeroDivisionError: division by zero"),
        (["doors_syntax.py"], r"imports: .*/doors_syntax\.py:1: SyntaxError: "),
        (["doors_needs.py"], r"imports: .*/doors_needs\.py:1: ModuleNotFoundError: No module named 'absent_package'"),
        ("doors_file.py", r"imports: expected a list of module names and \.py files, got 'doors_file\.py'"),
    ],
)
def test_what_cannot_be_imported(tmp_path, monkeypatch, imports, message):
    (tmp_path / "my-parts.py").write_text("")
    (tmp_path / "random.py").write_text("")
    (tmp_path / "doors_broken.py").write_text("def half():\n\n    return 1 / 0\n\n\nhalf()\n")
    (tmp_path / "doors_syntax.py").write_text("def half(:\n")
    (tmp_path / "doors_needs.py").write_text("import absent_package\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        import_named(imports)
    assert importlib.import_module("random").random() < 1


def test_an_exception_in_a_package_has_its_place(tmp_path, monkeypatch):
    (tmp_path / "doors_package").mkdir()
    (tmp_path / "doors_package" / "__init__.py").write_text("")
    (tmp_path / "doors_package" / "helper.py").write_text("\n\nraise RuntimeError('no')\n")
    (tmp_path / "doors_package" / "parts.py").write_text("import doors_package.helper\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"imports: .*doors_package/helper\.py:3: RuntimeError: no"):
        import_named(["doors_package.parts"])


def test_a_name_that_is_taken_is_an_error_with_both_places(tmp_path):
    for name in ("doors_one", "doors_two"):
        (tmp_path / f"{name}.py").write_text(PART.format(name="ten", value=10))
    one, two = (str(tmp_path / f"{name}.py") for name in ("doors_one", "doors_two"))
    import_named([one])
    message = rf"{re.escape(two)}:4: ValueError: 'ten' is registered twice: ten in {re.escape(one)} and ten in"
    with pytest.raises(ConfigError, match=message):
        import_named([two])
