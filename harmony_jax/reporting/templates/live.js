// Looks every two seconds whether there is a newer page, and puts in what is new of it; what stays
// the same stays the same element, so that a reader's place, open tables and running videos do.
const live = document.getElementById('live'), root = document.documentElement;
root.style.overflowAnchor = 'none';  // the place is kept in here

function turn(old, now) {
  if (old.isEqualNode(now)) return;
  if (old.nodeType !== 1 || old.nodeName !== now.nodeName || old.nodeName === 'svg')
    return void old.replaceWith(now);
  for (const {name} of [...old.attributes])
    if (!now.hasAttribute(name) && name !== 'open') old.removeAttribute(name);
  for (const {name, value} of now.attributes)
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const before = [...old.childNodes], after = [...now.childNodes];
  after.forEach((node, at) => at < before.length ? turn(before[at], node) : old.append(node));
  before.slice(after.length).forEach(node => node.remove());
}

function say(text, wrong) {
  if (live.textContent !== text) live.textContent = text;
  live.className = wrong ? 'warn' : '';
}

async function look() {
  try {
    const [state, made, error] = (await (await fetch('state')).text()).split('\n');
    if (state && state !== root.dataset.state) {
      const page = new DOMParser().parseFromString(await (await fetch('.')).text(), 'text/html');
      const place = [...document.querySelectorAll('h1, h2, h3, figure, tr')].find(
        each => each.getBoundingClientRect().bottom > 0);
      const top = place?.getBoundingClientRect().top;
      if (!document.querySelector('main')) return location.reload();  // the first page
      document.title = page.title;
      for (const part of ['header', 'main'])
        turn(document.querySelector(part), page.querySelector(part));
      if (place?.isConnected)
        scrollBy({top: place.getBoundingClientRect().top - top, behavior: 'instant'});
      root.dataset.state = page.documentElement.dataset.state;
    }
    const shown = made ? `shown is the state of ${made}` : 'nothing is shown yet';
    say(error ? `${error} (${shown}; it goes on looking)` : `Follows the runs: ${shown}`, error);
  } catch {
    say('The command that makes this page has ended, or cannot be reached: it stays as it is', true);
  }
  setTimeout(look, document.hidden ? 10000 : 2000);
}
look();
