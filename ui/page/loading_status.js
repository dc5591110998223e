// Drops the loading status of inputs: while a job runs, the page then takes a third of the processor time
// (docs/performance.md). gradio 6.31 keeps a status of every component that was ever the input of an event, over a
// hundred after one change of a setting, and searches the whole page for each of them at the start and end of every
// event. Only outputs show a status here. The class belongs to a module, which is reached by importing it again. Where a
// later gradio has no such class, nothing is changed.
() => {
  const names = new Set([
    ...performance.getEntriesByType('resource').map((entry) => entry.name),
    ...[...document.querySelectorAll('link[rel="modulepreload"]')].map((link) => link.href),
  ]);
  for (const name of names) {
    if (!/\/assets\/statustracker-[^/]*\.js$/.test(name)) continue;
    import(name).then((module) => {
      for (const found of Object.values(module)) {
        const own = found?.prototype, resolve = own?.resolve_args;
        if (typeof resolve !== 'function' || own.studioOutputsOnly) continue;
        own.studioOutputsOnly = true;
        own.resolve_args = function (status) {
          this.fn_inputs[status.fn_index] = [];
          return resolve.call(this, status);
        };
      }
    }).catch(() => {}); // another file by that name; the page works without this
  }
}
