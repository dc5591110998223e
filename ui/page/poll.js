// Asks every second which update groups have changed, and presses the hidden button of each; see ui/page/live.py.
() => {
  if (window.studioPoll) return;
  const EVERY = 1000, SOON = 200, TIMEOUT = 8000, TYPING = 1500; // milliseconds
  let known = [], timer = 0, polling = false, again = false, typed = -TYPING;
  const buttons = () => [...document.querySelectorAll('button.live-refresh')];
  // An open list would be filled anew, and what is just being typed replaced by what the app has got of it so far.
  const editing = () => performance.now() - typed < TYPING
    || !!document.activeElement?.matches('#run-setup [aria-expanded="true"]');
  document.addEventListener('input', () => { typed = performance.now(); }, true);
  const poll = async () => {
    clearTimeout(timer);
    if (polling) { again = true; return; }
    polling = true;
    let wait = EVERY;
    if (!document.hidden) try { // a hidden page catches up when it is shown again
      const answer = await fetch('/studio/poll', { cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT) });
      const versions = answer.ok ? await answer.json() : known, found = buttons();
      if (found.length < versions.length) wait = SOON; // the page is still being built
      else versions.forEach((version, group) => {
        if (version === known[group]) return;
        if (found[group].textContent.trim() === 'form' && editing()) return; // at the next poll
        known[group] = version;
        found[group].click();
      });
    } catch { /* the app is gone or busy: ui/page/heartbeat.js says so */ }
    polling = false;
    if (again) { again = false; return poll(); }
    timer = setTimeout(poll, wait);
  };
  window.studioPoll = poll;
  document.addEventListener('visibilitychange', poll);
  poll();
}
