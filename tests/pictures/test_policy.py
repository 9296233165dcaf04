"""Addresses, folders, formats, and the policy's way from a YAML and back."""

from __future__ import annotations

import io
import os
import pickle
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mindformers_qwenvl.pictures.addresses import kind, real_address
from mindformers_qwenvl.pictures.images import ImageError, open_image
from mindformers_qwenvl.pictures.policy import ImagePolicy, ImageRefusedError
from tests.support.pictures import draw
from tests.support.web import picture

# ---- tightening

HOSTS = st.none() | st.lists(st.sampled_from(["a.example", "*.a.example", "b.a.example", "c.example"]), max_size=3)
PRIVATE = st.booleans() | st.lists(st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "127.0.0.1", "::1"]), max_size=3)
POLICIES = st.fixed_dictionaries(
    {},
    optional={
        "allow_hosts": HOSTS,
        "allow_private": PRIVATE,
        "allow_folders": st.none() | st.lists(st.sampled_from(["/tmp", "/tmp/a", "/"]), max_size=2),
        "allow_outside": st.booleans(),
        "formats": st.lists(st.sampled_from(["JPEG", "PNG", "EPS", "TIFF"]), min_size=1, max_size=3),
        "max_bytes": st.sampled_from([1, 10**6, 10**12]),
        "max_pixels": st.sampled_from([1, 10**6, 10**12]),
        "max_redirects": st.sampled_from([0, 9]),
        "total_timeout": st.sampled_from([0.5, 900.0]),
    },
)


def allows(check, *args) -> bool:
    try:
        check(*args)
    except ImageRefusedError:
        return False
    return True


@given(POLICIES, POLICIES)
def test_a_tightened_policy_allows_nothing_that_either_would_not(mine, theirs):
    mine, theirs = ImagePolicy.of(mine), ImagePolicy.of(theirs)
    both = mine.tightened(theirs)
    assert set(both.formats) <= set(mine.formats)
    for name in ("max_bytes", "max_pixels", "max_side", "max_redirects", "total_timeout"):
        assert getattr(both, name) == min(getattr(mine, name), getattr(theirs, name))
    for host in ("a.example", "b.a.example", "c.example", "d.example"):
        wanted = allows(mine.check_host, host, "x") and allows(theirs.check_host, host, "x")
        assert allows(both.check_host, host, "x") <= wanted
    for address in ("10.1.2.3", "10.2.2.3", "127.0.0.1", "::1", "8.8.8.8"):
        wanted = allows(mine.check_address, address, "h", "x") and allows(theirs.check_address, address, "h", "x")
        assert allows(both.check_address, address, "h", "x") == wanted
    for root in (None, "/tmp/a"):
        for path in ("/tmp/a/1.png", "/tmp/2.png", "/etc/3.png"):
            assert allows(both.check_path, Path(path), root, "x") <= allows(mine.check_path, Path(path), root, "x")


def test_the_default_tightened_by_itself_is_the_default():
    assert ImagePolicy().tightened(ImagePolicy()) == ImagePolicy()


# ---- addresses

INNER = [  # (network's first address, its prefix length)
    *(("0.0.0.0", 8), ("10.0.0.0", 8), ("100.64.0.0", 10), ("127.0.0.0", 8), ("169.254.0.0", 16), ("172.16.0.0", 12)),
    *(("192.168.0.0", 16), ("198.18.0.0", 15), ("224.0.0.0", 4), ("240.0.0.0", 4)),
]


@st.composite
def inner_addresses(draw):
    first, length = draw(st.sampled_from(INNER))
    return IPv4Address(int(IPv4Address(first)) + draw(st.integers(0, 2 ** (32 - length) - 1)))


@given(inner_addresses())
def test_every_address_of_an_inner_network_is_known(address):
    assert kind(address) is not None and real_address(address) == address


def carriers(address: IPv4Address) -> dict[str, IPv6Address]:
    """`address` in every form of IPv6 that leads to it."""
    number = int(address)
    return {
        "mapped": IPv6Address(f"::ffff:{address}"),
        "translated": IPv6Address(f"::ffff:0:{address}"),
        "nat64": IPv6Address(f"64:ff9b::{address}"),
        "6to4": IPv6Address(0x2002 << 112 | number << 80 | 0x1234),
        "isatap": IPv6Address(f"2400:1:2:3:0:5efe:{address}"),
        "isatap, global": IPv6Address(f"2400:1:2:3:200:5efe:{address}"),
    } | ({"compatible": IPv6Address(f"::{address}")} if number > 1 else {})


@given(st.one_of(st.ip_addresses(v=4), inner_addresses()))
def test_ipv4_inside_ipv6_is_judged_as_what_it_is(address):
    for form, carrier in carriers(address).items():
        assert kind(carrier) == kind(address), form
        assert real_address(carrier) == address, form


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_what_python_calls_not_global_is_refused(address):
    if not address.is_global and real_address(address) == address:
        assert kind(address) is not None


@given(st.ip_addresses(v=6))
def test_ipv6_that_is_not_given_out_is_refused(address):
    if int(address) >> 125 != 1 and real_address(address) == address:
        assert kind(address) is not None


@pytest.mark.parametrize(
    ("address", "what"),
    [
        *(("8.8.8.8", None), ("93.184.216.34", None), ("2606:4700::1111", None), ("64:ff9b::8.8.8.8", None)),
        *(("100.100.100.200", "shared"), ("169.254.169.254", "link-local"), ("192.0.0.8", "reserved")),
        *(("255.255.255.255", "reserved"), ("::", "unspecified"), ("::1", "loopback"), ("fe80::1%eth0", "link-local")),
        *(("fd12::1", "private"), ("fec0::1", "private"), ("ff02::1", "multicast"), ("64:ff9b:1::8.8.8.8", "private")),
        *(("2001:0:1:2::3", "reserved"), ("2001:db8::1", "documentation"), ("100::1", "reserved")),
        *(("fe80::5efe:8.8.8.8", "link-local"), ("2001::5efe:8.8.8.8", "reserved"), ("::2", "unspecified")),
    ],
)
def test_kinds(address, what):
    assert kind(address) is None if what is None else what in kind(address)


@given(st.one_of(st.ip_addresses(), inner_addresses()))
def test_a_policy_opens_what_it_names_and_no_more(address):
    def passes(**settings) -> bool:
        try:
            ImagePolicy(**settings).check_address(str(address), "host", "name")
        except ImageRefusedError as error:
            assert error.rule in ("", "allow_private")
            return False
        return True

    what = kind(address)
    never = what in ("unspecified", "multicast", "reserved")
    assert passes() == (what is None)
    assert passes(allow_private=True) == passes(allow_private=[str(address)]) == (not never)
    other = IPv4Address(int(real_address(address)) % 2**32 ^ 1)
    if other != real_address(address):
        assert passes(allow_private=[str(other)]) == (what is None)


# ---- folders


def test_paths_do_not_leave_the_folder(tmp_path):
    inside, outside = draw(tmp_path / "train" / "a.png"), draw(tmp_path / "other" / "b.png")
    root = tmp_path / "train"
    (root / "link.png").symlink_to(outside)
    (root / "folder").symlink_to(outside.parent)
    (root / "own.png").symlink_to(inside)
    (root / "x").mkdir()
    for source in ("a.png", "own.png", "x/../a.png", str(inside), inside.as_uri(), "../train/a.png"):
        assert open_image(source, root=root).size == (20, 12)
    leaving = ["../other/b.png", "x/../../other/b.png", str(outside), outside.as_uri(), "link.png", "folder/b.png"]
    for source in [*leaving, "../other/none.png", tmp_path / "trainer.png"]:
        with pytest.raises(ImageRefusedError, match=r"outside dataset_dir .*folders: .*outside: true") as error:
            open_image(source, root=root)
        assert error.value.rule == "allow_outside"
    for source in leaving:
        for policy in (ImagePolicy(allow_outside=True), ImagePolicy(allow_folders=[outside.parent])):
            assert open_image(source, root=root, policy=policy).size == (20, 12)
    assert open_image(str(outside)).size == (20, 12)  # without a folder, anywhere
    os.chdir(tmp_path)
    assert open_image("a.png", root="train").size == (20, 12)
    with pytest.raises(ImageRefusedError):
        open_image("../other/b.png", root="train")


def test_allow_folders_without_a_root(tmp_path):
    inside, outside = draw(tmp_path / "a" / "a.png"), draw(tmp_path / "ab" / "b.png")
    policy = ImagePolicy(allow_folders=[str(tmp_path / "a")])
    assert open_image(inside, policy=policy).size == (20, 12)
    with pytest.raises(ImageRefusedError, match=rf"not in an allowed folder; .*add '{outside.parent}'") as error:
        open_image(outside, policy=policy)
    assert error.value.rule == "allow_folders"
    with pytest.raises(ImageRefusedError, match="allowed are: none"):
        open_image(inside, policy=ImagePolicy(allow_folders=[]))
    both = ImagePolicy(allow_folders=[str(tmp_path / "a")], allow_outside=True)
    assert open_image(outside, root=outside.parent, policy=both).size == (20, 12)
    with pytest.raises(ImageRefusedError):
        open_image(draw(tmp_path / "c.png"), root=outside.parent, policy=both)


def test_paths_the_system_does_not_take(tmp_path):
    (tmp_path / "round.png").symlink_to(tmp_path / "round.png")
    for source in ("n" * 300 + ".png", "d/" * 3000 + "a.png"):
        with pytest.raises((ImageError, FileNotFoundError), match=r"image (n|d|.*/n|.*/d)"):
            open_image(source, root=tmp_path)
    with pytest.raises((ImageError, FileNotFoundError), match=r"round\.png"):
        open_image("round.png", root=tmp_path)


# ---- formats


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_five_formats_are_read(name):
    assert open_image(picture(name)).size == (20, 12)


@pytest.mark.parametrize(
    ("name", "what"), [("TIFF", "TIFF"), ("PPM", "PPM"), ("ICO", "ICO"), ("EPS", "EPS"), ("PDF", "PDF"), ("TGA", None)]
)
def test_other_formats_are_refused(tmp_path, name, what):
    (tmp_path / "a.png").write_bytes(picture(name))
    for source in (tmp_path / "a.png", picture(name)):
        with pytest.raises(ImageError, match=what or "unknown or damaged format") as error:
            open_image(source)
        if what:
            assert error.value.rule == "formats" and "convert it" in str(error.value)


@pytest.mark.parametrize(
    ("head", "what"),
    [
        *((b"8BPS\0\1", "PSD"), (b"\0\0\0\x0cjP  \r\n", "JPEG2000"), (b"\0\0\0\x20ftypavif", "AVIF")),
        *((b"\0\0\0\x18ftypheic", "HEIF"), (b"<?xml version='1.0'?><svg/>", "SVG"), (b"\n<HTML>", "HTML")),
    ],
)
def test_files_that_are_known_are_called_by_name(head, what):
    with pytest.raises(ImageRefusedError, match=rf"it is {what}.*, but only JPEG, PNG, WEBP, BMP, GIF are read"):
        open_image(head + bytes(100))


def test_a_format_can_be_allowed():
    with pytest.raises(ImageRefusedError, match=r"convert it, or add TIFF to image_policy: \{formats"):
        open_image(picture("TIFF"))
    assert open_image(picture("TIFF"), policy=ImagePolicy(formats=["tiff"])).size == (20, 12)
    with pytest.raises(ImageError, match="unknown or damaged"):
        open_image(picture("PNG"), policy=ImagePolicy(formats=["TIFF"]))


def test_the_first_frame_of_moving_pictures():
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "blue")]
    for name in ("GIF", "WEBP", "PNG"):
        buffer = io.BytesIO()
        options = {"lossless": True} if name == "WEBP" else {}
        frames[0].save(buffer, name, save_all=True, append_images=frames[1:], **options)
        assert open_image(buffer.getvalue()).getpixel((3, 3)) == (255, 0, 0)


# ---- settings


def test_policies_come_from_yaml_and_go_back():
    section = {"allow_hosts": ["*.example.com"], "allow_private": ["10.0.0.0/8"], "max_bytes": 5, "allow_outside": True}
    policy = ImagePolicy.of(section)
    assert policy.to_dict() == section and ImagePolicy.of(policy) is policy
    assert ImagePolicy.of(None) == ImagePolicy.of({}) == ImagePolicy() and ImagePolicy().to_dict() == {}
    assert pickle.loads(pickle.dumps(policy)) == policy and hash(policy)
    assert ImagePolicy(allow_hosts=[]) != ImagePolicy()


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"allow_host": ["a"]}, "unknown field allow_host; did you mean allow_hosts\\?; the fields are allow_hosts, "),
        ("public", "expected a section"),
        ({"allow_hosts": "a.test"}, "allow_hosts takes a list"),
        ({"allow_hosts": ["http://a.test/"]}, "allow_hosts takes names"),
        ({"allow_hosts": ["a.test:80"]}, "allow_hosts takes names"),
        ({"allow_private": "10.0.0.0/8"}, "allow_private takes a list"),
        ({"allow_private": ["10.0.0.1/8"]}, "allow_private takes networks like"),
        ({"allow_private": ["localhost"]}, "allow_private takes networks like"),
        ({"allow_folders": [3]}, "allow_folders takes a list"),
        ({"allow_outside": "yes"}, "allow_outside must be True or False"),
        ({"formats": "PNG"}, "formats takes a list"),
        ({"formats": None}, "formats takes a list"),
        ({"max_bytes": 0}, "max_bytes must be a whole number"),
        ({"max_pixels": 1.5}, "max_pixels must be a whole number"),
        ({"max_redirects": -1}, "max_redirects must be a whole number"),
        ({"total_timeout": 0}, "total_timeout must be a number above 0"),
        ({"read_timeout": float("inf")}, "read_timeout must be a number above 0"),
    ],
)
def test_settings_that_are_refused(section, reason):
    with pytest.raises(ValueError, match=f"image_policy: {reason}"):
        ImagePolicy.of(section)
