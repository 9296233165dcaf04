"""The installed project with the real MindFormers, every case in a fresh process."""

from __future__ import annotations

import re
import textwrap
from importlib import metadata
from pathlib import Path

import pytest

from tests.support.installed import PROJECT, new_environment
from tests.support.ports import free_port

FOUND = """
from mindformers import MindFormerRegister
print("FOUND", MindFormerRegister.get_cls("models", "QwenVL").__name__)
"""
VERSION = metadata.version("mindformers")
GOOD = "def mindformers_register(): print('GOOD called')\n"


def code(text: str) -> tuple[str, str]:
    return "-c", textwrap.dedent(text)


def lines(done, word: str) -> list[str]:
    return [line for line in done.stdout.splitlines() if word in line]


def test_a_process_that_never_names_us(installed, tmp_path):
    """A submodule of the host first, isolated from user and environment, Python warnings as errors in our own code."""
    text = """
    from mindformers.tools.register import MindFormerRegister
    print("FOUND", MindFormerRegister.get_cls("models", "QwenVL").__module__)
    import mindformers_qwenvl, sys
    print("FROM", mindformers_qwenvl.__file__)
    """
    done = installed.run("-I", *code(text), cwd=tmp_path)
    assert lines(done, "FOUND") == ["FOUND mindformers_qwenvl.model.qwenvl"]
    assert lines(done, "FROM") == [f"FROM {installed.packages / 'mindformers_qwenvl' / '__init__.py'}"]


@pytest.mark.slow  # test_boot.py has it without MindFormers
def test_off_switch(installed, tmp_path):
    text = """
    from mindformers import MindFormerRegister
    import sys
    print("FOUND", MindFormerRegister.is_exist("models", "QwenVL"), "mindformers_qwenvl" in sys.modules)
    """
    assert lines(installed.run(*code(text), cwd=tmp_path, MINDFORMERS_PLUGINS=""), "FOUND") == ["FOUND False False"]


@pytest.mark.slow  # test_boot.py has it without MindFormers
@pytest.mark.parametrize(
    "first",
    [
        "from mindformers_qwenvl import QwenVL",
        "from mindformers_qwenvl.data.processor import QwenVLProcessor",
    ],
)
def test_our_package_before_mindformers(installed, tmp_path, first):
    name = first.split()[-1]
    text = f"""
    {first}
    from mindformers import MindFormerRegister
    kinds = [kind for kind, classes in MindFormerRegister.registry.items() if {name} in classes.values()]
    print("FOUND", *kinds)
    """
    kind = {"QwenVL": "models", "QwenVLProcessor": "processor"}[name]
    assert lines(installed.run(*code(text), cwd=tmp_path), "FOUND") == [f"FOUND {kind}"]


@pytest.mark.slow
def test_spawned_and_forked_processes(installed, tmp_path):
    """The parent does not import MindFormers: the spawned child starts anew, the forked one inherits the hook."""
    (tmp_path / "job.py").write_text(
        textwrap.dedent("""
        import multiprocessing, sys

        def child(kind):
            from mindformers import MindFormerRegister
            print("FOUND", kind, MindFormerRegister.get_cls("models", "QwenVL").__name__, flush=True)

        if __name__ == "__main__":
            jobs = [multiprocessing.get_context(kind).Process(target=child, args=(kind,)) for kind in ("fork", "spawn")]
            for job in jobs:
                job.start()
            for job in jobs:
                job.join()
            sys.exit(any(job.exitcode for job in jobs))
        """)
    )
    done = installed.run("job.py", cwd=tmp_path)
    assert sorted(lines(done, "FOUND")) == ["FOUND fork QwenVL", "FOUND spawn QwenVL"]


@pytest.mark.slow
def test_msrun_workers(installed, tmp_path):
    (tmp_path / "job.py").write_text(FOUND)
    launch = f"import sys; sys.executable = {str(installed.python)!r}; sys.argv[1:] = {{}}; "
    launch += "from mindspore.parallel.cluster.run import main; main()"
    options = [
        "--worker_num=2",
        "--local_worker_num=2",
        f"--master_port={free_port()}",
        "--join=True",
        "--log_dir=log",
    ]
    installed.run(
        "-c", launch.format([*options, "job.py"]), cwd=tmp_path, PATH=f"{installed.python.parent}:/usr/bin:/bin"
    )
    logs = [path.read_text() for path in sorted((tmp_path / "log").glob("worker_*.log"))]
    assert len(logs) == 2
    assert all("FOUND QwenVL" in log for log in logs)


def test_broken_plugins_only_warn(installed, tmp_path, add_plugin):
    """They fail at import and in the hook, would end the process, and have errors without a message; one package has a
    damaged list of entry points, and two plugins have our name. That of docs/plugins.md is a good one."""
    add_plugin("bad_import", "import no_such_module_at_all\n")
    add_plugin("bad_hook", "def mindformers_register(): raise RuntimeError('out of\\nluck')\n", version="7.7")
    add_plugin("a_exit", "import sys; sys.exit(7)\n")
    add_plugin("b_exit", "def mindformers_register(): raise SystemExit('bye')\n")
    add_plugin("c_odd", "class Odd(BaseException): pass\ndef mindformers_register(): raise Odd('odd')\n")
    silent = "class Silent(Exception):\n    def __str__(self): raise ValueError\n"
    add_plugin("d_silent", f"{silent}def mindformers_register(): raise Silent\n")
    add_plugin("qwenvl", GOOD.replace("GOOD", "NAMESAKE"))
    folder = add_plugin("z_good", GOOD)
    page = (PROJECT / "docs/plugins.md").read_text(encoding="utf-8")
    module, source = re.search(r"```python\n# (\w+)\.py\n(.*?)```", page, re.DOTALL).groups()
    (declared,) = re.findall(rf'^(\w+) = "{module}"$', page, re.MULTILINE)
    add_plugin(declared, source, module=module)
    damaged = folder / "damaged_dist-1.dist-info"
    damaged.mkdir()
    (damaged / "METADATA").write_text("Metadata-Version: 2.1\nName: damaged-dist\nVersion: 1\n")
    (damaged / "entry_points.txt").write_text("[mindformers.plugins]\nno equals sign\n")
    # `-W error` for warnings of plugins and of the hook; the host itself warns on import.
    text = "import warnings; import mindformers; warnings.simplefilter('error')" + FOUND
    text += "print('EXAMPLE', MindFormerRegister.is_exist('callback', 'MyCallback'))"
    done = installed.run(*code(text), cwd=tmp_path, PYTHONPATH=str(folder))
    assert lines(done, "FOUND") == ["FOUND QwenVL"]
    assert lines(done, "GOOD") == ["GOOD called"]
    assert lines(done, "EXAMPLE") == ["EXAMPLE True"]
    assert lines(done, "NAMESAKE") == ["NAMESAKE called"]
    (bad_import,) = lines(done, "plugin bad_import")
    (bad_hook,) = lines(done, "plugin bad_hook")
    assert " - WARNING - " in bad_import
    assert "no_such_module_at_all" in bad_import
    assert "bad_hook-dist 7.7" in bad_hook
    assert "RuntimeError: out of luck" in bad_hook
    assert "MINDFORMERS_PLUGINS" in bad_import
    for name, words in (
        ("a_exit", "SystemExit: 7"),
        ("b_exit", "SystemExit: bye"),
        ("c_odd", "Odd: odd"),
        ("d_silent", "Silent: (its message cannot be shown: ValueError)"),
    ):
        (line,) = lines(done, f"plugin {name} ")
        assert f"was not loaded: {words}" in line
    assert len(lines(done, "list of entry points cannot be read")) == 1
    (line,) = lines(done, "2 MindFormers plugins are named qwenvl")
    assert "qwenvl-dist 1.2 (qwenvl_module)" in line
    assert "(mindformers_qwenvl.registration)" in line


@pytest.fixture
def checkout(tmp_path):
    """`checkout(version)` -> `mindformers/` in the current folder, as beside run_mindformer.py, of that version by its
    words; its modules are those of the real one."""

    def make(version: str) -> Path:
        real = metadata.distribution("mindformers").locate_file("mindformers")
        source = (Path(real) / "__init__.py").read_text(encoding="utf-8")
        source = re.sub(r"^__version__ = .*$", "", source, flags=re.MULTILINE)
        folder = tmp_path / "mindformers"
        folder.mkdir()
        (folder / "__init__.py").write_text(f"__version__ = {version!r}\n__path__.append({str(real)!r})\n{source}")
        return folder

    return make


@pytest.mark.slow
def test_a_checkout_of_another_version_is_named(installed, tmp_path, checkout):
    folder = checkout("9.0.1")
    done = installed.run("-c", f"import mindformers{FOUND}", cwd=tmp_path)
    assert lines(done, "FOUND") == ["FOUND QwenVL"]
    (line,) = lines(done, "hides the installed")
    assert f"finds {folder}, version 9.0.1, which hides the installed MindFormers {VERSION} in" in line


@pytest.mark.slow
def test_a_checkout_of_the_same_version_is_not(installed, tmp_path, checkout):
    checkout(VERSION)
    done = installed.run("-c", f"import mindformers{FOUND}", cwd=tmp_path)
    assert lines(done, "FOUND") == ["FOUND QwenVL"]
    assert lines(done, "hides the installed") == []


@pytest.mark.slow
def test_a_host_that_is_too_old_is_one_sentence(installed, tmp_path, checkout):
    checkout("1.6.0")
    text = "from mindformers import MindFormerRegister; print('FOUND', MindFormerRegister.is_exist('models', 'QwenVL'))"
    done = installed.run("-c", text, cwd=tmp_path)
    assert lines(done, "FOUND") == ["FOUND False"]
    (line,) = lines(done, "plugin qwenvl")
    assert "was not loaded: HostError: MindFormers 1.7 or later" in line
    assert "MindFormers 1.6.0" in line


@pytest.mark.slow  # test_manager.py and test_boot.py have it without MindFormers
def test_strict(installed, tmp_path, add_plugin):
    folder = add_plugin("bad", "def mindformers_register(): raise RuntimeError('out of luck')\n")
    done = installed.run(
        "-c", "import mindformers", cwd=tmp_path, check=False, PYTHONPATH=str(folder), MINDFORMERS_PLUGINS_STRICT="1"
    )
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("RuntimeError: out of luck")


def test_command_plugins(installed, tmp_path, add_plugin):
    add_plugin("bad", "import no_such_module_at_all\n")
    folder = add_plugin("good", GOOD)
    done = installed.run(
        "-m", "mindformers_qwenvl", "plugins", cwd=tmp_path, PYTHONPATH=str(folder), MINDFORMERS_PLUGINS="bad,qwenvl"
    )
    table = done.stdout[done.stdout.index("NAME") :].splitlines()
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in table[1:]}
    assert rows["bad"] == "bad-dist 1.2 broken ModuleNotFoundError: No module named 'no_such_module_at_all'"
    assert rows["good"] == "good-dist 1.2 off not in MINDFORMERS_PLUGINS=bad,qwenvl"
    assert rows["qwenvl"].startswith("mindformers-qwenvl ")
    assert rows["qwenvl"].endswith(" loaded")


@pytest.mark.slow  # test_manager.py has every form of the list
def test_names_that_leave_us_out(installed, tmp_path, add_plugin):
    folder = add_plugin("good", GOOD)
    text = "from mindformers import MindFormerRegister; print('FOUND', MindFormerRegister.is_exist('models', 'QwenVL'))"
    done = installed.run("-c", text, cwd=tmp_path, PYTHONPATH=str(folder), MINDFORMERS_PLUGINS="good")
    assert lines(done, "GOOD") == ["GOOD called"]
    assert lines(done, "FOUND") == ["FOUND False"]


@pytest.mark.slow
def test_a_target_folder_needs_an_explicit_import(tmp_path, wheel):
    """`pip install --target`: Python reads no `.pth` there."""
    environment = new_environment(tmp_path / "env")
    environment.pip("install", "--no-deps", "--no-index", "--target", str(tmp_path / "target"), str(wheel))
    text = "import mindformers_qwenvl_boot" + FOUND
    done = environment.run(*code(text), cwd=tmp_path, PYTHONPATH=str(tmp_path / "target"))
    assert lines(done, "FOUND") == ["FOUND QwenVL"]


@pytest.mark.slow
def test_editable_install_and_uninstall(tmp_path):
    environment = new_environment(tmp_path / "env")
    before = environment.files()
    environment.pip("install", "--no-deps", "--no-index", "--no-build-isolation", "-e", str(PROJECT))
    text = "import mindformers_qwenvl; print('FROM', mindformers_qwenvl.__file__)"
    done = environment.run(*code(FOUND + text), cwd=tmp_path)
    assert lines(done, "FOUND") == ["FOUND QwenVL"]
    assert lines(done, "FROM") == [f"FROM {PROJECT / 'mindformers_qwenvl' / '__init__.py'}"]
    environment.pip("uninstall", "-y", "mindformers-qwenvl")
    assert environment.files() == before


def test_uninstall_leaves_nothing_behind(tmp_path, wheel):
    environment = new_environment(tmp_path / "env")
    before = environment.files()
    environment.pip("install", "--no-deps", "--no-index", str(wheel))
    environment.run("-c", "import mindformers_qwenvl.discovery.manager", cwd=tmp_path)  # writes compiled files
    environment.pip("uninstall", "-y", "mindformers-qwenvl")
    assert environment.files() == before
    assert not list(environment.packages.glob("**/*qwenvl*"))
    done = environment.run("-c", "import sys; print(sys.meta_path)", cwd=tmp_path)
    assert done.stderr == ""
    assert "PluginHook" not in done.stdout
