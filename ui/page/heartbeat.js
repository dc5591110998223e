// The page tells when the app behind it is gone, and comes back by itself when it is started again.
() => {
  if (window.studioHeartbeat) return;
  window.studioHeartbeat = true;
  const EVERY = 5000, AGAIN = 2000, PATIENCE = 8000; // milliseconds
  let missed = 0, app = null;
  const box = document.createElement('div');
  box.id = 'app-gone';
  box.setAttribute('role', 'alert');
  box.hidden = true;
  document.body.append(box);
  const words = () => {
    const last = document.querySelector('#close-words h3')?.dataset || {}; // see ui/page/close_button.py
    const asked = window.studioClosing || last.closing === 'now';
    const saved = last.saved === 'perhaps' // the run waited for the disk, perhaps to the end
      ? 'What was saved is whole: the next start goes on from there.' : 'Everything is saved.';
    return asked
      ? ['ControlNet Studio is closed.', `${saved} You may close this tab.`]
      : ['The app does not answer.', 'It was closed or has ended, or the computer is very busy. What was saved is whole. ' +
        'Start it again: this page finds it by itself.'];
  };
  const show = () => {
    if (box.hidden) box.replaceChildren(...words().map((text, place) => {
      const line = document.createElement(place ? 'p' : 'h2');
      line.textContent = text;
      return line;
    }));
    box.hidden = false;
  };
  const look = async () => {
    try {
      const answer = await fetch('/gradio_api/app_id', { cache: 'no-store', signal: AbortSignal.timeout(PATIENCE) });
      if (!answer.ok) throw new Error(answer.status);
      const now = (await answer.json()).app_id;
      if (app !== null && now !== app) return location.reload(); // another start of the app: nothing here is its own
      app = now;
      missed = 0;
      box.hidden = true;
    } catch {
      missed += 1;
      if (missed > 1) show();
    }
    setTimeout(look, missed ? AGAIN : EVERY);
  };
  look();
}
