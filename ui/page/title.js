// The page's title says how far the running job is, and how the last one ended; a notification tells that all is done.
// It asks by itself, also while the page is hidden, where poll.js rests. It hears numbers and words, no names.
() => {
  if (window.studioTitle) return;
  window.studioTitle = true;
  const EVERY = 3000, TIMEOUT = 8000, NAME = document.title || 'ControlNet Studio'; // milliseconds
  const KEY = 'studio-notify';
  let known = null, done = '';
  const allowed = () => 'Notification' in window && Notification.permission === 'granted';
  const wanted = () => allowed() && localStorage.getItem(KEY) === 'on';
  const tell = () => {
    for (const box of document.querySelectorAll('.queue-notify')) {
      const text = !('Notification' in window) || !window.isSecureContext
        ? 'This browser shows no notifications for this address. The title of the browser tab also tells you.'
        : Notification.permission === 'denied'
          ? 'The browser blocks notifications from this page. Allow them in its settings for this address.'
          : wanted() ? 'On: a notification appears while this page is in the background.' : '';
      const line = box.querySelector('span'), button = box.querySelector('button');
      const label = wanted() ? 'Turn notifications off' : 'Notify me when all jobs are done';
      if (line.textContent !== text) line.textContent = text;
      if (button.textContent !== label) button.textContent = label;
    }
  };
  window.studioNotify = async () => {
    if (wanted()) localStorage.setItem(KEY, 'off');
    else if ('Notification' in window && await Notification.requestPermission() === 'granted')
      localStorage.setItem(KEY, 'on');
    tell();
  };
  const look = async () => {
    try {
      const answer = await fetch('/studio/progress', { cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT) });
      if (answer.ok) {
        const now = await answer.json();
        if (now.running) done = '';
        if (known !== null && now.ended && now.ended !== known && (document.hidden || !document.hasFocus())) {
          done = now.words;
          if (wanted()) new Notification(NAME, { body: now.words, tag: KEY });
        }
        if (now.ended || known === null) known = now.ended;
        const percent = now.percent === null ? '' : `(${now.percent} %) `;
        document.title = done ? `${done} · ${NAME}` : `${percent}${NAME}`;
      }
    } catch { /* the app is gone or busy: heartbeat.js says so */ }
    tell();
    setTimeout(look, EVERY);
  };
  addEventListener('focus', () => { done = ''; });
  look();
}
