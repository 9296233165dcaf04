"""What makes `pip install` enough: a start-up hook, a hook specification, a plugin manager.

`mindformers_qwenvl_boot.pth` and `mindformers_qwenvl_boot.py` are installed at the top of site-packages. They call
`manager.load_plugins` as soon as `mindformers` has been imported. It loads every installed plugin: this package's own,
and those of other packages that declare an entry point in the group `mindformers.plugins`.

Environment: MINDFORMERS_PLUGINS (unset: all plugins, empty: none, else names separated by commas) and
MINDFORMERS_PLUGINS_STRICT=1 (a plugin that fails raises, instead of being left out with a warning).

- `hookspec`: the hook that a plugin implements.
- `manager`: finds, loads and calls the plugins.
- `mindformers_qwenvl_boot`: lets `import mindformers` load them.
"""
