// Shows a banner while the app does not answer, and reloads the page once the app has been restarted.
// Not part of poll.js: polling reads the workspace, and a disk that hangs must not look like an app that is gone.
() => {
  if (window.studioHeartbeat) return;
  window.studioHeartbeat = true;
  const EVERY = 5000, RETRY = 2000, TIMEOUT = 8000; // milliseconds
  let missed = 0, app = null;
  const box = document.createElement('div');
  box.id = 'app-gone';
  box.setAttribute('role', 'alert');
  box.hidden = true;
  document.body.append(box);
  const message = () => {
    const last = document.querySelector('#close-words h3')?.dataset || {}; // see ui/page/close_button.py
    const asked = window.studioClosing || last.closing === 'now';
    const saved = last.saved === 'perhaps' // the run was waiting for the disk when the app closed
      ? 'Your last checkpoint is safe: the next start resumes from there.' : 'Everything is saved.';
    return asked
      ? ['ControlNet Studio is closed.', `${saved} You can close this browser tab.`]
      : ['The app does not answer.', 'It was closed, it crashed, or the computer is very busy. Everything up to the last ' +
        'checkpoint is saved. Start the app again and this page reconnects by itself.'];
  };
  const show = () => {
    if (box.hidden) box.replaceChildren(...message().map((text, place) => {
      const line = document.createElement(place ? 'p' : 'h2');
      line.textContent = text;
      return line;
    }));
    box.hidden = false;
  };
  const check = async () => {
    try {
      const answer = await fetch('/gradio_api/app_id', { cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT) });
      if (!answer.ok) throw new Error(answer.status);
      const now = (await answer.json()).app_id;
      if (app !== null && now !== app) return location.reload(); // the app was restarted: this page belongs to the old one
      app = now;
      missed = 0;
      box.hidden = true;
    } catch {
      missed += 1;
      if (missed > 1) show();
    }
    setTimeout(check, missed ? RETRY : EVERY);
  };
  check();
}
