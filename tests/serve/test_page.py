"""The page in headless Chromium, before the real server with a network that has learnt to box things.

With MINDFORMERS_QWENVL_SCREENSHOTS=1 the pictures of docs/pictures are made anew.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from mindformers_qwenvl.grounding import parse
from tests.support.browser import GIVE, chromium, playwright
from tests.support.relay import relay
from tests.support.served import held, running
from tests.support.waiting import PATIENCE, wait_until
from tests.support.web import PATIENT

SCREENSHOTS = (
    Path(__file__).parents[2] / "docs" / "pictures" if os.environ.get("MINDFORMERS_QWENVL_SCREENSHOTS") else None
)
WORDS = "a red circle and 方块"  # the answer, without its tags
ANSWERED = "!document.querySelector('.writing') && document.querySelector('#stop').hidden"
HALF = 8  # tokens: some of the words, and not all
WRITING = "document.querySelector('.writing')?.textContent.length > 3"


@pytest.fixture(scope="session", autouse=True)
def _needs_a_browser():
    """For the whole session, so that it comes first: without a browser, nothing needs to be taught or compiled."""
    playwright()


@pytest.fixture(scope="module")
def browser():
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def served(taught, service):
    """The server behind a relay."""
    from mindformers_qwenvl.generation.settings import settings_for
    from tests.support.taught import weights_in

    engine, prompts, config = service.engine, service.prompts, service.config
    with pytest.MonkeyPatch.context() as patch, weights_in(engine.network, taught.directory):
        patch.setattr(service, "config", settings_for(engine.network, config, do_sample=False))
        policy = replace(prompts.transform.policy, allow_private=("127.0.0.1",), **PATIENT)  # the test's own
        patch.setattr(prompts, "transform", replace(prompts.transform, policy=policy))
        with running(service, page=True) as address, relay(int(address.rpartition(":")[2])) as made:
            yield made


@pytest.fixture
def page(browser, served):
    """The page in a browser that has never seen it. No script may have failed in it, and its policy must have held."""
    context = browser.new_context(locale="en-GB", viewport={"width": 1000, "height": 800}, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=served.address)
    context.set_default_timeout(1000 * PATIENCE)
    made = context.new_page()
    complaints: list[str] = []
    made.on("pageerror", lambda error: complaints.append(str(error)))
    made.on("console", lambda message: message.type == "error" and complaints.append(message.text))  # policy, too
    made.goto(served.address)
    wait(made, "document.querySelector('#model').options.length > 0")
    yield made
    context.close()
    assert [text for text in complaints if not text.startswith("Failed to load resource")] == []


def wait(page, condition):
    """Until a JavaScript expression is true. (The driver's own way needs `eval`, which the page's policy forbids.)"""
    wait_until(lambda: page.evaluate(condition))


def attach(page, *files):
    page.set_input_files("#file", files)
    wait(page, f"document.querySelectorAll('#attached figure').length === {len(files)}")


def ask(page, text, until_answered=True):
    page.fill("#question", text)
    page.keyboard.press("Enter")
    if until_answered:
        page.wait_for_selector("article.user >> nth=-1")
        wait(page, ANSWERED)


def asked_bodies(page):
    """The bodies of requests for answers, as they are sent from now on."""
    bodies = []
    page.on("request", lambda one: "/chat/" in one.url and bodies.append(json.loads(one.post_data)))
    return bodies


def shot(page, name, **size):
    if SCREENSHOTS:
        SCREENSHOTS.mkdir(exist_ok=True)
        page.mouse.move(0, 0)
        page.set_viewport_size(size)
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(300)
        page.screenshot(path=SCREENSHOTS / name)


def boxes_of(page):
    """The boxes that the last answer shows: x1, y1, x2, y2 in pixels of the picture."""
    numbers = page.eval_on_selector_all(
        "article:last-of-type rect.frame",
        "all => all.map(one => ['x', 'y', 'width', 'height'].map(name => Number(one.getAttribute(name))))",
    )
    return [(x, y, x + width, y + height) for x, y, width, height in numbers]


def test_upload_ask_and_boxes(page, service, taught, tmp_path):
    attach(page, taught.picture)
    bodies = asked_bodies(page)
    with held(service.engine, after=HALF):
        ask(page, taught.question, until_answered=False)
        # It is shown while it comes, without half a tag; the button stops it now.
        wait(page, WRITING)
        partial = page.inner_text(".writing")
        assert WORDS.startswith(partial.rstrip()) and partial.rstrip() != WORDS
        assert page.is_visible("#stop") and not page.is_visible("#send")
    wait(page, ANSWERED)
    assert page.inner_text("article.assistant .words") == WORDS
    assert page.inner_text("article.user figcaption") == "Picture 1:"

    # What was sent: the bytes of the file.
    (picture, question) = bodies[0]["messages"][0]["content"]
    assert base64.b64decode(picture["image_url"]["url"].partition(",")[2]) == taught.picture.read_bytes()
    assert question["text"] == taught.question and bodies[0]["parse_boxes"] is True

    # Boxes, in pixels of the picture and on the screen.
    expected = [box.to_pixels(640, 400) for box in parse(taught.answer).boxes]
    assert boxes_of(page) == expected == [(64, 80, 256, 272), (352, 120, 576, 344)]
    image = page.locator("article.assistant img").bounding_box()
    scale = image["width"] / 640
    assert image["height"] / 400 == pytest.approx(scale, rel=0.01)
    for number, (x1, y1, x2, y2) in enumerate(expected):
        outline = page.locator("rect.frame").nth(number).bounding_box()
        found = [outline["x"] - image["x"], outline["y"] - image["y"], outline["width"], outline["height"]]
        assert found == pytest.approx([x1 * scale, y1 * scale, (x2 - x1) * scale, (y2 - y1) * scale], abs=4)
    assert page.eval_on_selector_all(".plate text", "all => all.map(one => one.textContent)") == [
        "a red circle",
        "方块",
    ]

    # A phrase lights its box, a box its phrase.
    page.hover("article.assistant mark >> nth=1")
    assert page.locator("g.box.lit title").all_text_contents() == ["方块"]
    assert page.inner_text("article.assistant .phrase") == "方块"
    page.hover("rect.frame >> nth=0")
    assert page.locator("mark.lit").all_inner_texts() == ["a red circle"]
    spoken = page.get_attribute(".drawn svg", "aria-label")
    assert "a red circle from (64, 80) to (256, 272)" in spoken and "方块" in spoken

    # The picture with its boxes, as a file and in the clipboard, in its own size.
    with page.expect_download() as download:
        page.click("[data-action=savePicture]")
    assert download.value.suggested_filename == "scene_boxes.png"
    drawn = Image.open(download.value.path()).convert("RGB")
    assert drawn.size == (640, 400)
    assert drawn.getpixel((64, 200)) == drawn.getpixel((256, 200)) == (0xC2, 0x18, 0x5B)
    assert drawn.getpixel((352, 250)) == (0x15, 0x65, 0xC0)
    assert drawn.getpixel((300, 100)) == Image.open(taught.picture).getpixel((300, 100))
    page.click("[data-action=copyPicture]")
    page.wait_for_selector("[data-notice=copied]")
    assert page.evaluate("navigator.clipboard.read().then(([item]) => item.types)") == ["image/png"]

    # The conversation, as JSON and as text.
    with page.expect_download() as download:
        page.click("#download")
    saved = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert [message["role"] for message in saved["messages"]] == ["user", "assistant"]
    assert saved["messages"][1]["content"] == taught.answer and len(saved["messages"][1]["boxes"]) == 2
    page.click("#copy")
    text = f"You:\nPicture 1: scene.png\n{taught.question}\n\nbase:\n{taught.answer}"
    wait(page, f"navigator.clipboard.readText().then(found => found === {json.dumps(text)})")
    page.click("[data-action=close]")
    shot(page, "page_en.png", width=1000, height=1060)

    # It is still there when the page is loaded anew.
    page.reload()
    page.wait_for_selector("rect.frame")
    assert boxes_of(page) == expected and page.inner_text("article.assistant .words") == WORDS


def test_pictures_by_drop_paste_and_address(page, taught, web):
    name, data = "scene.png", taught.picture.read_bytes()
    wide = io.BytesIO()
    Image.new("RGB", (60, 20), "navy").save(wide, "PNG")
    encoded = [base64.b64encode(raw).decode() for raw in (data, wide.getvalue())]
    page.evaluate(GIVE, ["drop", [[name, "image/png", encoded[0]]], ""])
    page.evaluate(GIVE, ["paste", [["pasted.png", "image/png", encoded[1]]], ""])
    page.wait_for_selector("#attached figure >> nth=1")
    address = web.page("/pictures/dog%20one.png", data)
    page.evaluate(GIVE, ["drop", [], address])
    page.wait_for_selector("#attached figure >> nth=2")
    page.click("#address-button")
    page.fill("#address", "file:///etc/passwd")
    page.keyboard.press("Enter")
    assert "begins with http" in page.inner_text("#address-problem")
    page.fill("#address", address)
    page.keyboard.press("Enter")
    page.wait_for_selector("#attached figure >> nth=3")
    assert page.locator("#attached figcaption").all_inner_texts() == [f"Picture {number}:" for number in (1, 2, 3, 4)]
    assert page.locator("#attached img").nth(3).get_attribute("alt") == "Picture 4, dog one.png"

    page.get_by_label("Remove picture 3").click()
    page.get_by_label("Remove picture 1").click()
    bodies = asked_bodies(page)
    ask(page, taught.question)
    *pictures, question = bodies[0]["messages"][0]["content"]
    sent = [base64.b64decode(picture["image_url"]["url"].partition(",")[2]) for picture in pictures]
    assert sent == [wide.getvalue(), data] and question["text"] == taught.question
    assert page.locator("article.user figcaption").all_inner_texts() == ["Picture 1:", "Picture 2:"]

    # The next question's picture is the third of the conversation, and boxes are on it.
    attach(page, taught.picture)
    assert page.inner_text("#attached figcaption") == "Picture 3:"


def test_files_that_are_no_pictures(page, tmp_path, web):
    (tmp_path / "letter.png").write_bytes(b"Dear all")
    page.set_input_files("#file", tmp_path / "letter.png")
    assert "letter.png" in page.inner_text("[data-notice=unreadable]")
    page.evaluate(GIVE, ["drop", [], web.url("/missing.png")])
    page.wait_for_selector("[data-notice=refused]")
    assert page.locator("#attached figure").count() == 0


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_turned_photograph_is_sent_upright(page, tmp_path, kind):
    """Phones store pictures on their side, with a note (EXIF) that says so; a browser shows them upright."""
    photograph = Image.new("RGB", (80, 40), "white")
    photograph.paste("red", (0, 0, 20, 40))
    for orientation in (1, 6):  # 6: to be turned by 90 degrees to the right
        note = Image.Exif()
        note[0x0112] = orientation
        photograph.save(tmp_path / str(orientation), kind, exif=note, quality=95)
    read = {"mimeType": f"image/{kind.lower()}"}
    page.set_input_files("#file", [{"name": n, **read, "buffer": (tmp_path / n).read_bytes()} for n in ("1", "6")])
    page.wait_for_selector("#attached figure >> nth=1")
    sources = page.eval_on_selector_all("#attached img", "all => all.map(one => one.src)")
    straight, turned = (base64.b64decode(source.partition(",")[2]) for source in sources)
    assert straight == (tmp_path / "1").read_bytes()
    upright = Image.open(io.BytesIO(turned))
    shown = page.eval_on_selector("#attached figure:last-child img", "one => [one.naturalWidth, one.naturalHeight]")
    assert upright.getexif().get(0x0112, 1) == 1 and list(upright.size) == shown
    if kind == "JPEG":  # browsers differ over the notes of the others, but what they show is what is sent
        assert upright.size == (40, 80)
        assert upright.convert("RGB").getpixel((20, 5))[1] < 60 < upright.convert("RGB").getpixel((20, 60))[1]


def test_stop_retry_edit_clear_and_undo(page, service, taught):
    attach(page, taught.picture)
    with held(service.engine, after=HALF):
        ask(page, taught.question, until_answered=False)
        wait(page, WRITING)
        page.click("#stop")
        wait(page, ANSWERED)
    answer = page.inner_text("article.assistant .words").rstrip()
    assert "Stopped." in page.inner_text("article.assistant .remark")
    assert WORDS.startswith(answer) and answer != WORDS

    page.click("article.assistant [data-action=retry]")
    wait(page, ANSWERED)
    assert page.inner_text("article.assistant .words") == WORDS

    page.click("article.user [data-action=edit]")
    assert page.input_value("#question") == taught.question and page.is_visible("#editing")
    page.keyboard.press("Escape")
    assert page.input_value("#question") == "" and not page.is_visible("#editing")
    page.click("article.user [data-action=edit]")
    bodies = asked_bodies(page)
    ask(page, f"{taught.question} ")
    assert page.locator("article").count() == 2 and len(bodies[0]["messages"]) == 1
    assert len(bodies[0]["messages"][0]["content"]) == 2  # with its picture

    page.click("#clear")
    assert page.locator("article").count() == 0 and page.is_visible(".empty")
    page.click("[data-notice=cleared] [data-action=undo]")
    assert page.inner_text("article.assistant .words") == WORDS


def test_a_refusal_is_shown_and_the_question_can_be_asked_again(page, taught):
    page.click("#settings-button")
    page.fill("#max_tokens", "0")
    page.click("#settings .main")
    assert page.is_visible("#settings")  # the browser points at the field
    page.fill("#max_tokens", "4")
    page.fill("#system", "word " * 600)  # more than the network reads
    page.click("#settings .main")
    bodies = asked_bodies(page)
    attach(page, taught.picture)
    ask(page, taught.question)
    page.wait_for_selector("[data-notice=refused]")
    assert bodies[0]["messages"][0] == {"role": "system", "content": "word " * 599 + "word"}
    assert "tokens" in page.inner_text("[data-notice=refused]")
    assert page.locator("article").count() == 1
    page.click("#settings-button")
    page.fill("#system", "")
    page.fill("#temperature", "0")
    page.click("#settings .main")
    page.click("article.user [data-action=retry]")
    wait(page, ANSWERED)
    page.wait_for_selector("article.assistant")
    assert "length limit" in page.inner_text("article.assistant .remark")
    assert page.locator("[data-notice=refused]").count() == 0
    assert bodies[-1]["max_tokens"] == 4 and bodies[-1]["temperature"] == 0
    assert [message["role"] for message in bodies[-1]["messages"]] == ["user"]
    assert "seed" not in bodies[-1] and "top_p" not in bodies[-1]


def test_the_server_is_gone_and_comes_back(page, served, service, taught):
    page.evaluate("document.getElementById('max_tokens').value = 12")  # the network has no room for long conversations
    attach(page, taught.picture)
    ask(page, taught.question)
    with held(service.engine, after=HALF):
        ask(page, "And now?", until_answered=False)
        wait(page, "document.querySelector('.writing')?.textContent")
        served.cut()
    page.wait_for_selector("[data-notice=gone]")
    assert page.get_attribute("#notices", "role") == "alert"
    ask(page, "Are you there?")
    words = page.locator("article").all_inner_texts()
    assert "a red circle" in words[1] and "broke off" in words[3] and "Are you there?" in words[4]
    assert page.locator("article").count() == 5
    served.restore()
    page.wait_for_selector("[data-notice=back]")
    page.reload()
    page.wait_for_selector("article >> nth=4")  # nothing was lost
    page.evaluate("document.getElementById('max_tokens').value = 2")
    page.click("article:last-of-type [data-action=retry]")
    page.wait_for_selector("article.assistant >> nth=2")
    wait(page, ANSWERED)
    assert page.locator("article").count() == 6


def test_hostile_words_are_shown_as_text(page):
    """What a model or a user writes never becomes a part of the page. The answer is made up: no network writes it."""
    hostile = '<img src=x onerror="document.title=1"><script>document.title=2</script><b>bold</b>'
    answer = f"{hostile}<ref>{hostile}</ref><box>(1,2),(3,4)</box>"
    chunk = {"choices": [{"index": 0, "delta": {"content": answer}, "finish_reason": "stop"}]}
    body = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    ask(page, hostile)
    assert page.inner_text("article.user .words") == hostile
    assert page.inner_text("article.assistant .words") == hostile * 2
    assert page.locator("main script, main b, main img").count() == 0 and page.title() == "Qwen-VL"


def test_keyboard_alone(page, service, taught):
    choosers = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"  # the question has the focus when the page opens
    page.keyboard.press("Enter")
    wait_until(lambda: page.evaluate("1") and choosers)
    choosers[0].set_files(taught.picture)
    page.wait_for_selector("#attached figure")
    wait(page, "document.activeElement.id === 'question'")
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert page.input_value("#question") == "one\ntwo"
    page.keyboard.press("Control+A")
    page.keyboard.type(taught.question)
    with held(service.engine, after=HALF):
        page.keyboard.press("Enter")
        wait(page, WRITING)
        page.keyboard.press("Escape")
        wait(page, ANSWERED)
    assert "Stopped." in page.inner_text("article.assistant .remark")
    page.click("article.assistant [data-action=retry]")
    wait(page, ANSWERED)
    assert page.inner_text("#spoken") == f"Answer: {WORDS}"
    page.focus("article.assistant mark >> nth=0")
    assert page.locator("g.box.lit title").all_text_contents() == ["a red circle"]
    page.keyboard.press("Tab")
    assert page.locator("g.box.lit title").all_text_contents() == ["方块"]
    # Every control has a name, and shows that it has the focus.
    names = page.eval_on_selector_all(
        "button, input:not([hidden]), textarea, select",
        "all => all.filter(one => !(one.innerText || one.getAttribute('aria-label') || one.labels?.[0]?.innerText"
        " || one.closest('dialog'))).map(one => one.outerHTML)",
    )
    assert names == []


def test_both_languages(page, taught):
    attach(page, taught.picture)
    ask(page, taught.question)
    page.click("#language")
    assert page.get_attribute("html", "lang") == "zh-CN" and page.inner_text("#send") == "发送"
    assert page.inner_text("article.user h2") == "我" and page.inner_text("#language") == "English"
    seen = page.evaluate("document.body.innerText")
    assert not re.search(r"\b(Send|Edit|Copy|Settings|Clear|tokens|You)\b", seen), seen
    shot(page, "page_zh.png", width=1000, height=1060)
    page.reload()
    page.wait_for_selector("article")
    assert page.inner_text("#send") == "发送" and len(boxes_of(page)) == 2
    page.click("#language")
    assert page.inner_text("#send") == "Send"


def test_on_a_telephone(page, taught):
    page.set_viewport_size({"width": 360, "height": 720})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    attach(page, taught.picture)
    ask(page, taught.question)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for control in ("#question", "#files", "#address-button", "#send"):
        box = page.locator(control).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360 and box["y"] + box["height"] <= 720
        assert box["height"] >= 40
    image = page.locator("article.assistant img").bounding_box()
    assert image["width"] <= 340 and image["height"] / image["width"] == pytest.approx(400 / 640, rel=0.02)
    page.click("#settings-button")
    box = page.locator("#settings").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360
    page.keyboard.press("Escape")
    shot(page, "phone.png", width=390, height=800)
