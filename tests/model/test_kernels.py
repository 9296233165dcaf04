"""Our own operators for decoding on a CPU against the plain cells, which are their specification."""

from __future__ import annotations

import os

import numpy as np
import pytest

from mindformers_qwenvl.model.ops.cpu import kernels

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="no kernels here: no C++ compiler, or switched off")
HEADS, SIZE, INNER, BLOCK, BLOCKS = 3, 10, 27, 4, 12
# One row takes another loop where a row of the matrix is shorter than a page: up to 1,023 or 2,047 numbers.
ROWS = [(1, 64, 40), (1, 7, 3), (1, 1030, 13), (1, 2053, 21), (2, 33, 5), (3, 40, 11), (4, 90, 16)]
ROWS += [(5, 77, 13), (6, 24, 8), (7, 21, 10), (8, 50, 9)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("rows", "width", "outputs"), ROWS)
def test_product_of_few_rows(rows, width, outputs, dtype):
    import mindspore as ms

    random = np.random.default_rng(rows)
    x = random.standard_normal((rows, 1, width), np.float32)
    w = ms.Tensor(random.standard_normal((outputs, width), np.float32)).astype(getattr(ms, dtype))
    got = kernels.LinearRows()(ms.Tensor(x), w).asnumpy()
    want = x @ w.astype(ms.float32).asnumpy().T
    assert got.shape == (rows, 1, outputs)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_product_of_what_is_not_finite():
    import mindspore as ms

    x, w = np.ones((3, 20), np.float32), np.ones((6, 20), np.float32)
    x[1, 19], w[2, 3], w[4, 18] = np.nan, np.inf, -np.inf
    got = kernels.LinearRows()(ms.Tensor(x), ms.Tensor(w)).asnumpy()
    np.testing.assert_array_equal(got, x @ w.T)


def layer_of(param_init_type: str, lora: dict | None = None, zero: bool = False):
    """A decoder layer of odd sizes, all of whose parameters are random."""
    import mindspore as ms

    from mindformers_qwenvl.adapters.network import add_adapters
    from mindformers_qwenvl.config import QwenConfig
    from mindformers_qwenvl.model.language import QwenDecoderLayer

    config = QwenConfig(
        hidden_size=HEADS * SIZE,
        num_heads=HEADS,
        kv_channels=SIZE,
        intermediate_size=INNER,
        num_layers=1,
        use_past=True,
        block_size=BLOCK,
        num_blocks=BLOCKS,
        compute_dtype="float32",
        param_init_type=param_init_type,
    )
    config.lora = lora
    layer = QwenDecoderLayer(config)
    add_adapters(layer, "llm_model.transformer.layers.0", config)
    layer.prepare_decoding(config)
    random = np.random.default_rng(7)
    for parameter in layer.get_parameters():
        value = random.standard_normal(parameter.shape, np.float32) * (1 if parameter.ndim == 1 else 0.3)
        parameter.set_data(ms.Tensor(value).astype(parameter.dtype))
    return layer.set_train(False)


def step(rows: int, scaled: bool):
    """Inputs of the layer: rows of different lengths in scattered blocks, one of them without a slot for its token."""
    import mindspore as ms

    random = np.random.default_rng(rows)
    x = random.standard_normal((rows, 1, HEADS * SIZE), np.float32)
    cos, sin = random.standard_normal((2, rows, 1, 1, SIZE), np.float32).repeat(HEADS, 2)  # the same for all heads
    log_n = ms.Tensor(random.uniform(1, 2, (rows, 1, 1, 1)).astype(np.float32)) if scaled else None
    lengths = random.integers(1, BLOCK + 1, rows).astype(np.int32)
    tables = np.full((rows, 2), -1, np.int32)
    tables[:, 0] = 1 + random.permutation(BLOCKS - 3)[:rows]  # -1 is read as 0, and masked
    if rows == 3:
        tables[0], lengths[0] = (10, 11), BLOCK + 2
    slots = (tables[np.arange(rows), (lengths - 1) // BLOCK] * BLOCK + (lengths - 1) % BLOCK).astype(np.int32)
    if rows > 1:
        slots[-1] = -1
    past = tuple(ms.Tensor(array) for array in (tables, slots, lengths))
    return x, (ms.Tensor(cos), ms.Tensor(sin), log_n), past


LORA = {
    "pet_type": "lora",
    "lora_rank": 3,
    "lora_alpha": 6,
    "target_modules": ["c_attn", "attn.c_proj", "w1", "mlp.c_proj"],
}


@pytest.mark.parametrize(
    ("rows", "param_init_type", "scaled", "lora"),
    [(1, "float32", False, None), (3, "float16", True, None), (8, "float32", True, None), (2, "float32", False, LORA)],
)
def test_decoder_layer(rows, param_init_type, scaled, lora):
    import mindspore as ms

    x, angles, past = step(rows, scaled)
    if rows == 8:
        x[5] = np.nan  # and no other row
    layers = [layer_of(param_init_type, lora) for _ in range(2)]
    layers[1].kernel = None
    got, want = (layer(ms.Tensor(x), angles, past).asnumpy() for layer in layers)
    assert layers[0].kernel is not None
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    spare = BLOCK * BLOCKS * HEADS  # where the plain form writes what belongs nowhere
    for name in ("key_cache", "value_cache"):
        ours, plain = (getattr(layer.attention.cache, name).asnumpy()[:spare] for layer in layers)
        np.testing.assert_allclose(ours, plain, rtol=2e-5, atol=2e-5)


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels.library.cache_clear()
    yield tmp_path / "mindformers-qwenvl"
    kernels.library.cache_clear()


def test_without_a_compiler(no_cache, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(kernels.NoKernels, match=r"no C\+\+ compiler \(no-such-compiler\)"):
        kernels.build()
    assert kernels.library() is None


def test_a_compiler_that_fails_leaves_nothing(no_cache, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(kernels.NoKernels, match="failed"):
        kernels.build()
    assert list(no_cache.iterdir()) == []


def test_a_wrong_result_is_not_kept(no_cache, tmp_path, monkeypatch):
    wrong = tmp_path / "wrong.cpp"
    wrong.write_text(
        kernels.SOURCE.read_text().replace("place = more ? place + scale * out : out;", "place = 2 * out;")
    )
    monkeypatch.setattr(kernels, "SOURCE", wrong)
    with pytest.raises(kernels.NoKernels, match="the check against numpy failed"):
        kernels.build()
    assert list(no_cache.iterdir()) == []


def test_a_cache_that_others_can_write_is_refused(no_cache):
    no_cache.mkdir()
    no_cache.chmod(0o777)
    with pytest.raises(kernels.NoKernels, match="can be written by others"):
        kernels.build()


def test_a_cache_that_is_a_link_is_refused(no_cache, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    no_cache.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(kernels.NoKernels, match="is a link"):
        kernels.build()


def test_the_switch(no_cache, monkeypatch):
    monkeypatch.setenv(kernels.SWITCH, "off")
    assert kernels.library() is None and not no_cache.exists()


def test_threads(monkeypatch):
    here = len(os.sched_getaffinity(0))
    for wanted, expected in (("1", 1), ("100000", here), ("", here), ("many", here)):
        monkeypatch.setenv("OMP_NUM_THREADS", wanted)
        assert kernels.threads() == expected
