"""Lets `import mindformers` load its plugins, which MindFormers itself does not look for.

Installed at the top of site-packages, next to `mindformers_qwenvl_boot.pth`, whose one line imports this file at every
start of Python. So it takes about 0.1 ms and imports nothing: all else waits until MindFormers has been imported.
With MINDFORMERS_PLUGINS set to the empty string it does nothing at all.

Where Python reads no `.pth` (`python -S`, `pip install --target`), `import mindformers_qwenvl_boot` does the same.
"""

import os
import sys

HOST = "mindformers"
OURS = "mindformers_qwenvl."


class PluginHook:
    """The first finder in `sys.meta_path`. It finds nothing itself: it wraps `exec_module` of the loader others find.

    Modules of this package count as well: one that is imported before MindFormers may import MindFormers half-way, and
    must be complete before it can be registered. So plugins are loaded when the outermost import has ended.
    """

    def __init__(self):
        self.depth = 0  # imports of MindFormers and of this package that are under way
        self.done = False  # a flag: leaving sys.meta_path during an import makes Python skip the next finder

    def find_spec(self, name, path=None, target=None):
        if self.done or not (name == HOST or name.startswith(OURS)):
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find else None
            if spec is not None:
                self.shadow(spec.loader)
                return spec
        return None

    def shadow(self, loader):
        """Have `loader.exec_module` call `load` after the outermost import. Set on the instance, to keep its type."""
        run = getattr(loader, "exec_module", None)
        if run is None:  # a namespace package, or an old-style loader
            return

        def exec_module(module):
            self.depth += 1
            try:
                run(module)
            finally:
                self.depth -= 1
            if self.depth == 0 and HOST in sys.modules and not self.done:
                self.load()

        loader.exec_module = exec_module

    def load(self):
        """Load the plugins. Unless MINDFORMERS_PLUGINS_STRICT=1, no failure breaks the import of MindFormers."""
        self.done = True
        try:
            from mindformers_qwenvl.discovery.manager import load_plugins

            load_plugins()
        except KeyboardInterrupt:
            self.done = False
            raise
        except BaseException as error:
            if os.environ.get("MINDFORMERS_PLUGINS_STRICT") == "1":
                self.done = False
                raise
            warn(
                "No MindFormers plugin was loaded, because mindformers_qwenvl.discovery failed: %s. Set "
                "MINDFORMERS_PLUGINS to an empty string to load none, or MINDFORMERS_PLUGINS_STRICT=1 to see the "
                "traceback.",
                error,
            )


def warn(message, error):
    """One line in MindFormers' log, or on standard error where there is no such log."""
    try:
        text = str(error)
    except BaseException:
        text = "(its message cannot be shown)"
    text = " ".join(f"{type(error).__name__}: {text}".split())
    try:
        from mindformers.tools.logger import logger

        logger.warning(message, text)
    except Exception:
        sys.stderr.write(f"WARNING - {message % text}\n")


def arm():
    """Put the hook in place; load at once if MindFormers is imported already. A second call changes nothing."""
    if os.environ.get("MINDFORMERS_PLUGINS") == "" or any(isinstance(finder, PluginHook) for finder in sys.meta_path):
        return
    hook = PluginHook()
    sys.meta_path.insert(0, hook)
    if HOST in sys.modules:
        hook.load()


arm()
