"""The demo in a browser: every tab is used on the shipped weights, its pictures change, and the console stays empty."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    *(pytest.mark.skipif(find_spec(name) is None, reason=f"no {name}") for name in ("gradio", "playwright")),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (apt-get install chromium)"),
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),
]
PATIENCE = 180_000
"""Milliseconds that a picture may take on a busy machine."""
SQUEEZED = """[...document.querySelectorAll("label span, button, p")]
    .filter(part => part.offsetParent && part.innerText.length > 12 && part.getBoundingClientRect().width < 60)
    .map(part => part.innerText)"""
"""Visible texts of more than 12 letters in a column of less than 60 pixels."""


@pytest.fixture(scope="module")
def address():
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from experiments.demo.page import HEAD, page, theme
    from experiments.demo.studio import Studio

    blocks = page(Studio.open("shipped:shapes"))
    _, url, _ = blocks.launch(
        server_name="127.0.0.1", theme=theme(), head=HEAD, footer_links=[], prevent_thread_lock=True, quiet=True
    )
    yield url
    blocks.close()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, address):
    """width -> (page, what the console and the network complained about)."""
    pages = []

    def opened(width):
        page, complaints = browser.new_page(viewport={"width": width, "height": 900}), []
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda asked: None if asked.url.startswith((address, "data:", "blob:")) else complaints.append(asked.url),
        )
        page.goto(address)
        page.wait_for_selector("#draw-text", timeout=PATIENCE)
        pages.append(page)
        return page, complaints

    yield opened
    for page in pages:
        page.close()


def sources(page, name):
    return page.eval_on_selector_all(f"#shown-{name} .gallery-item img", "found => found.map(image => image.src)")


def drawn(page, button, name, count, before=()):
    """Press a button and wait for `count` pictures other than `before`, or for a message that says what is wrong."""
    page.click(f"#draw-{button}")
    page.wait_for_function(
        "([name, count, before]) => { const found = [...document.querySelectorAll(`#shown-${name} .gallery-item img`)]"
        ".map(image => image.src); return found.length === count && found.join() !== before"
        " || document.querySelector('.toast-body.error'); }",
        arg=[name, count, ",".join(before)],
        timeout=PATIENCE,
    )
    assert page.locator(".toast-body.error").all_inner_texts() == []
    return sources(page, name)


def paint(page):
    """A stroke over the middle of the picture, once the picture is there."""
    canvas = page.locator("#paint canvas").first
    canvas.wait_for(timeout=PATIENCE)
    page.wait_for_timeout(1500)  # It is laid out anew when its picture has arrived.
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(middle[0] - 30, middle[1] - 30)
    page.mouse.down()
    page.mouse.move(middle[0] + 30, middle[1] + 30, steps=8)
    page.mouse.up()
    page.wait_for_timeout(500)


def test_every_tab_draws(open_page):
    page, complaints = open_page(1280)
    first = drawn(page, "text", "text", 12)
    page.get_by_label("first seed").first.fill("7")
    assert set(drawn(page, "text", "text", 12, first)).isdisjoint(first)
    with page.expect_download(timeout=PATIENCE) as download:
        page.click("#download-text")
    assert download.value.suggested_filename == "pictures.zip"

    page.get_by_role("tab", name="Variations").click()
    assert len(set(drawn(page, "variations", "variations", 7))) == 7
    page.get_by_role("tab", name="Interpolation").click()
    assert len(set(drawn(page, "interpolation", "interpolation", 7))) == 7
    page.get_by_role("tab", name="Text diff").click()
    assert len(set(drawn(page, "diff", "diff", 5))) == 5

    page.get_by_role("tab", name="Inpainting").click()
    paint(page)
    assert len(set(drawn(page, "inpaint", "inpaint", 3))) == 3

    page.get_by_role("tab", name="Components of z_i").click()
    unmoved, still = drawn(page, "components", "components", 2)
    page.locator("#pc-1 input[type=number]").fill("4")
    again, moved = drawn(page, "components", "components", 2, [unmoved, still])
    assert again == unmoved and moved != still  # The same picture has the same address.
    assert complaints == []


def test_a_phone_sees_all_of_its_width(open_page):
    page, complaints = open_page(390)
    page.get_by_label("caption", exact=True).first.fill("a small green dragon")
    drawn(page, "text", "text", 12)
    page.get_by_text("The model does not know 'dragon'").first.wait_for(timeout=PATIENCE)
    for name in ("Variations", "Interpolation", "Text diff", "Inpainting", "Components of z_i"):
        if not page.get_by_role("tab", name=name).is_visible():
            page.locator(".overflow-menu > button").click()  # Where tabs do not fit, a menu holds them.
            page.locator(".overflow-dropdown button", has_text=name).click()
        else:
            page.get_by_role("tab", name=name).click()
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        assert page.evaluate(SQUEEZED) == [], name
    assert complaints == []
