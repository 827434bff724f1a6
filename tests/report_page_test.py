"""A report's page in a real browser: what a reader sees, wide and on a phone, light and dark."""

import json
import shutil

import pytest

from harmony_jax.reporting import report
from tests.reports import record

BROWSER = shutil.which('chromium') or shutil.which('chromium-browser')
DRIVER = shutil.which('chromedriver')
pytestmark = pytest.mark.skipif(
  not (BROWSER and DRIVER), reason='no chromium and chromedriver here'
)
FLAGS = 'headless no-sandbox disable-gpu disable-quic no-first-run disable-sync'.split()
FLAGS += ['disable-background-networking', 'disable-component-update']

# Every element with text of its own: [what it is, its text, its colour, its background's colour,
# size of a letter on the screen in pixels]. SVG text has its fill, and is scaled with the figure.
TEXTS = """
const parse = text => (text.match(/[\\d.]+/g) || []).map(Number), found = [];
for (const element of document.querySelectorAll('body *')) {
  const nodes = [...element.childNodes].filter(node => node.nodeType === 3);
  const own = nodes.map(node => node.nodeValue).join('').trim();
  if (!own || !element.getClientRects().length || element.tagName === 'CAPTION') continue;
  const style = getComputedStyle(element), svg = element.ownerSVGElement;
  let at = element, back = [0, 0, 0, 0];
  while (at && back.length > 3 && back[3] === 0) {
    back = parse(getComputedStyle(at).backgroundColor); at = at.parentElement;
  }
  const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
  found.push([svg ? 'figure' : element.tagName, own, parse(svg ? style.fill : style.color), back,
              parseFloat(style.fontSize) * scale]);
}
return found;
"""
OUTSIDE = """return [...document.querySelectorAll("body *")].filter(each => !each.closest(".scroll")
  && !each.ownerSVGElement && each.getBoundingClientRect().right > innerWidth + 0.5)
  .map(each => each.outerHTML.slice(0, 80))"""
FIGURES = """return [...document.querySelectorAll("figure svg")].map(svg => [
  svg.getBoundingClientRect().width, svg.getBoundingClientRect().height,
  svg.querySelectorAll("path").length, !!svg.getAttribute("aria-label")])"""
HEADERS = """return [...document.querySelectorAll("table")].every(table => table.caption &&
  table.querySelectorAll("thead th[scope=col]").length === table.rows[0].cells.length &&
  [...table.tBodies[0].rows].every(row => row.cells[0].tagName === "TH"))"""
LINKS = """return [...document.querySelectorAll("nav a")].map(a => [a.textContent,
  document.querySelector(a.getAttribute("href"))?.textContent])"""


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  """(a browser that shows a report with every kind of part, the report)."""
  from selenium import webdriver

  folder = tmp_path_factory.mktemp('report')
  records = [
    record(f'dreamerv3-{rule}-cpu', task, seed, (-20.0, 5.0, 10.0 + seed))
    for rule in ('harmony', 'none')
    for task in ('Pong', 'Boxing')
    for seed in range(2)
  ]
  rates = {'suite': 'metaworld', 'task': 'push', 'score': 'success'}
  records += [record(seed=seed, values=(0.1, 0.4 + seed / 10), **rates) for seed in range(2)]
  name = 'a_task_with_a_very_long_name_that_does_not_end_so_soon'
  records.append(record(task=name, suite='dmc', complete=False, steps=9000))
  made = report.make(records, ['runs/x is damaged'], {'push': {'random': 0.05}})
  html = report.render(made, 'today', 'python -m experiments.report ' + 'runs/x ' * 30)
  (folder / 'index.html').write_text(html, encoding='utf-8')
  options = webdriver.ChromeOptions()
  options.binary_location = BROWSER
  for flag in (*FLAGS, f'user-data-dir={folder / "profile"}'):
    options.add_argument(f'--{flag}')
  options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
  browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
  try:
    browser.set_page_load_timeout(30)
    browser.get((folder / 'index.html').as_uri())
    yield browser, made
  finally:
    browser.quit()


def show(browser, width, scheme):
  """Takes a screen of that width with that colour scheme."""
  media = {'features': [{'name': 'prefers-color-scheme', 'value': scheme}]}
  screen = {'width': width, 'height': 800, 'deviceScaleFactor': 1, 'mobile': width < 500}
  browser.execute_cdp_cmd('Emulation.setEmulatedMedia', media)
  browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', screen)


def test_it_asks_for_nothing_else_and_all_of_it_is_there(page):
  browser, made = page
  requests = [json.loads(entry['message'])['message'] for entry in browser.get_log('performance')]
  sent = [each['params'] for each in requests if each['method'] == 'Network.requestWillBeSent']
  own = ('data:', 'chrome:', 'chrome-untrusted:')  # within the page; the browser's own first page
  urls = [each['request']['url'] for each in sent]
  assert [url for url in urls if not url.startswith(own)] == [browser.current_url]
  assert browser.get_log('browser') == []
  show(browser, 1280, 'light')
  found = browser.execute_script(FIGURES)
  assert len(found) == sum(len(figure.panels) for figure in made.figures()) > 15
  assert all(w > 200 and h > 40 and paths > 3 and alt for w, h, paths, alt in found)
  assert browser.execute_script(HEADERS)
  links = browser.execute_script(LINKS)
  assert len(links) > 8 and all(text == target for text, target in links)


@pytest.mark.parametrize('width', [360, 768, 1280])
def test_nothing_sticks_out_at_the_side(page, width):
  browser, _ = page
  show(browser, width, 'light')
  sizes = browser.execute_script('return [innerWidth, document.documentElement.scrollWidth]')
  assert sizes[1] <= sizes[0] == width and browser.execute_script(OUTSIDE) == []


def luminance(color):
  parts = [value / 255 for value in color[:3]]
  linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(color, background):
  """WCAG's ratio: 21 is black on white; 4.5 is asked for."""
  lighter, darker = sorted((luminance(color), luminance(background)), reverse=True)
  return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [360, 1280])
def test_text_can_be_read(page, width, scheme):
  browser, _ = page
  show(browser, width, scheme)
  assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)
  texts = browser.execute_script(TEXTS)
  kinds = [kind for kind, *_ in texts]
  assert kinds.count('figure') > 100 and kinds.count('P') > 10 and kinds.count('TD') > 50
  body = texts[0][3]
  assert (luminance(body) > 0.8) if scheme == 'light' else (luminance(body) < 0.05)
  for kind, text, color, background, size in texts:
    assert contrast(color, background) >= 4.5, (kind, text, color, background)
    assert size >= (8 if kind == 'figure' else 11), (kind, text, size)
