"""No room of detkit imports one that stands below it; docs/architecture.md has the list of floors."""

import ast
import re

from paths import ROOT

PACKAGE = ROOT / "detkit"
DOORS = ("__init__", "__main__")


def read_floors(text):
    """{room: (floor, place on it)} of the block of floors in a page."""
    block = re.search(r"^```floors\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)[1]
    rooms = [re.split(r"\s{2,}", line)[0].split(" | ") for line in block.splitlines()]
    return {room: (floor, place) for floor, names in enumerate(rooms) for place, room in enumerate(names)}


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(source):
    """The rooms that a module imports from: at its top, inside of functions and for type checkers alike."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "detkit":
            names = [f"detkit.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name.split(".")[1] for name in names if name.startswith("detkit."))


def wrong_imports(floors, files):
    for path, source in files:
        own = room_of(path)
        if own in DOORS:
            continue
        for other in imported_rooms(source):
            same_floor = floors[own][0] == floors[other][0] and own != other
            if floors[other][0] > floors[own][0] or same_floor:
                yield f"{path.relative_to(ROOT)} imports detkit.{other}"


FLOORS = read_floors((ROOT / "docs" / "architecture.md").read_text())
FILES = [(path, path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))]


def test_every_room_has_a_floor():
    rooms = {room_of(path) for path, _ in FILES} - set(DOORS)
    assert rooms == FLOORS.keys()


def test_no_import_runs_up_or_between_the_systems():
    assert list(wrong_imports(FLOORS, FILES)) == []


def test_wrong_imports_are_found():
    up = (PACKAGE / "ops" / "boxes.py", "def f():\n    from detkit.data.coco import CocoDataset")
    across = (PACKAGE / "vidt" / "model.py", "import detkit.pointseg.solov2")
    root = (PACKAGE / "images.py", "from detkit import structures")
    assert len(list(wrong_imports(FLOORS, [up, across, root]))) == 3


def test_no_circle_of_files():
    """Not even through several files, imports for type checkers aside."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path, _ in FILES}
    waiting = {}
    for path, source in FILES:
        own = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        waiting[own] = {name for name in runtime_imports(ast.parse(source), names) if name != own}
    while ready := [name for name, needs in waiting.items() if not needs & waiting.keys()]:
        for name in ready:
            del waiting[name]
    assert waiting == {}


def runtime_imports(tree, names):
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("detkit"):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in names else node.module
        yield from runtime_imports(node, names)
