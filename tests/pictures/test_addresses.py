"""Pictures within a `data:` address. No MindSpore."""

from __future__ import annotations

import pytest

from mindformers_qwenvl.pictures.images import open_image
from mindformers_qwenvl.pictures.policy import ImageError, ImagePolicy, ImageRefusedError
from mindformers_qwenvl.pictures.sources import decode_data_uri
from tests.support.web import data_uri, picture

PNG = picture()


@pytest.mark.parametrize(
    "head", ["data:image/png;base64", "data:;base64", "DATA:image/jpeg;name=a.png;Base64", "data:text/html;base64"]
)
def test_data_addresses(head):
    assert decode_data_uri(data_uri(PNG, head)) == PNG
    assert open_image(data_uri(PNG, head), root="/nowhere").size == (20, 12)


def test_data_addresses_may_be_escaped_and_folded():
    uri = data_uri(PNG)
    folded = "\n ".join(uri[i : i + 76] for i in range(0, len(uri), 76)).replace("+", "%2B").replace("=", "%3D")
    assert decode_data_uri(folded) == PNG


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("data:", "expected data:image"),
        ("data:image/png;base64", "expected data:image"),
        ("data:image/png,%89PNG", "must be in base64"),
        ("data:image/png;base64x,AAAA", "must be in base64"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64,AAA", "damaged base64: Incorrect padding"),
        ("data:image/png;base64,AA*A", "damaged base64"),
        ("data:image/png;base64,ÄÖÜß", "damaged base64"),
        ("data:image/png;base64,aGVsbG8=", "unknown or damaged format"),
        (data_uri(PNG[: len(PNG) // 2]), "data:image/png;base64,.*broken"),
    ],
)
def test_damaged_data_addresses(uri, reason):
    with pytest.raises(ImageError, match=reason) as error:
        open_image(uri)
    assert len(str(error.value)) < 300


def test_data_addresses_are_limited_too():
    policy = ImagePolicy(max_bytes=1000)
    assert len(decode_data_uri(data_uri(bytes(1000)), policy)) == 1000
    for size in (1001, 10_000):
        with pytest.raises(ImageRefusedError, match="more than the 1000 bytes") as error:
            decode_data_uri(data_uri(bytes(size)), policy)
        assert error.value.rule == "max_bytes"
