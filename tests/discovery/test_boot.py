"""The start-up hook by itself, with a `mindformers` of five lines in the place of the real one."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

HOST = """
import sys
events = getattr(sys, "events", None) or setattr(sys, "events", []) or sys.events
events.append("host begins")
import mindformers.inner
events.append("host ends")
"""
MANAGER = """
import sys
def load_plugins():
    sys.events.append("plugins")
    import mindformers_qwenvl.registration
"""
LOGGER = """
class logger:
    @classmethod
    def warning(cls, message, *values):
        print("LOG:", message % values)
"""
OURS = "import sys, mindformers\nsys.events.append('ours')\nclass Thing: pass\n"


@pytest.fixture
def run(installed, tmp_path):
    """Run code with the installed hook, a small host and a small plugin package; gives what it prints."""
    files = {
        "mindformers/__init__.py": HOST,
        "mindformers/inner.py": "",
        "mindformers/tools/__init__.py": "",
        "mindformers/tools/logger.py": LOGGER,
        "mindformers_qwenvl/__init__.py": "",
        "mindformers_qwenvl/config.py": OURS,
        "mindformers_qwenvl/pure.py": "",
        "mindformers_qwenvl/registration.py": "from mindformers_qwenvl.config import Thing\n",
        "mindformers_qwenvl/discovery/__init__.py": "",
        "mindformers_qwenvl/discovery/manager.py": MANAGER,
    }
    folder = tmp_path / "small"

    def write(name: str, source: str) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)

    for name, source in files.items():
        write(name, source)

    def run(code: str, *flags: str, check: bool = True, **env: str):
        return installed.run(
            *flags, "-c", textwrap.dedent(code), cwd=tmp_path, check=check, PYTHONPATH=str(folder), **env
        )

    run.write = write
    return run


def test_plugins_load_when_the_host_is_complete(run):
    out = run("import mindformers, sys; print(*sys.events, sep=',')").stdout
    assert out.strip() == "host begins,host ends,plugins,ours"


def test_a_submodule_first(run):
    out = run("import mindformers.inner, sys; print(*sys.events, sep=',')").stdout
    assert out.strip() == "host begins,host ends,plugins,ours"


def test_our_module_first_is_complete_before_it_is_registered(run):
    code = """
    from mindformers_qwenvl.config import Thing
    import sys, mindformers_qwenvl.registration as registration
    print(*sys.events, registration.Thing is Thing, sep=",")
    """
    assert run(code).stdout.strip() == "host begins,host ends,ours,plugins,True"


def test_a_pure_module_of_ours_does_not_import_the_host(run):
    assert run("import mindformers_qwenvl.pure, sys; print('mindformers' in sys.modules)").stdout.strip() == "False"


def test_nothing_is_imported_at_start(run):
    code = "import sys; print(*sys.modules)"
    assert "mindformers_qwenvl_boot" in run(code).stdout.split()
    assert not {"importlib.metadata", "pluggy", "mindformers_qwenvl", "__future__"} & set(run(code).stdout.split())


def test_off_switch(run):
    code = "import mindformers, sys; print(*sys.events, sys.meta_path, sep=',')"
    out = run(code, MINDFORMERS_PLUGINS="").stdout
    assert "plugins" not in out
    assert "PluginHook" not in out


def test_looking_for_the_host_does_not_use_the_hook_up(run):
    code = """
    import importlib.util, sys
    spec = importlib.util.find_spec("mindformers")
    print(type(spec.loader).__name__)
    import mindformers
    print(type(mindformers.__loader__).__name__, sys.events.count("plugins"))
    """
    assert run(code).stdout.split() == ["SourceFileLoader", "SourceFileLoader", "1"]


def test_reload_loads_nothing_again(run):
    code = "import importlib, mindformers, sys; importlib.reload(mindformers); print(sys.events.count('plugins'))"
    assert run(code).stdout.strip() == "1"


def test_a_host_that_fails_is_tried_again(run):
    run.write("mindformers/inner.py", "import sys\nif not hasattr(sys, 'again'): raise OSError('disk')\n")
    code = """
    import sys
    try:
        import mindformers
    except OSError as error:
        print(error)
    sys.again = True
    import mindformers
    print(sys.events.count("plugins"))
    """
    assert run(code).stdout.split() == ["disk", "1"]


def test_two_hooks_of_the_kind_get_along(run):
    code = """
    import sys, mindformers_qwenvl_boot as boot
    sys.meta_path.insert(0, boot.PluginHook())
    import mindformers
    print(sys.events.count("host begins"), sys.events.count("plugins"))
    """
    assert run(code).stdout.split() == ["1", "2"]  # each loads its own plugins, the host runs once


def test_arming_twice_changes_nothing(run):
    code = """
    import sys, mindformers_qwenvl_boot as boot
    boot.arm()
    print(sum(isinstance(finder, boot.PluginHook) for finder in sys.meta_path))
    """
    assert run(code).stdout.strip() == "1"


def test_an_explicit_import_where_python_reads_no_pth(run, installed):
    code = f"""
    import sys
    sys.path.append({str(installed.packages)!r})
    import mindformers, mindformers_qwenvl_boot
    print(*sys.events, sep=",")
    """
    assert run(code, "-S").stdout.strip() == "host begins,host ends,plugins,ours"


def test_broken_discovery_only_warns(run):
    run.write("mindformers_qwenvl/discovery/manager.py", "import no_such_module\n")
    done = run("import mindformers; print('host works')", "-W", "error")
    log, last = done.stdout.splitlines()
    assert last == "host works"
    for part in ("LOG:", "no_such_module", "MINDFORMERS_PLUGINS", "mindformers_qwenvl.discovery"):
        assert part in log


@pytest.mark.parametrize(
    ("raised", "words"), [("SystemExit(3)", "SystemExit: 3"), ("Odd()", "Odd: (its message cannot be shown)")]
)
def test_nothing_that_discovery_raises_ends_the_process(run, raised, words):
    odd = "class Odd(BaseException):\n    def __str__(self): raise ValueError\n"
    run.write("mindformers_qwenvl/discovery/manager.py", f"{odd}raise {raised}\n")
    log, last = run("import mindformers; print('host works')").stdout.splitlines()
    assert last == "host works"
    assert words in log


def test_a_host_without_a_log(run):
    run.write("mindformers/tools/logger.py", "raise ImportError('another host')\n")
    run.write("mindformers_qwenvl/discovery/manager.py", "import no_such_module\n")
    done = run("import mindformers; print('host works')")
    assert done.stdout.split("\n")[0] == "host works"
    assert "no_such_module" in done.stderr


def test_ctrl_c_ends_the_import(run):
    run.write("mindformers_qwenvl/discovery/manager.py", "raise KeyboardInterrupt\n")
    assert "KeyboardInterrupt" in run("import mindformers", check=False).stderr


def test_broken_discovery_raises_when_strict(run):
    run.write("mindformers_qwenvl/discovery/manager.py", "import no_such_module\n")
    code = """
    for _ in range(2):
        try:
            import mindformers
        except ModuleNotFoundError as error:
            print(error.name)
    """
    assert run(code, MINDFORMERS_PLUGINS_STRICT="1").stdout.split() == ["no_such_module"] * 2


def test_the_pth_is_one_readable_line(installed):
    text = (installed.packages / "mindformers_qwenvl_boot.pth").read_text()
    assert text.count("\n") == 1
    assert text.startswith("import mindformers_qwenvl_boot  # ")
    assert "MINDFORMERS_PLUGINS" in text


def test_record_lists_the_hook(installed):
    record = next(installed.packages.glob("mindformers_qwenvl-*.dist-info")) / "RECORD"
    names = {line.split(",")[0] for line in record.read_text().splitlines()}
    assert {"mindformers_qwenvl_boot.pth", "mindformers_qwenvl_boot.py"} <= names
    assert not any(name.startswith("mindformers_qwenvl/discovery/mindformers_qwenvl_boot") for name in names)


def test_the_yaml_files_are_in_the_wheel(installed):
    source = {path.name for path in (Path(__file__).parents[2] / "yaml").glob("*.yaml")}
    assert {path.name for path in (installed.packages / "mindformers_qwenvl" / "yaml").glob("*.yaml")} == source
