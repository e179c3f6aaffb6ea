"""The slides of `make teaching` as a browser prints them."""

from tools import teaching

# Width and height of an A4 sheet without its margins, in pixels of CSS.
SHEET = {"width": 1062, "height": 733}
CUT_OFF = """() => [...document.querySelectorAll('section, section *:not(svg, svg *)')].filter(
    e => (e.tagName === 'SECTION' || getComputedStyle(e).overflow !== 'visible')
        && (e.scrollHeight > e.clientHeight || e.scrollWidth > e.clientWidth)
).map(e => `${e.tagName}: ${e.innerText.slice(0, 60)}`)"""


def test_a_printed_slide_cuts_nothing_off(browser):
    page = browser.new_page(viewport=SHEET)
    page.emulate_media(media="print")
    pages = teaching.pages(teaching.all_there_is_to_say())
    slides = {path.stem: text for path, text in pages.items() if path.stem.startswith("slides_")}
    assert slides
    cut_off = {}
    for name, text in slides.items():
        page.set_content(text)
        cut_off[name] = page.evaluate(CUT_OFF)
    page.close()
    assert not any(cut_off.values()), cut_off
