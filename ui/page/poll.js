// Asks every second whether something has changed, and presses the button of what has; see ui/page/live.py.
() => {
  if (window.studioLook) return;
  const EVERY = 1000, SOON = 200, PATIENCE = 8000; // milliseconds
  let known = [], next = 0, looking = false, again = false;
  const buttons = () => [...document.querySelectorAll('button.beat')];
  const look = async () => {
    clearTimeout(next);
    if (looking) { again = true; return; }
    looking = true;
    let wait = EVERY;
    if (!document.hidden) try { // who does not look needs no news; they come when the page is shown again
      const answer = await fetch('/studio/beat', { cache: 'no-store', signal: AbortSignal.timeout(PATIENCE) });
      const beats = answer.ok ? await answer.json() : known, pressed = buttons();
      if (pressed.length < beats.length) wait = SOON; // the page is still being built
      else beats.forEach((beat, place) => {
        if (beat === known[place]) return;
        known[place] = beat;
        pressed[place].click();
      });
    } catch { /* the app is gone or busy: ui/page/heartbeat.js tells */ }
    looking = false;
    if (again) { again = false; return look(); }
    next = setTimeout(look, wait);
  };
  window.studioLook = look;
  document.addEventListener('visibilitychange', look);
  look();
}
